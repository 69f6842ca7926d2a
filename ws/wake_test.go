package ws_test

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/outboxrelay/outboxrelay/internal/testenv"
	"github.com/outboxrelay/outboxrelay/relay"
	"github.com/outboxrelay/outboxrelay/ws"
)

// census is a log that notes which programs are read, and counts the reads under way.
type census struct {
	ws.Log
	mu        sync.Mutex
	read      map[string]bool
	now, most int
}

func (l *census) After(ctx context.Context, program string, after int64, limit int) (ws.Page, error) {
	l.mu.Lock()
	l.read[program] = true
	l.now++
	l.most = max(l.most, l.now)
	l.mu.Unlock()
	defer func() {
		l.mu.Lock()
		l.now--
		l.mu.Unlock()
	}()
	return l.Log.After(ctx, program, after, limit)
}

// reset forgets what was counted.
func (l *census) reset() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.read, l.most = map[string]bool{}, 0
}

// All rooms were woken at the same moment: with ten thousand of them everything else stood still for half a second, every 5 s.
func TestRoomsAreNotReadAllAtOnce(t *testing.T) {
	t.Parallel()
	const rooms = 300
	s := newStack(t)
	s.user("u1")
	s.exec("INSERT INTO relay.program_members (user_id, program_id) SELECT 'u1', 'p' || n FROM generate_series(1, $1::int) n", rooms)
	s.relay()
	s.settled()
	l := &census{Log: logs{relay.NewHistory(relay.HistoryConfig{Redis: s.redis, Pool: s.pool})}, read: map[string]bool{}}
	n := s.node(func(c *ws.Config) { c.Log, c.WakeInterval = l, 2*time.Second })
	n.connect("u1").until("live")
	round := func() {
		l.reset()
		testenv.Eventually(t, 30*time.Second, func() error {
			l.mu.Lock()
			defer l.mu.Unlock()
			if len(l.read) < rooms {
				return fmt.Errorf("%d of %d rooms have been read", len(l.read), rooms)
			}
			return nil
		})
	}
	round() // and the subscriptions are confirmed
	round()
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.most > rooms/2 {
		t.Errorf("%d of %d rooms were read at the same time", l.most, rooms)
	}
}
