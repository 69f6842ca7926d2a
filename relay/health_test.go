package relay_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/outboxrelay/outboxrelay/internal/testenv"
	"github.com/outboxrelay/outboxrelay/relay"
)

// watch runs a reader until the test ends.
func (s *stack) watch(wake func(string)) *relay.History {
	s.t.Helper()
	h := relay.NewHistory(relay.HistoryConfig{Redis: s.redis, Pool: s.pool, Logger: testenv.Logger(s.t)})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- h.Watch(ctx, func(topic string, _ relay.News) { wake(topic) }) }()
	s.t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			s.t.Errorf("Watch: %v", err)
		}
	})
	return h
}

// A log that was evicted looks like one that never was. With a head beside it a client was told that it had everything of all programs, resumed
// with that, and missed what came back with the repair.
func TestAnEvictingRedisGivesNoCheckpoint(t *testing.T) {
	t.Parallel()
	s := newStack(t)
	s.relay(nil)
	s.eventuallyLog("p1", s.emit("p1", nil))
	head := func(h *relay.History, zero bool) {
		t.Helper()
		testenv.Eventually(t, 10*time.Second, func() error {
			page, err := h.After(t.Context(), "p1", time.Now().UnixMicro(), 10)
			if err != nil || (page.Head == 0) != zero {
				return fmt.Errorf("head %d (%w)", page.Head, err)
			}
			return nil
		})
	}
	head(s.watch(func(string) {}), false)
	if err := s.redis.ConfigSet(t.Context(), "maxmemory-policy", "allkeys-lru").Err(); err != nil {
		t.Fatal(err)
	}
	head(s.watch(func(string) {}), true)
}

// The end of the failed attempt stood beside its cause, on a line of its own.
func TestASubscriptionThatFailsHasOneReason(t *testing.T) {
	t.Parallel()
	s := newStack(t)
	s.redis = openRedis(t, "redis://127.0.0.1:1")
	h := s.watch(func(string) {})
	want := []string{"subscription: Redis can't be heard: dial tcp 127.0.0.1:1: connect: connection refused"}
	testenv.Eventually(t, 20*time.Second, func() error {
		if got := h.Ready(); !slices.Equal(got, want) {
			return fmt.Errorf("%q, want %q", got, want)
		}
		return nil
	})
}

// While Redis was away, a relay that had its session and led said that it was connecting to Postgres.
func TestARelayThatWaitsForRedisDoesNotBlamePostgres(t *testing.T) {
	t.Parallel()
	s := newStack(t)
	s.redis = openRedis(t, "redis://127.0.0.1:1")
	r := s.relay(nil)
	testenv.Eventually(t, 20*time.Second, func() error {
		got := strings.Join(r.Ready(), "\n")
		if !strings.Contains(got, "redis: ") || strings.Contains(got, "Postgres") || !strings.Contains(got, "session: ") {
			return fmt.Errorf("%q, want that Redis is away, and nothing about Postgres", got)
		}
		return nil
	})
}
