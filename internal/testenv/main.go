package testenv

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/outboxrelay/outboxrelay/internal/devstack"
)

// shared is the one cluster of this process, started by the first test that needs one.
var shared struct {
	mu      sync.Mutex
	cluster *devstack.Postgres // nil if it isn't ours
	url     string             // of a superuser on the database "postgres"
	tmpl    string             // name of the migrated template
	err     error              // the first start failed: no further tries
}

// Main runs the tests, calls after, stops what they started and fails if a goroutine is left over. It doesn't return, so that nothing that the
// caller has deferred is ever done.
func Main(m *testing.M, after ...func()) {
	code := m.Run()
	for _, f := range after {
		f()
	}
	if err := stopShared(); err != nil {
		fmt.Fprintln(os.Stderr, "testenv:", err)
		code = max(code, 1)
	}
	if code == 0 {
		if err := goleak.Find(goleak.IgnoreTopFunction("testing.(*F).Fuzz.func1")); err != nil {
			fmt.Fprintln(os.Stderr, "testenv: goroutines left over:", err)
			code = 1
		}
	}
	os.Exit(code)
}

// Long reports whether the full sizes were asked for (OUTBOX_RELAY_LONG=1, as `make test-long` does).
func Long() bool { return os.Getenv("OUTBOX_RELAY_LONG") == "1" }

func stopShared() error {
	shared.mu.Lock()
	defer shared.mu.Unlock()
	if shared.cluster == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	p := shared.cluster
	shared.cluster, shared.err = nil, errors.New("the shared PostgreSQL has been stopped")
	return p.Close(ctx)
}

// StartShared starts the PostgreSQL that the test processes of one run share, without fsync.
// The caller closes it.
func StartShared(ctx context.Context, cfg devstack.PostgresConfig) (*devstack.Postgres, error) {
	cfg.NoSync = true
	return devstack.StartPostgres(ctx, cfg)
}

// PostgresConfig is the environment's configuration without DATABASE_URL: tests create and drop databases, so they use a server only if it is given
// as TEST_DATABASE_URL, or by OUTBOX_RELAY_POSTGRES=url.
func PostgresConfig(getenv func(string) string) devstack.PostgresConfig {
	cfg := devstack.PostgresFromEnv(getenv)
	if cfg.Rung != "url" {
		cfg.URL = ""
	}
	return cfg
}

// RedisConfig is the environment's configuration for a real Redis, without REDIS_URL: tests flush and kill.
func RedisConfig(getenv func(string) string) devstack.RedisConfig {
	cfg := devstack.RedisFromEnv(getenv)
	cfg.URL, cfg.RequireReal = "", true
	if cfg.Rung == "url" || cfg.Rung == "miniredis" {
		cfg.Rung = ""
	}
	return cfg
}
