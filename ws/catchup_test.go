package ws_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/outboxrelay/outboxrelay/internal/testenv"
	"github.com/outboxrelay/outboxrelay/relay"
	"github.com/outboxrelay/outboxrelay/ws"
)

// burst commits n events in one transaction, numbered as emit does.
func (s *stack) burst(program string, first, n int) {
	s.t.Helper()
	s.exec("SELECT relay.emit($1, 'request:created', json_build_object('n', n)) FROM generate_series($2::int, $2::int + $3::int - 1) n", program, first, n)
	s.settled()
}

// coming makes a user a member, or one no longer, in a batch of its own.
func (s *stack) coming(user, program string, in bool) {
	s.t.Helper()
	if in {
		s.join(user, program)
	} else {
		s.kick(user, program)
	}
	s.settled()
}

// Who came back read all that a program had been told while the user wasn't a member of it, twice: 20,000 events, none of them the user's, took 476
// reads and 5 s. No other program of the connection was sent anything meanwhile.
func TestWhatPassedWithoutTheMembershipIsNotRead(t *testing.T) {
	t.Parallel()
	many := 3000
	if testenv.Long() {
		many = 20_000
	}
	const limit = 20
	for _, c := range []struct {
		name string
		play func(s *stack)
		want []string // between ready and live
	}{
		{"in", func(s *stack) {
			s.burst("p1", 1000, many)
			s.coming("u1", "p1", true)
			s.burst("p1", 1, 3)
		}, events("p1", 1, 3)},
		{"in, with nothing since", func(s *stack) {
			s.burst("p1", 1000, many)
			s.coming("u1", "p1", true)
		}, nil},
		{"in, out, in", func(s *stack) {
			s.coming("u1", "p1", true)
			s.burst("p1", 1, 2)
			s.coming("u1", "p1", false)
			s.burst("p1", 1000, many)
			s.coming("u1", "p1", true)
			s.burst("p1", 3, 3)
		}, events("p1", 1, 5)},
		{"in and out without an event, in", func(s *stack) {
			for range 3 {
				s.coming("u1", "p1", true)
				s.coming("u1", "p1", false)
				s.burst("p1", 1000, many/3)
			}
			s.coming("u1", "p1", true)
			s.burst("p1", 1, 3)
		}, events("p1", 1, 3)},
		{"more than a catch-up sends", func(s *stack) {
			s.coming("u1", "p1", true)
			s.burst("p1", 1, 15)
			s.coming("u1", "p1", false)
			s.burst("p1", 1000, many)
			s.coming("u1", "p1", true)
			s.burst("p1", 16, 15)
		}, append([]string{"gap p1 limit"}, events("p1", 11, limit)...)},
		{"out, in and out in one batch", func(s *stack) {
			s.coming("u1", "p1", true)
			s.burst("p1", 1, 2)
			s.coming("u1", "p1", false)
			s.burst("p1", 1000, many)
			s.exec(`DO $$ BEGIN
				INSERT INTO relay.program_members VALUES ('u1', 'p1');
				DELETE FROM relay.program_members WHERE user_id = 'u1' AND program_id = 'p1';
				INSERT INTO relay.program_members VALUES ('u1', 'p1');
				PERFORM relay.emit('p1', 'request:created', '{"n":1000}');
			END $$`)
			s.settled()
			s.burst("p1", 5, 2)
		}, []string{"p1:1", "p1:2", "gap p1 membership", "p1:5", "p1:6"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			s := newStack(t)
			s.user("u1", "p2")
			s.relay()
			start := s.settled()
			c.play(s)
			for name, window := range map[string]time.Duration{"Redis": time.Hour, "Postgres": time.Millisecond} {
				n := s.node(func(c *ws.Config) {
					c.Log = logs{relay.NewHistory(relay.HistoryConfig{Redis: s.redis, Pool: s.pool, RecentTTL: window})}
					c.MaxCatchup = limit
				})
				var got []string
				for _, f := range n.connect("u1", fmt.Sprintf(`"since":"%d"`, start)).until("live") {
					got = append(got, f.String())
				}
				if want := slices.Concat([]string{"ready"}, c.want, []string{"live"}); !slices.Equal(got, want) {
					t.Errorf("from %s: got %v, want %v", name, got, want)
				}
				if reads := n.metric("older_reads_total", ""); reads > 15 {
					t.Errorf("from %s: %v reads below the buffer", name, reads)
				}
			}
		})
	}
}

// pausing is a log that answers questions for a program's older entries slowly, until it is let go.
type pausing struct {
	ws.Log
	program string
	asked   atomic.Int64
	goOn    chan struct{}
}

func (l *pausing) Before(ctx context.Context, program string, before, after int64, limit int) (ws.Page, error) {
	if program == l.program {
		l.asked.Add(1)
		select {
		case <-l.goOn:
		case <-time.After(time.Second):
		}
	}
	return l.Log.Before(ctx, program, before, after, limit)
}

// The other programs of a connection waited for all that had to be counted of one.
func TestCountingLeavesTurnsToOtherPrograms(t *testing.T) {
	t.Parallel()
	s := newStack(t)
	s.user("u1", "p1", "p2")
	s.relay()
	start := s.settled()
	s.burst("p2", 1, 2)
	for range 5 { // each more than a page
		s.coming("u1", "p1", false)
		s.burst("p1", 1000, 200)
		s.coming("u1", "p1", true)
	}
	s.burst("p1", 1, 2)
	l := &pausing{
		Log:     logs{relay.NewHistory(relay.HistoryConfig{Redis: s.redis, Pool: s.pool})},
		program: "p1", goOn: make(chan struct{}),
	}
	n := s.node(func(c *ws.Config) { c.Log = l })
	c := n.connect("u1", fmt.Sprintf(`"since":"%d"`, start))
	c.expect("ready", "p2:1", "p2:2")
	asked := l.asked.Load()
	close(l.goOn)
	c.expect("p1:1", "p1:2", "live")
	if all := l.asked.Load(); asked >= all {
		t.Errorf("p2 was sent after %d of the %d questions for p1", asked, all)
	}
}

// headless is a log whose head isn't known, as on a Redis Cluster.
type headless struct{ ws.Log }

func (l headless) After(ctx context.Context, program string, after int64, limit int) (ws.Page, error) {
	page, err := l.Log.After(ctx, program, after, limit)
	page.Head = 0
	return page, err
}

// Where the head isn't known clients were given no checkpoint: who came back had no position for a program of which it had not got an event yet, and missed
// what had passed meanwhile without being told.
func TestACheckpointWithoutAHead(t *testing.T) {
	t.Parallel()
	s := newStack(t)
	s.user("u1", "p1", "p2", "p3")
	s.relay()
	start := s.settled()
	n := s.node(func(c *ws.Config) {
		c.Log = headless{logs{relay.NewHistory(relay.HistoryConfig{Redis: s.redis, Pool: s.pool})}}
	})
	since := map[string]int64{"*": start} // as a client keeps it: p3 stays quiet, and has none of its own
	for i := 1; i <= 3; i++ {
		var asked []string
		for program, at := range since {
			asked = append(asked, fmt.Sprintf(`"%s":"%d"`, program, at))
		}
		c := n.connect("u1", `"since":{`+strings.Join(asked, ",")+`}`)
		note := func(want ...string) {
			for _, f := range c.expect(want...) {
				switch f.Type {
				case "event":
					since[f.ProgramID] = f.position()
				case "live":
					if since["*"] = f.position(); f.position() < start {
						t.Fatalf("the checkpoint is %d, want at least %d", f.position(), start)
					}
				}
			}
		}
		if i == 1 {
			note("ready", "live")
		} else {
			note("ready", fmt.Sprintf("p2:%d", i-1), "live")
		}
		s.emit("p1", i, 1)
		note(fmt.Sprintf("p1:%d", i))
		c.close()
		s.emit("p2", i, 1)
		s.settled()
	}
}
