package ws

import (
	"fmt"
	"testing"
)

// TestFloodPushesOutItself: with the oldest of all going, whoever opens connections fast enough pushes everybody else out before they
// have sent their token.
func TestFloodPushesOutItself(t *testing.T) {
	t.Parallel()
	const most = 100
	w := newWaiting(most)
	arrive := func(addr string) (s, gone *socket) {
		s = &socket{addr: addr}
		return s, w.add(s)
	}
	var flood []*socket
	for i := range most {
		s, gone := arrive(fmt.Sprintf("[2001:db8::%x]:1", i)) // one /64
		if gone != nil {
			t.Fatalf("one of %d had to go", i+1)
		}
		flood = append(flood, s)
	}
	honest, gone := arrive("192.0.2.1:1")
	if gone != flood[0] {
		t.Error("the oldest wasn't the one to go")
	}
	for i := range 10 * most {
		s, gone := arrive("[2001:db8::ffff]:1")
		if flood = append(flood, s); gone != flood[1+i] {
			t.Fatal("a newcomer of the flood pushed out somebody else")
		}
	}
	second, gone := arrive("192.0.2.2:1") // the first honest one is the oldest of all now
	if honest.waiter == nil || gone == honest {
		t.Error("the honest one is gone")
	}
	w.remove(second)
	w.remove(honest)
	w.remove(honest) // once more changes nothing
	for _, s := range flood {
		w.remove(s)
	}
	if w.all.Len() != 0 || len(w.from) != 0 || len(w.crowds) != 0 {
		t.Errorf("%d sockets, %d networks are left", w.all.Len(), len(w.from))
	}
	// Many addresses, one socket each: the oldest goes.
	var last *socket
	for i := range most + 1 {
		s, gone := arrive(fmt.Sprintf("192.0.2.%d:1", i))
		if i == 0 {
			last = s
		}
		if (i == most) != (gone != nil) || gone != nil && gone != last {
			t.Errorf("after %d: %v had to go", i, gone)
		}
	}
}

func TestNetwork(t *testing.T) {
	t.Parallel()
	for addr, want := range map[string]string{
		"192.0.2.1:80": "192.0.2.1/32", "[::ffff:192.0.2.1]:80": "192.0.2.1/32", "[2001:db8:1:2:3::4]:0": "2001:db8:1:2::/64", "@": "invalid Prefix", "": "invalid Prefix",
	} {
		if got := network(addr).String(); got != want {
			t.Errorf("%q: %s, want %s", addr, got, want)
		}
	}
}
