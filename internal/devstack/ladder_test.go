//go:build unix

package devstack_test

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/outboxrelay/outboxrelay/internal/devstack"
)

// Each rung of PostgreSQL that needs no server of somebody else, with an empty cache.
func TestPostgresRungs(t *testing.T) {
	t.Parallel()
	for _, rung := range []string{"local", "npm", "apt"} {
		t.Run(rung, func(t *testing.T) {
			t.Parallel()
			needs(t, rung)
			cache := filepath.Dir(dataDir(t))
			p := start(t, devstack.PostgresConfig{Rung: rung, CacheDir: cache, NoSync: true})
			if p.Rung != rung {
				t.Errorf("rung %q, want %q", p.Rung, rung)
			}
			if got := query(t, p.URL(), "SHOW server_version"); !strings.HasPrefix(got, p.Version) {
				t.Errorf("server version %q, want %q", got, p.Version)
			}
			if fromCache := strings.HasPrefix(p.BinDir, cache); fromCache != (rung != "local") {
				t.Errorf("rung %s runs the binaries in %q", rung, p.BinDir)
			}
		})
	}
}

func TestPostgresURLRung(t *testing.T) {
	t.Parallel()
	server := start(t, devstack.PostgresConfig{NoSync: true})
	p := start(t, devstack.PostgresConfig{URL: server.URL()})
	if p.Rung != "url" || p.URL() != server.URL() {
		t.Errorf("rung %q at %q, want url at %q", p.Rung, p.URL(), server.URL())
	}
	if err := p.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	query(t, server.URL(), "SELECT 'still there'")
}

// needs skips a download in short mode, and a rung that this system can't have.
func needs(t *testing.T, rung string) {
	t.Helper()
	if found, _ := filepath.Glob("/usr/lib/postgresql/*/bin/postgres"); rung == "local" && len(found) == 0 && !onPath("postgres") {
		t.Skip("no PostgreSQL installed")
	}
	tool := map[string]string{"npm": "npm", "apt": "dpkg-deb"}[rung]
	if tool == "" {
		return
	}
	if testing.Short() {
		t.Skip("downloads")
	}
	if !onPath(tool) {
		t.Skipf("no %s here", tool)
	}
}

func onPath(name string) bool {
	for _, dir := range filepath.SplitList(os.Getenv("PATH")) {
		if _, err := os.Stat(filepath.Join(dir, name)); err == nil {
			return true
		}
	}
	return false
}

func TestRedisRungs(t *testing.T) {
	t.Parallel()
	for _, rung := range []string{"local", "miniredis", "apt"} {
		t.Run(rung, func(t *testing.T) {
			t.Parallel()
			if rung == "local" && !onPath("redis-server") && !onPath("valkey-server") {
				t.Skip("no Redis on PATH")
			} else if rung != "local" {
				needs(t, rung)
			}
			cache := filepath.Dir(dataDir(t))
			ctx := testContext(t, 3*time.Minute)
			r, err := devstack.StartRedis(ctx, devstack.RedisConfig{Rung: rung, NoInstall: true, CacheDir: cache, Log: slog.New(slog.NewTextHandler(t.Output(), nil))})
			if err != nil {
				t.Fatal(err)
			}
			defer func() {
				if err := r.Close(context.Background()); err != nil {
					t.Error(err)
				}
			}()
			expires(t, ctx, r.URL())
		})
	}
}

// expires checks scripts, and that a key with a time to live goes away.
func expires(t *testing.T, ctx context.Context, url string) {
	t.Helper()
	opts, err := redis.ParseURL(url)
	if err != nil {
		t.Fatal(err)
	}
	opts.DisableIdentity = true
	c := redis.NewClient(opts)
	defer c.Close()
	if err := c.Eval(ctx, "return redis.call('SET', KEYS[1], 'v', 'PX', 50)", []string{"k"}).Err(); err != nil {
		t.Fatal(err)
	}
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		n, err := c.Exists(ctx, "k").Result()
		if err != nil {
			t.Fatal(err)
		}
		if n == 0 {
			return
		}
		<-tick.C
	}
}

func TestRedisLadderErrorsAreOneLine(t *testing.T) {
	t.Parallel()
	for name, cfg := range map[string]devstack.RedisConfig{
		"no such rung": {Rung: "cloud"},
		"url without":  {Rung: "url"},
		"not real":     {Rung: "miniredis", RequireReal: true},
	} {
		_, err := devstack.StartRedis(testContext(t, 20*time.Second), cfg)
		if err == nil || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: error %q, want one line", name, err)
		}
	}
}
