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
)

// topics are what a History watches. A topic is program:<id> or user:<id>; its channel has "socket:events:" before it.
type topics struct {
	mu     sync.Mutex
	names  map[string]bool
	pubsub *redis.PubSub // nil while Watch isn't running
}

const (
	channelPrefix = "socket:events:"
	nodesTopic    = "nodes"         // every node listens to it: an event was erased, or a new history has begun
	pubsubPing    = 3 * time.Second // a subscription that is silent this long is pinged …
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
	for i, name := range names {
		channels[i] = channelPrefix + name
		if add {
			t.names[name] = true
		} else {
			delete(t.names, name)
		}
	}
	switch {
	case t.pubsub == nil || len(names) == 0:
		return nil
	case add:
		return t.pubsub.Subscribe(ctx, channels...)
	default:
		return t.pubsub.Unsubscribe(ctx, channels...)
	}
}

// Watch calls wake with a topic for every message on it and every confirmation of its subscription, until ctx ends; then it returns nil. A connection
// that fails or goes silent is dialled anew, and every topic is confirmed, and so woken, again. wake must not block.
func (h *History) Watch(ctx context.Context, wake func(topic string, news News)) error {
	for delay := firstRetry; ; delay = min(2*delay, lastRetry) {
		if heard := h.watchOnce(ctx, wake); heard {
			delay = firstRetry
		}
		if !sleep(ctx, delay) {
			return nil
		}
	}
}

// watchOnce is the life of one subscription connection. It tells whether anything was heard on it.
func (h *History) watchOnce(ctx context.Context, wake func(topic string, news News)) (heard bool) {
	t := &h.topics
	t.mu.Lock()
	channels := make([]string, 0, len(t.names)+1)
	channels = append(channels, channelPrefix+nodesTopic) // which also keeps the connection open while no room does
	for _, name := range slices.Sorted(maps.Keys(t.names)) {
		channels = append(channels, channelPrefix+name)
	}
	pubsub := h.config.Redis.Subscribe(ctx, channels...)
	t.pubsub = pubsub
	t.mu.Unlock()
	unregister := context.AfterFunc(ctx, func() { _ = pubsub.Close() }) // a receive under way doesn't look at ctx
	defer func() {
		unregister()
		t.mu.Lock()
		t.pubsub = nil
		t.mu.Unlock()
		_ = pubsub.Close()
	}()
	for silent := 0; ctx.Err() == nil; {
		message, err := pubsub.ReceiveTimeout(ctx, pubsubPing)
		if isTimeout(err) {
			if silent++; silent > pubsubSilence || pubsub.Ping(ctx) != nil {
				return heard
			}
			continue
		}
		if err != nil {
			h.config.Logger.Debug("relay: subscription lost; it is dialled anew", "err", err)
			return heard
		}
		silent, heard = 0, true
		switch m := message.(type) {
		case *redis.Subscription:
			if m.Kind == "subscribe" {
				wake(strings.TrimPrefix(m.Channel, channelPrefix), News{})
			}
		case *redis.Message:
			news, err := parseNews(m.Payload)
			if err != nil { // somebody else's: the log says what there is
				h.config.Logger.Debug("relay: a message can't be read", "channel", m.Channel, "err", err)
			}
			wake(strings.TrimPrefix(m.Channel, channelPrefix), news)
		}
	}
	return heard
}

func isTimeout(err error) bool {
	var timeout net.Error
	return errors.As(err, &timeout) && timeout.Timeout()
}
