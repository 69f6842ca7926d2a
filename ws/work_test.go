package ws

import (
	"context"
	"sync/atomic"
	"testing"
	"time"
)

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
