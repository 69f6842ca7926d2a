package ws_test

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/outboxrelay/outboxrelay/internal/testenv"
	"github.com/outboxrelay/outboxrelay/relay"
	"github.com/outboxrelay/outboxrelay/ws"
)

// gate is a log that can't be read while it is shut.
type gate struct {
	ws.Log
	shut atomic.Bool
}

var errShut = errors.New("the gate is shut")

func (g *gate) After(ctx context.Context, program string, after int64, limit int) (ws.Page, error) {
	if g.shut.Load() {
		return ws.Page{}, errShut
	}
	return g.Log.After(ctx, program, after, limit)
}

// valve is a log of which one program can't be read until it is opened.
type valve struct {
	ws.Log
	program string
	opened  chan struct{}
}

func (v *valve) After(ctx context.Context, program string, after int64, limit int) (ws.Page, error) {
	if program == v.program {
		select {
		case <-v.opened:
		case <-ctx.Done():
			return ws.Page{}, ctx.Err()
		}
	}
	return v.Log.After(ctx, program, after, limit)
}

// A socket whose memberships were read again before its room had read for the first time began at the newer position: what was committed
// between `ready` and there never arrived.
func TestMembershipsReadAgainBeforeTheRoomHasRead(t *testing.T) {
	t.Parallel()
	s := newStack(t)
	s.user("u1", "p1")
	s.relay()
	s.settled()
	v := &valve{logs{relay.NewHistory(relay.HistoryConfig{Redis: s.redis, Pool: s.pool})}, "p1", make(chan struct{})}
	c := s.node(func(c *ws.Config) { c.Log = v }).connect("u1")
	c.expect("ready")
	s.emit("p1", 1, 2)
	s.join("u1", "p2")
	c.expect("joined p2") // so they have been read again
	close(v.opened)
	c.expect("p1:1", "p1:2", "live")
}

// A room that couldn't read for longer than the retention restarts, and its clients are told.
func TestHistoryExpiresUnderALiveSocket(t *testing.T) {
	t.Parallel()
	s := newStack(t)
	s.user("u1", "p1")
	s.relay()
	s.settled()
	g := &gate{Log: logs{relay.NewHistory(relay.HistoryConfig{Redis: s.redis, Pool: s.pool, RecentTTL: time.Millisecond})}}
	n := s.node(func(c *ws.Config) { c.Log, c.WakeInterval = g, 50*time.Millisecond })
	c := n.connect("u1")
	c.expect("ready", "live")
	s.emit("p1", 1, 1)
	first := c.expect("p1:1")[0]
	g.shut.Store(true)
	testenv.Eventually(t, 10*time.Second, func() error {
		if len(n.hub.Ready()) == 0 {
			return errors.New("ready, and can't read")
		}
		return nil
	})
	s.emit("p1", 2, 1)
	expired := s.settled()
	s.emit("p1", 3, 2)
	s.settled()
	s.exec("DELETE FROM relay.ticks WHERE position < $1", expired)
	s.exec("DELETE FROM relay.outbox WHERE data ->> 'n' IN ('1', '2')")
	g.shut.Store(false)
	got := c.expect("gap p1 expired", "p1:3", "p1:4")
	if g := got[0]; number(g.After) < first.position() || g.Before != got[1].Position {
		t.Errorf("gap %+v, want from %s to %s", g, first.Position, got[1].Position)
	}
	testenv.Eventually(t, 10*time.Second, func() error {
		if reasons := n.hub.Ready(); len(reasons) > 0 {
			return errors.New(reasons[0])
		}
		return nil
	})
	s.emit("p1", 5, 1)
	c.expect("p1:5")
}

// A log that lost everything tells its readers too little, until the relay has repaired it. Nobody's cursor may move meanwhile.
func TestLostLogLeavesNoHole(t *testing.T) {
	t.Parallel()
	s := newStack(t)
	s.user("u1", "p1", "p2")
	s.relay()
	s.settled()
	old := s.node(nil)
	live := old.connect("u1")
	start := live.expect("ready", "live")[1]
	s.emit("p1", 1, 3)
	live.expect("p1:1", "p1:2", "p1:3")
	s.settled()
	if err := s.redis.Del(context.Background(), "socket:events:program:p1").Err(); err != nil {
		t.Fatal(err)
	}
	since := fmt.Sprintf(`"since":%q`, start.Position)
	resumed := s.node(nil).connect("u1", since)
	resumed.expect("ready", "live") // told too little
	s.emit("p1", 4, 2)
	live.expect("p1:4", "p1:5")
	resumed.expect("p1:1", "p1:2", "p1:3", "p1:4", "p1:5")
}

// The same for everything at once, with clients that come and go.
func TestFlushUnderLoad(t *testing.T) {
	t.Parallel()
	const total = 300
	s := newStack(t)
	s.user("u1", "p1")
	s.user("u2", "p1")
	s.relay()
	s.settled()
	n := s.node(resumeConfig)
	live := n.connect("u1")
	live.expect("ready", "live")
	got := make(chan []frame, 1)
	go func() { got <- n.follow("u2", total) }()
	for i := range total {
		s.emit("p1", 1+i, 1)
		if i%60 == 30 {
			if err := s.redis.FlushAll(context.Background()).Err(); err != nil {
				t.Error(err)
			}
		}
	}
	live.expect(events("p1", 1, total)...)
	for i, f := range <-got {
		if f.Data.N != i+1 {
			t.Fatalf("resuming: %v at place %d", f, i)
		}
	}
}

// A quiet room with many old cursors doesn't read the log once per socket and wake-up.
func TestQuietRoomReadsOnce(t *testing.T) {
	t.Parallel()
	const clients = 15
	s := newStack(t)
	s.user("u1", "p1", "busy")
	s.relay()
	first := s.settled()
	s.emit("busy", 1, 1)
	s.settled()
	n := s.node(func(c *ws.Config) { c.WakeInterval = 10 * time.Millisecond })
	for range clients {
		n.connect("u1", fmt.Sprintf(`"since":%q`, fmt.Sprint(first)), `"programs":["p1"]`).expect("ready", "live")
	}
	before := n.metric("older_reads_total", "")
	s.emit("busy", 2, 1)
	c := n.connect("u1", `"programs":["busy"]`)
	c.expect("ready", "live")
	for i := range 20 { // some wake-ups later
		s.emit("busy", 3+i, 1)
		c.expect(fmt.Sprintf("busy:%d", 3+i))
	}
	if got := n.metric("older_reads_total", "") - before; got > 1 {
		t.Errorf("%v further reads below the buffer", got)
	}
	s.emit("p1", 1, 1)
	n.connect("u1", fmt.Sprintf(`"since":%q`, fmt.Sprint(first)), `"programs":["p1"]`).expect("ready", "p1:1", "live")
}

// counted is a log that counts how often it has answered.
type counted struct {
	ws.Log
	reads atomic.Int64
}

func (l *counted) After(ctx context.Context, program string, after int64, limit int) (ws.Page, error) {
	page, err := l.Log.After(ctx, program, after, limit)
	l.reads.Add(1)
	return page, err
}

// more returns a check that n more reads have ended since now.
func (l *counted) more(n int64) func() error {
	from := l.reads.Load()
	return func() error {
		if got := l.reads.Load() - from; got < n {
			return fmt.Errorf("%d reads, want %d", got, n)
		}
		return nil
	}
}

// A failover loses what a connected client has been sent. It used to be told nothing: only who reconnected by himself got the gap.
func TestFailoverUnderALiveSocketIsTold(t *testing.T) {
	t.Parallel()
	for _, window := range []string{"the last minutes", "older than the Redis window"} {
		t.Run(window, func(t *testing.T) {
			t.Parallel()
			s := newStack(t)
			s.user("u1", "p1")
			stop := s.relay()
			s.settled()
			var log *counted
			n := s.node(func(c *ws.Config) {
				ttl := time.Nanosecond
				if window == "the last minutes" {
					ttl = 0
				}
				log = &counted{Log: logs{relay.NewHistory(relay.HistoryConfig{Redis: s.redis, Pool: s.pool, RecentTTL: ttl})}}
				c.Log, c.WakeInterval = log, 10*time.Millisecond
			})
			c := n.connect("u1")
			c.expect("ready", "live")
			var got []frame
			for i := range 3 { // a tick each
				s.emit("p1", 1+i, 1)
				got = append(got, c.expect(events("p1", 1+i, 1)...)...)
			}
			stop()
			testenv.Eventually(t, 10*time.Second, func() error { // a statement under way may commit a tick until its session has ended
				var n int
				err := s.pool.QueryRow(t.Context(), "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'outbox-relay'").Scan(&n)
				if err == nil && n > 0 {
					err = fmt.Errorf("%d sessions of the relay are left", n)
				}
				return err
			})
			// The new primary is on the next timeline and has never seen the third event.
			s.exec("DELETE FROM relay.ticks WHERE position = $1", got[2].position())
			s.exec("DELETE FROM relay.outbox WHERE id = $1::text::bigint", got[2].ID)
			s.exec("UPDATE relay.ticks SET timeline = timeline - 1")
			system, _, _ := strings.Cut(s.redis.Get(t.Context(), "socket:events:head").Val(), ":")
			if err := s.redis.Set(t.Context(), "socket:events:head", system+":0:"+got[2].Position, 0).Err(); err != nil {
				t.Fatal(err)
			}
			testenv.Eventually(t, 10*time.Second, log.more(2)) // what follows is another history to this node too
			s.relay()
			s.emit("p1", 4, 1)
			f, err := c.read()
			for ; err == nil; f, err = c.read() {
				if f.Type != "position" {
					t.Fatalf("got %v at %s before the client was sent away, who has %v", f, f.Position, got)
				}
			}
			if code := websocket.CloseStatus(err); code != websocket.StatusServiceRestart {
				t.Fatalf("closed with %d (%v), want 1012", code, err)
			}
			again := n.connect("u1", fmt.Sprintf(`"since":{"p1":%q}`, got[2].Position))
			again.expect("ready", "gap p1 reset")
			again.until("p1:4")
		})
	}
}

// What a room has buffered of an erased event isn't sent any more.
func TestAnErasedEventIsForgottenByRooms(t *testing.T) {
	t.Parallel()
	s := newStack(t)
	s.user("u1", "p1")
	s.relay()
	s.settled()
	n := s.node(nil)
	c := n.connect("u1")
	c.expect("ready", "live")
	s.emit("p1", 7, 2)
	got := c.expect("p1:7", "p1:8")
	id, err := strconv.ParseInt(got[0].ID, 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := relay.Erase(testenv.Context(t, 20*time.Second), s.pool, s.redis, id); err != nil {
		t.Fatal(err)
	}
	testenv.Eventually(t, 10*time.Second, func() error { // the node's subscription brings the news
		again := n.connect("u1", fmt.Sprintf(`"since":{"p1":"%d"}`, got[0].position()-1))
		defer again.close()
		frames := again.until("live")
		if f := frames[1]; f.Position != got[0].Position || f.Data.N != 0 {
			return fmt.Errorf("got %v at %s", f, f.Position)
		}
		return nil
	})
}
