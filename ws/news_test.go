package ws_test

import (
	"context"
	"sync/atomic"
	"testing"
	"time"

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
