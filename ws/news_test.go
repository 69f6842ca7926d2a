package ws_test

import (
	"context"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/outboxrelay/outboxrelay/internal/testenv"
	"github.com/outboxrelay/outboxrelay/outbox"
	"github.com/outboxrelay/outboxrelay/relay"
	"github.com/outboxrelay/outboxrelay/ws"
)

// tap is a log that counts the reads, and through which news can be changed.
type tap struct {
	ws.Log
	reads atomic.Int64
	news  func(ws.News) (ws.News, bool) // false: the message is lost
}

func (l *tap) After(ctx context.Context, program string, after int64, limit int) (ws.Page, error) {
	l.reads.Add(1)
	return l.Log.After(ctx, program, after, limit)
}

func (l *tap) Watch(ctx context.Context, wake func(string, ws.News)) error {
	return l.Log.Watch(ctx, func(topic string, news ws.News) {
		if news, ok := l.news(news); ok {
			wake(topic, news)
		}
	})
}

func (s *stack) tap(news func(ws.News) (ws.News, bool)) *tap {
	return &tap{Log: logs{relay.NewHistory(relay.HistoryConfig{Redis: s.redis, Pool: s.pool})}, news: news}
}

// What a message brings isn't read from the log again.
func TestNewsAreNotReadAgain(t *testing.T) {
	t.Parallel()
	s := newRelayed(t, "p1")
	l := s.tap(func(n ws.News) (ws.News, bool) { return n, true })
	c := s.node(func(c *ws.Config) { c.Log, c.WakeInterval = l, time.Hour }).connect("u1")
	c.expect("ready", "live")
	s.emit("p1", 1, 1)
	c.expect("p1:1") // so the subscription is confirmed
	before := l.reads.Load()
	s.emit("p1", 2, 20)
	c.expect(events("p1", 2, 20)...)
	if reads := l.reads.Load() - before; reads != 0 {
		t.Errorf("%d reads of the log for 20 events that messages brought", reads)
	}
}

// Messages that are lost, and ones that tell less than they might, never make a hole.
func TestNewsAreLost(t *testing.T) {
	t.Parallel()
	s := newRelayed(t, "p1")
	count := 0 // Watch calls from one goroutine
	l := s.tap(func(n ws.News) (ws.News, bool) {
		count++
		switch {
		case len(n.Entries) > 0 && count%3 == 0:
			return ws.News{}, true
		case len(n.Entries) > 0 && count%3 == 1:
			return n, false
		}
		return n, true
	})
	c := s.node(func(c *ws.Config) { c.Log, c.WakeInterval = l, 20*time.Millisecond }).connect("u1")
	c.expect("ready", "live")
	s.emit("p1", 1, 60)
	c.expect(events("p1", 1, 60)...)
}

// replaced is a log through which a relay tells its own rooms, after they have heard of a new history or lost that message, of what it has just committed in the old one.
type replaced struct {
	ws.Log
	deaf bool // the nodes' messages are lost
	wake func(topic string, news ws.News)
	told atomic.Int64 // the newest position on the nodes' topic
}

func (l *replaced) Watch(ctx context.Context, wake func(string, ws.News)) error {
	l.wake = wake
	return l.Log.Watch(ctx, func(topic string, news ws.News) {
		if topic != ws.NodesTopic {
			wake(topic, news)
			return
		}
		if !l.deaf {
			wake(topic, news)
		}
		l.told.Store(news.After)
	})
}

// A relay whose Postgres is the old one of two primaries tells its own rooms of ticks for a moment longer. Who had been told of the new history by then, and had lost
// nothing, got an event that doesn't exist, and was never told.
func TestNewsOfAHistoryThatHasBeenReplaced(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		deaf    bool
		recheck time.Duration
	}{
		"the node has been told":                  {false, 200 * time.Millisecond},
		"the message is lost":                     {true, 200 * time.Millisecond},
		"only who comes knows of the new history": {true, time.Hour},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newStack(t)
			s.user("u1", "p1")
			stop := s.relay()
			s.settled()
			l := &replaced{Log: logs{relay.NewHistory(relay.HistoryConfig{Redis: s.redis, Pool: s.pool})}, deaf: test.deaf}
			n := s.node(func(c *ws.Config) { c.Log, c.Recheck = l, test.recheck })
			c := n.connect("u1")
			c.expect("ready", "live")
			s.emit("p1", 1, 1)
			last := c.expect("p1:1")[0].position()
			survived := s.settled()
			stop()
			base := s.failover(survived)
			testenv.Eventually(t, 10*time.Second, func() error {
				if told := l.told.Load(); told != base {
					return fmt.Errorf("the nodes have been told of %d, the new history begins at %d", told, base)
				}
				return nil
			})
			knows := test.recheck < time.Hour
			reads := n.metric("membership_reads_total", "")
			testenv.Eventually(t, 10*time.Second, func() error { // one that begins now is of the new history
				if now := n.metric("membership_reads_total", ""); knows && now < reads+2 {
					return fmt.Errorf("%v reads of the memberships", now-reads)
				}
				return nil
			})
			l.wake("program:p1", ws.News{After: last, Entries: []ws.Entry{{Position: last + 1000, Frame: fmt.Appendf(nil,
				`{"type":"event","id":"1000","position":"%d","event":"request:created","programId":"p1","data":{"n":1000},"timestamp":"2026-01-01T00:00:00.000000Z"}`, last+1000)}}})
			if !knows { // it is told when it does
				c.expect("p1:1000")
			}
			other := n.connect("u1", fmt.Sprintf(`"since":"%d"`, last))
			other.expect("ready", "live")
			s.emit("p1", 2, 1)
			c.expect("p1:2")
			other.expect("p1:2")
		})
	}
}

// overtaken is a log of which one answer, to who asks for what lies behind a position, comes later than the news of what it lacks.
type overtaken struct {
	ws.Log
	behind    int64
	publish   func()
	wake      func(topic string, news ws.News)
	confirmed chan struct{} // the room's subscription is
	reads     chan struct{} // of the room's end
	told      chan struct{} // news of what the answer lacks
}

func (l *overtaken) After(ctx context.Context, program string, after int64, limit int) (ws.Page, error) {
	if after != l.behind {
		token(l.reads)
		return l.Log.After(ctx, program, after, limit)
	}
	page, err := l.Log.After(ctx, program, after, limit)
	if l.publish == nil {
		return page, err
	}
	publish := l.publish
	l.publish = nil
	wait := func(c <-chan struct{}) {
		select {
		case <-c:
		case <-ctx.Done():
		}
	}
	wait(l.confirmed)
	select {
	case <-l.reads:
	default:
	}
	l.wake("program:"+program, ws.News{}) // the read that follows is the last one before the news
	wait(l.reads)
	publish()
	wait(l.told)
	return page, err
}

func (l *overtaken) Watch(ctx context.Context, wake func(string, ws.News)) error {
	l.wake = wake
	return l.Log.Watch(ctx, func(topic string, news ws.News) {
		wake(topic, news)
		switch {
		case !strings.HasPrefix(topic, "program:"):
		case len(news.Entries) > 0 || news.After > l.behind:
			token(l.told)
		default:
			token(l.confirmed)
		}
	})
}

func token(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// Who came back between the commit of a tick and its publication took the room back to where the client had been. News of the tick that came just before were
// known to the room then, and forgotten: the event waited for the room's next read, or another event.
func TestARoomGoesBackBehindWhatItWasTold(t *testing.T) {
	t.Parallel()
	for name, data := range map[string]string{"with its entries": "{}", "by their position": fmt.Sprintf(`{"x":"%040000d"}`, 0)} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			testGoesBack(t, data)
		})
	}
}

func testGoesBack(t *testing.T, data string) {
	t.Helper()
	s := newStack(t)
	s.user("u1", "p1")
	stop := s.relay()
	s.emit("p1", 1, 1)
	last := s.settled()
	stop()
	s.exec("SELECT relay.emit('p1', 'request:created', $1::json)", data)
	newest, err := outbox.NewestTick(t.Context(), s.pool)
	if err != nil {
		t.Fatal(err)
	}
	if tick, _, err := outbox.Next(t.Context(), testenv.Conn(t, s.url), newest, newest.Cluster, 10); err != nil || tick.Events != 1 {
		t.Fatalf("tick %v (%v)", tick, err)
	}
	l := &overtaken{
		Log: logs{relay.NewHistory(relay.HistoryConfig{Redis: s.redis, Pool: s.pool})}, behind: last, publish: func() { s.relay() },
		confirmed: make(chan struct{}, 1), reads: make(chan struct{}, 1), told: make(chan struct{}, 1),
	}
	n := s.node(func(c *ws.Config) { c.Log, c.WakeInterval, c.Recheck = l, time.Hour, time.Hour })
	c := n.connect("u1", fmt.Sprintf(`"since":"%d"`, last))
	c.until("p1:0")
}
