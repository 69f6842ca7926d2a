package ws_test

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/outboxrelay/outboxrelay/internal/testenv"
	"github.com/outboxrelay/outboxrelay/relay"
	"github.com/outboxrelay/outboxrelay/ws"
)

// Those who came back to a program after they had missed more than a page each read it from Postgres, one after the other: a thousand of them took
// more than 15 s.
func TestOldCursorsShareOneRead(t *testing.T) {
	t.Parallel()
	for name, recent := range map[string]int{"an empty buffer": 0, "a buffer with the newest": 10} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			clients := 60
			if testenv.Long() {
				clients = 300
			}
			const total, kept = 500, 50
			s := newStack(t)
			s.user("u1", "p1")
			s.relay()
			start := s.settled()
			s.exec("SELECT relay.emit('p1', 'request:created', json_build_object('n', n)) FROM generate_series(1, $1::int) n", total-recent)
			s.settled()
			n := s.node(func(c *ws.Config) { // of which Postgres must answer everything
				c.Log = logs{relay.NewHistory(relay.HistoryConfig{Redis: s.redis, Pool: s.pool, RecentTTL: time.Millisecond})}
				c.MaxPerUser, c.WakeInterval = clients+1, time.Hour
			})
			live := n.connect("u1")
			live.expect("ready", "live")
			s.emit("p1", total-recent+1, recent)
			live.expect(events("p1", total-recent+1, recent)...)
			s.settled()
			want := append(append([]string{"ready", "gap p1 limit"}, events("p1", total-kept+1, kept)...), "live")
			var all sync.WaitGroup
			for range clients {
				c := n.connect("u1", fmt.Sprintf(`"since":"%d"`, start))
				all.Go(func() {
					for _, want := range want {
						if f, err := c.read(); err != nil || f.String() != want {
							t.Errorf("got %v (%v), want %s", f, err, want)
							return
						}
					}
				})
			}
			all.Wait()
			if reads := n.metric("older_reads_total", ""); reads == 0 || reads > 5 {
				t.Errorf("%d clients caused %v reads", clients, reads)
			}
		})
	}
}

// Of more than a buffer holds, each page is read once for all who wait for it.
func TestOldCursorsShareEveryPage(t *testing.T) {
	t.Parallel()
	const clients, total, kept = 60, 2000, 1500
	s := newStack(t)
	s.user("u1", "p1")
	s.relay()
	start := s.settled()
	s.exec("SELECT relay.emit('p1', 'request:created', json_build_object('n', n)) FROM generate_series(1, $1::int) n", total)
	s.settled()
	n, proxy := s.frozen(func(c *ws.Config) { c.MaxPerUser, c.MaxCatchup, c.PingTimeout = clients+1, kept, time.Minute })
	warm := n.connect("u1")
	warm.expect("ready", "live")
	proxy.Blackhole(testenv.ToClient) // until all of them wait
	want := append(append([]string{"gap p1 limit"}, events("p1", total-kept+1, kept)...), "live")
	var all sync.WaitGroup
	for range clients {
		c := n.connect("u1", fmt.Sprintf(`"since":"%d"`, start))
		c.expect("ready")
		all.Go(func() {
			for _, want := range want {
				f, err := c.read()
				for err == nil && f.Type == "position" {
					f, err = c.read()
				}
				if err != nil || f.String() != want {
					t.Errorf("got %v (%v), want %s", f, err, want)
					return
				}
			}
		})
	}
	proxy.Resume()
	all.Wait()
	if reads := n.metric("older_reads_total", ""); reads > 5*(kept/64) {
		t.Errorf("%d clients caused %v reads", clients, reads)
	} else {
		t.Logf("%v reads", reads)
	}
}
