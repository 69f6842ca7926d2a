package ws

import (
	"context"
	"strconv"
	"sync/atomic"
	"testing"
	"time"
)

// Each room is in one of the parts.
func TestEachRoomIsWokenOnceInARound(t *testing.T) {
	t.Parallel()
	for _, rooms := range []int{1, wakeParts, 10*wakeParts + 1} {
		h := &Hub{topics: newTopics(nil, nil), rooms: map[string]*room{}}
		spawn := func(func(context.Context)) {}
		h.spawn.Store(&spawn)
		var sockets []*socket
		for i := range 2 * rooms { // of which every other one goes
			sockets = append(sockets, &socket{})
			h.join(sockets[i], strconv.Itoa(i), 0)
		}
		for i := range sockets {
			if i%2 == 0 {
				h.leave(sockets[i], h.rooms[strconv.Itoa(i)])
			}
		}
		woken := map[*room]int{}
		for part := range wakeParts {
			h.wakePart(part)
			for _, r := range h.rooms {
				if len(r.wake) > 0 {
					<-r.wake
					woken[r]++
				}
			}
		}
		for _, r := range h.rooms {
			if woken[r] != 1 {
				t.Errorf("a room of %d was woken %d times", rooms, woken[r])
			}
		}
		if len(h.rooms) != rooms {
			t.Errorf("%d rooms, want %d", len(h.rooms), rooms)
		}
	}
}

func TestWorkIsDoneByThoseWhoHaveNothingToDo(t *testing.T) {
	t.Parallel()
	h := &Hub{idle: make(chan func(context.Context))}
	var started atomic.Int64
	ended := make(chan struct{}, 1000)
	spawn := func(f func(context.Context)) {
		started.Add(1)
		go func() {
			f(t.Context())
			ended <- struct{}{}
		}()
	}
	h.spawn.Store(&spawn)
	const times = 1000
	for range times {
		done := make(chan struct{})
		h.work(func(context.Context) { close(done) })
		<-done
	}
	n := started.Load() // one is on its way back while another one works
	if n > times/10 {
		t.Errorf("%d goroutines were started for %d pieces of work, one at a time", n, times)
	}
	for deadline := time.After(10 * time.Second); n > 0; n-- {
		for !h.dismiss() { // until the last has come back
			select {
			case <-deadline:
				t.Fatalf("%d goroutines are left", n)
			case <-time.After(time.Millisecond):
			}
		}
		<-ended
	}
}
