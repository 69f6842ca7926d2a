package ws_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/outboxrelay/outboxrelay/internal/testenv"
	"github.com/outboxrelay/outboxrelay/ws"
)

// A client connects while its user is removed from the program, a thousand times. Whichever comes first: what was committed after the
// removal never arrives, and who has been told of the program gets what was committed before, and `left`.
func TestJoinRacesRevocation(t *testing.T) {
	t.Parallel()
	const lanes = 8
	rounds := 96
	if testenv.Long() {
		rounds = 1000
	}
	s := newStack(t)
	for lane := range lanes {
		s.user(fmt.Sprintf("u%d", lane), "home")
	}
	s.relay()
	s.settled()
	n := s.node(func(c *ws.Config) { c.PingInterval, c.WakeInterval = 40*time.Millisecond, 40*time.Millisecond })
	var won, lost int
	var mu sync.Mutex
	var group sync.WaitGroup
	for lane := range lanes {
		group.Go(func() {
			for range rounds / lanes {
				told := n.joinAgainstRevocation(fmt.Sprintf("u%d", lane), fmt.Sprintf("p%d", lane))
				mu.Lock()
				if told {
					won++
				} else {
					lost++
				}
				mu.Unlock()
			}
		})
	}
	group.Wait()
	t.Logf("the client came first %d times, the removal %d times", won, lost)
	if won == 0 || lost == 0 {
		t.Errorf("no race: %d to %d", won, lost)
	}
}

// joinAgainstRevocation is one round. told: the client was told that it is a member.
func (n *node) joinAgainstRevocation(user, program string) (told bool) {
	n.join(user, program)
	start := n.relayed(program)
	n.emit(program, 1, 1)
	removed := make(chan struct{})
	go func() {
		defer close(removed)
		if rand.IntN(2) == 0 {
			n.exec("SELECT pg_sleep($1)", rand.Float64()*0.01)
		}
		n.kick(user, program)
		n.emit(program, 2, 1)
	}()
	c := n.connect(user, fmt.Sprintf(`"since":"%d"`, start))
	defer c.close()
	ready := c.next()
	<-removed
	end := n.relayed(program)
	var got, left bool
	for at := int64(0); at < end; {
		switch f := c.next(); f.Type {
		case "live", "position":
			at = f.position()
		case "left":
			left = true
			if f.ProgramID != program {
				n.t.Errorf("left %s", f.ProgramID)
			}
		case "event":
			if f.Data.N == 2 || left {
				n.t.Errorf("%s got %v, committed after its removal (left %v)", user, f, left)
			}
			got = true
		default:
			n.t.Errorf("%s got %v", user, f)
		}
	}
	if told = slices.Contains(ready.Programs, program); told != left || got && !told {
		n.t.Errorf("%s: told of its membership %v, left %v, got the event before %v", user, told, left, got)
	}
	return told
}

// relayed waits until the newest row of a program is in a tick, and returns that tick's position.
func (s *stack) relayed(program string) int64 {
	s.t.Helper()
	var position int64
	testenv.Eventually(s.t, 20*time.Second, func() error {
		return s.pool.QueryRow(context.Background(), `SELECT k.position FROM relay.ticks k, (SELECT xid FROM relay.outbox WHERE program_id = $1 ORDER BY id DESC LIMIT 1) o
			WHERE pg_visible_in_snapshot(o.xid, k.snapshot) ORDER BY k.position LIMIT 1`, program).Scan(&position)
	})
	return position
}
