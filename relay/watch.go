package relay

import (
	"context"
	"errors"
	"maps"
	"net"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"
	"golang.org/x/sync/errgroup"
)

// topics are what a History watches. A topic is program:<id> or user:<id>; its channel has "socket:events:" before it.
type topics struct {
	mu sync.Mutex    // also held while Redis is talked to
	on *subscription // nil while Watch has none

	looking sync.Mutex // guards names, for a moment; taken under mu where both are
	names   map[string]bool
}

const (
	channelPrefix = "socket:events:"
	programTopic  = "program:"
	nodesTopic    = "nodes"         // every node listens to it: an event was erased, or a new history has begun
	pubsubPing    = 2 * time.Second // a subscription that is silent this long is pinged …
	pubsubSilence = 2               // … and after so many silent pings dialled anew
)

// Subscribe adds topics to those that Watch reports. It doesn't wait for the confirmation, and its failure is no loss: Watch
// subscribes to all topics again when it has a connection.
func (h *History) Subscribe(ctx context.Context, names ...string) error {
	return h.topics.change(ctx, true, names)
}

// Unsubscribe removes topics.
func (h *History) Unsubscribe(ctx context.Context, names ...string) error {
	return h.topics.change(ctx, false, names)
}

func (t *topics) change(ctx context.Context, add bool, names []string) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	channels := make([]string, len(names))
	t.looking.Lock()
	for i, name := range names {
		channels[i] = channelPrefix + name
		if add {
			t.names[name] = true
		} else {
			delete(t.names, name)
		}
	}
	t.looking.Unlock()
	if t.on == nil || len(names) == 0 {
		return nil
	}
	return t.on.change(ctx, add, channels...)
}

// open subscribes to all topics.
func (t *topics) open(ctx context.Context, s *subscription) error {
	t.use(s)
	t.mu.Lock()
	defer t.mu.Unlock()
	t.looking.Lock()
	names := slices.Sorted(maps.Keys(t.names))
	t.looking.Unlock()
	channels := make([]string, 0, len(names)+1)
	channels = append(channels, channelPrefix+nodesTopic) // which also keeps a connection open while no room does
	for _, name := range names {
		channels = append(channels, channelPrefix+name)
	}
	return s.change(ctx, true, channels...)
}

// use replaces the subscription, and closes the one before.
func (t *topics) use(s *subscription) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.on != nil {
		t.on.close()
	}
	t.on = s
}

// wanted tells whether a topic is subscribed, or about to be.
func (t *topics) wanted(name string) bool {
	t.looking.Lock()
	defer t.looking.Unlock()
	return t.names[name] || name == nodesTopic
}

// Watch calls wake with a topic for every message on it and every confirmation of its subscription, until ctx ends; then it returns nil. A connection
// that fails or goes silent is dialled anew, and every topic is confirmed, and so woken, again. Ready tells meanwhile. wake must not block, and may be called
// by several goroutines at once: a relay whose Config.Near is h calls it too, before Redis does. Watch also keeps the History's idea of the database's
// clock, which it compares cursors with, up to date.
func (h *History) Watch(ctx context.Context, wake func(topic string, news News)) error {
	h.near.set(wake)
	defer h.near.set(nil)
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { h.inspect(ctx); return nil })
	group.Go(func() error { h.clock.run(ctx, h.config.Pool); return nil })
	group.Go(func() error { h.listen(ctx, wake); return nil })
	return group.Wait()
}

// inspect notes what Redis is like, now and then. Redis being away is for listen to notice.
func (h *History) inspect(ctx context.Context) {
	for {
		wait := inspectEvery
		attempt, cancel := context.WithTimeout(ctx, redisTimeout)
		found, err := inspect(attempt, h.config.Redis)
		cancel()
		if err == nil {
			h.evicts.Store(found.evicts != "")
			h.health.set(stateEviction, found.evicts)
		} else {
			wait = lastRetry
		}
		if !sleep(ctx, wait) {
			return
		}
	}
}

// listen is one subscription connection after the other.
func (h *History) listen(ctx context.Context, wake func(topic string, news News)) {
	for delay := firstRetry; ; delay = min(2*delay, lastRetry) {
		heard, err := h.listenOnce(ctx, wake)
		if ctx.Err() != nil {
			return
		}
		if !errors.Is(err, errMoved) {
			h.health.set(stateSubscription, "Redis can't be heard: "+err.Error())
		}
		if cluster, ok := h.config.Redis.(*redis.ClusterClient); ok {
			cluster.ReloadState(ctx)
		}
		if heard {
			delay = firstRetry
		}
		if !sleep(ctx, delay) {
			return
		}
	}
}

// listenOnce is the life of one subscription. It tells whether anything was heard, and why it ended.
func (h *History) listenOnce(ctx context.Context, wake func(topic string, news News)) (heard bool, err error) {
	group, ctx := errgroup.WithContext(ctx)
	var once sync.Once
	first := func() { once.Do(func() { heard = true; h.health.set(stateSubscription, "") }) }
	setUp, cancel := context.WithTimeout(ctx, redisTimeout)
	defer cancel()
	s, err := newSubscription(setUp, h.config.Redis, func(conn *redis.PubSub) {
		group.Go(func() error { return h.receive(ctx, conn, first, wake) })
	})
	if err != nil {
		_ = group.Wait() // nothing runs
		return false, err
	}
	group.Go(func() error {
		<-ctx.Done() // a receive under way doesn't look at it
		h.topics.use(nil)
		return nil
	})
	if err := h.topics.open(setUp, s); err != nil {
		group.Go(func() error { return err })
	}
	if err = group.Wait(); err == nil {
		err = ctx.Err()
	}
	return heard, err
}

// receive reads one connection until it fails, goes silent, or is told that a channel's slot has moved.
func (h *History) receive(ctx context.Context, conn *redis.PubSub, first func(), wake func(topic string, news News)) error {
	for silent := 0; ctx.Err() == nil; {
		message, err := conn.ReceiveTimeout(ctx, pubsubPing)
		if isTimeout(err) {
			if silent++; silent > pubsubSilence {
				return errors.New("the subscription is silent")
			}
			err = conn.Ping(ctx)
			if err == nil {
				continue
			}
		}
		if moved(err) {
			return errMoved
		}
		if err != nil {
			return err
		}
		first()
		silent = 0
		switch m := message.(type) {
		case *redis.Subscription:
			topic := strings.TrimPrefix(m.Channel, channelPrefix)
			switch {
			case m.Kind == "subscribe" || m.Kind == "ssubscribe":
				wake(topic, News{})
			case m.Kind == "sunsubscribe" && h.topics.wanted(topic):
				return errMoved
			}
		case *redis.Message:
			news, err := parseNews(m.Payload)
			if err != nil { // somebody else's: the log says what there is
				h.config.Logger.Debug("relay: a message can't be read", "channel", m.Channel, "error", err)
			}
			wake(strings.TrimPrefix(m.Channel, channelPrefix), news)
		}
	}
	return ctx.Err()
}

func isTimeout(err error) bool {
	var timeout net.Error
	return errors.As(err, &timeout) && timeout.Timeout()
}
