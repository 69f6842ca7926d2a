package relay

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/outboxrelay/outboxrelay/internal/testenv"
)

// Once a minute a room's read asked for the database's clock, and all others waited with it: with a frozen Postgres nobody got, for ten seconds, what
// lay in Redis.
func TestAFrozenPostgresDelaysNoReadOfRedis(t *testing.T) {
	t.Parallel()
	s, _, proxy := led(t)
	pool := testenv.Pool(t, s.config.DatabaseURL)
	h := NewHistory(HistoryConfig{Redis: s.config.Redis, Pool: pool, Logger: testenv.Logger(t)})
	h.clock.every = 10 * time.Millisecond
	if err := s.config.Redis.ZAdd(t.Context(), keyPrefix+"p1", redis.Z{Score: float64(s.now()), Member: "{}"}).Err(); err != nil {
		t.Fatal(err)
	}
	if err := s.config.Redis.Set(t.Context(), limitsKey, s.log.limits.String(), 0).Err(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- h.Watch(ctx, func(string, News) {}) }()
	defer func() {
		cancel()
		proxy.Resume()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}()
	read := func(d time.Duration) error {
		page, err := h.After(testenv.Context(t, d), "p1", s.now()-60_000_000, 10)
		if err == nil && len(page.Entries) != 1 {
			err = fmt.Errorf("%d entries", len(page.Entries))
		}
		return err
	}
	testenv.Eventually(t, 10*time.Second, func() error { return read(5 * time.Second) })
	first := h.clock.last.Load()
	testenv.Eventually(t, 10*time.Second, func() error {
		if h.clock.last.Load() == first {
			return fmt.Errorf("the clock is not read anew")
		}
		return nil
	})
	proxy.Blackhole()
	testenv.Eventually(t, 10*time.Second, func() error { // whoever asks now waits
		if pool.Stat().AcquiredConns() == 0 {
			return fmt.Errorf("nobody asks Postgres")
		}
		return nil
	})
	if err := read(2 * time.Second); err != nil {
		t.Errorf("a read of Redis while Postgres is frozen: %v", err)
	}
}
