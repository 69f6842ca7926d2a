package ws

import (
	"fmt"
	"testing"
	"time"
)

// TestFloodPushesOutItself: with the oldest of all going, whoever opens connections fast enough pushes everybody else out before they
// have sent their token.
func TestFloodPushesOutItself(t *testing.T) {
	t.Parallel()
	const most = 100
	w := newWaiting(most)
	now := time.Now()
	arrive := func(addr string) (s, gone *socket) { // each a second after the one before
		now = now.Add(sendTime)
		s = &socket{addr: addr}
		w.add(s, now)
		gone, _ = w.surplus(now)
		return s, gone
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

// TestThoseWhoJustCameStay: thousands come back at once, and each needs a moment for its token. The oldest of them were turned away meanwhile, for good.
func TestThoseWhoJustCameStay(t *testing.T) {
	t.Parallel()
	w := newWaiting(1)
	began := time.Now()
	all := make([]*socket, 4)
	for i := range all {
		all[i] = &socket{addr: "192.0.2.1:1"}
		w.add(all[i], began.Add(time.Duration(i)*sendTime/10))
	}
	expect := func(after time.Duration, want *socket, wantLeft time.Duration) {
		t.Helper()
		if gone, left := w.surplus(began.Add(after)); gone != want || left != wantLeft {
			t.Errorf("after %v: gone %p, left %v; want %p and %v", after, gone, left, want, wantLeft)
		}
	}
	expect(sendTime*9/10, nil, sendTime/10)
	w.remove(all[0]) // has sent its token
	expect(sendTime, nil, sendTime/10)
	expect(sendTime*11/10, all[1], 0)
	expect(sendTime*11/10, nil, sendTime/10)
	expect(10*sendTime, all[2], 0)
	expect(10*sendTime, nil, 0) // no more than most
}

// TestWhoGivesWayToANewcomer where the process is full: the oldest of the greatest crowd, or of all; one that just came only if it belongs to a crowd
// and the newcomer doesn't.
func TestWhoGivesWayToANewcomer(t *testing.T) {
	t.Parallel()
	w := newWaiting(20) // more than two of an address are a crowd
	began := time.Now()
	add := func(addr string, after time.Duration) *socket {
		s := &socket{addr: addr}
		w.add(s, began.Add(after))
		return s
	}
	expect := func(newcomer string, after time.Duration, want *socket) {
		t.Helper()
		if gone := w.giveWay(newcomer, began.Add(after)); gone != want {
			t.Errorf("%s after %v: %p gave way, want %p", newcomer, after, gone, want)
		}
	}
	expect("192.0.2.1:1", 0, nil)
	honest := add("192.0.2.1:1", 0)
	expect("192.0.2.2:1", sendTime*9/10, nil)
	var flood []*socket
	for range 4 {
		flood = append(flood, add("192.0.2.9:1", sendTime))
	}
	expect("192.0.2.9:1", sendTime*3/2, nil)
	expect("192.0.2.1:1", sendTime*3/2, flood[0])
	expect("192.0.2.9:1", sendTime*2, flood[1])
	expect("192.0.2.9:1", sendTime*2, honest) // no crowd any more
	expect("192.0.2.9:1", sendTime*2, flood[2])
	expect("192.0.2.9:1", sendTime*2, flood[3])
	expect("192.0.2.9:1", sendTime*2, nil)
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
