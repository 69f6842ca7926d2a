package ws

import (
	"context"
	"log/slog"
	"strings"
	"sync"
)

// The kinds of topics that name something; NodesTopic is a kind of its own, without a name.
const (
	programTopic = "program"
	userTopic    = "user"
)

const topicsPerCall = 500

func splitTopic(topic string) (kind, name string) {
	kind, name, _ = strings.Cut(topic, ":")
	return kind, name
}

// topics keeps the log's subscriptions as the hub wants them. One goroutine makes the calls, so that a topic that is left and
// joined again can't end up unsubscribed.
type topics struct {
	log    Log
	logger *slog.Logger
	wake   chan struct{} // one token

	mu     sync.Mutex
	wanted map[string]bool
	dirty  map[string]bool // wanted may differ from what was asked for

	asked map[string]bool // owned by run
}

func newTopics(log Log, logger *slog.Logger) *topics {
	return &topics{
		log: log, logger: logger, wake: make(chan struct{}, 1),
		wanted: map[string]bool{}, dirty: map[string]bool{}, asked: map[string]bool{},
	}
}

// want says whether a topic is wanted from now on. It doesn't block.
func (t *topics) want(topic string, wanted bool) {
	t.mu.Lock()
	if wanted {
		t.wanted[topic] = true
	} else {
		delete(t.wanted, topic)
	}
	t.dirty[topic] = true
	t.mu.Unlock()
	token(t.wake)
}

func (t *topics) run(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.wake:
		}
		for backoff := minBackoff; !t.settle(ctx); backoff = min(2*backoff, maxBackoff) {
			pause(ctx, jitter(backoff))
			if ctx.Err() != nil {
				return
			}
		}
	}
}

// settle makes the calls that are due and reports whether none is left.
func (t *topics) settle(ctx context.Context) bool {
	for {
		add, remove := t.due()
		if len(add)+len(remove) == 0 {
			return true
		}
		if !t.call(ctx, add, true, t.log.Subscribe) || !t.call(ctx, remove, false, t.log.Unsubscribe) {
			return false
		}
	}
}

// due takes at most topicsPerCall topics whose subscription must change.
func (t *topics) due() (add, remove []string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for topic := range t.dirty {
		if len(add)+len(remove) == topicsPerCall {
			break
		}
		switch {
		case t.wanted[topic] == t.asked[topic]:
			delete(t.dirty, topic)
		case t.wanted[topic]:
			add = append(add, topic)
		default:
			remove = append(remove, topic)
		}
	}
	return add, remove
}

func (t *topics) call(ctx context.Context, list []string, on bool, f func(context.Context, ...string) error) bool {
	if len(list) == 0 {
		return true
	}
	timeout, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	if err := f(timeout, list...); err != nil {
		t.logger.Debug("ws: subscriptions not changed, will retry", "topics", len(list), "error", err)
		return false
	}
	for _, topic := range list {
		if on {
			t.asked[topic] = true
		} else {
			delete(t.asked, topic)
		}
	}
	return true
}
