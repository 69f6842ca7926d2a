package testenv

import (
	"context"
	"os"
	"testing"
	"time"

	"github.com/outboxrelay/outboxrelay/internal/devstack"
)

// Redis starts a Redis process for this test alone and returns its URL.
func Redis(t testing.TB) string {
	t.Helper()
	return OwnRedis(t).URL()
}

// OwnRedis starts a real Redis process without persistence for this test alone, with further arguments of redis-server if wanted
// (such as "--replicaof", "127.0.0.1 6379"). It ends with the test.
func OwnRedis(t testing.TB, args ...string) *devstack.Redis {
	t.Helper()
	return ownRedis(t, devstack.RedisConfig{Args: args})
}

// ownRedis is OwnRedis with the arguments, the password and the Sentinel's configuration of c.
func ownRedis(t testing.TB, c devstack.RedisConfig) *devstack.Redis {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute) // may download
	defer cancel()
	cfg := RedisConfig(os.Getenv)
	cfg.Args, cfg.Password, cfg.Sentinel = c.Args, c.Password, c.Sentinel
	r, err := devstack.StartRedis(ctx, cfg)
	if err != nil {
		t.Fatalf("Redis for this test: %v", err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), adminTimeout)
		defer cancel()
		if err := r.Close(ctx); err != nil {
			t.Errorf("close Redis: %v", err)
		}
	})
	return r
}
