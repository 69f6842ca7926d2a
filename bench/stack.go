//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/redis/go-redis/v9"

	"github.com/outboxrelay/outboxrelay/internal/devstack"
	"github.com/outboxrelay/outboxrelay/migrations"
)

// stack is what all runs share: Postgres, Redis and the programs that are measured.
type stack struct {
	postgres *devstack.Postgres
	redis    *devstack.Redis
	client   *redis.Client
	admin    *pgx.Conn // of the template's server
	binary   string    // outbox-relay
	self     string    // this program, which is also the floor
	temp     string
	profiles string // folder for profiles of the servers; empty: none are taken
	template string // database with the schema; each run gets a copy
	runs     atomic.Int64
}

const secret = "kT7-2fQ9wLz4-Vb3sHn6-pRc8-Xr81-dYm5"

// openStack starts or uses Postgres (DATABASE_URL) and Redis (REDIS_URL), and builds outbox-relay unless a binary is given. Postgres is as durable as it is
// by default. The caller closes the stack, also after an error.
func openStack(ctx context.Context, binary string) (s *stack, err error) {
	s = &stack{binary: binary, template: "outbox_relay_bench_" + strconv.Itoa(os.Getpid())}
	if s.self, err = os.Executable(); err != nil {
		return s, err
	}
	pg := devstack.PostgresFromEnv(os.Getenv)
	pg.MaxConnections = 200
	pg.Settings = map[string]string{"checkpoint_timeout": "30min", "max_wal_size": "8GB", "shared_buffers": "512MB"} // no checkpoint in the middle of a run
	if s.postgres, err = devstack.StartPostgres(ctx, pg); err != nil {
		return s, err
	}
	rd := devstack.RedisFromEnv(os.Getenv)
	rd.RequireReal = true
	if s.redis, err = devstack.StartRedis(ctx, rd); err != nil {
		return s, err
	}
	options, err := redis.ParseURL(s.redis.URL())
	if err != nil {
		return s, fmt.Errorf("REDIS_URL: %w", err)
	}
	s.client = redis.NewClient(options)
	if n, err := s.client.DBSize(ctx).Result(); err != nil || n > 0 {
		return s, fmt.Errorf("the Redis database must be empty, it holds %d keys: name an empty one in REDIS_URL (%w)", n, err)
	}
	if s.temp, err = os.MkdirTemp("", "outbox-relay-bench-"); err != nil {
		return s, err
	}
	if s.binary == "" {
		s.binary = filepath.Join(s.temp, "outbox-relay")
		build := exec.CommandContext(ctx, "go", "build", "-o", s.binary, "github.com/outboxrelay/outboxrelay/cmd/outbox-relay")
		if out, err := build.CombinedOutput(); err != nil {
			return s, fmt.Errorf("build outbox-relay (or name it with -binary): %w: %s", err, out)
		}
	}
	return s, s.prepare(ctx)
}

// prepare makes the template.
func (s *stack) prepare(ctx context.Context) (err error) {
	if s.admin, err = pgx.Connect(ctx, s.postgres.URL()); err != nil {
		return fmt.Errorf("connect to Postgres: %w", err)
	}
	if _, err := s.admin.Exec(ctx, "CREATE DATABASE "+s.template); err != nil {
		return fmt.Errorf("create the database %s: %w", s.template, err)
	}
	at, err := s.urlOf(s.template)
	if err != nil {
		return err
	}
	if err := migrations.Up(ctx, at); err != nil {
		return err
	}
	conn, err := pgx.Connect(ctx, at)
	if err != nil {
		return fmt.Errorf("connect to the template: %w", err)
	}
	defer conn.Close(ctx)
	_, err = conn.Exec(ctx, `CREATE TABLE public.items (id int PRIMARY KEY, value bigint NOT NULL);
		INSERT INTO public.items SELECT g, 0 FROM generate_series(0, 9999) g`)
	if err != nil {
		return fmt.Errorf("create the table of items: %w", err)
	}
	return nil
}

func (s *stack) urlOf(database string) (string, error) {
	u, err := url.Parse(s.postgres.URL())
	if err != nil {
		return "", errors.New("DATABASE_URL: want postgres://user:password@host:5432/database")
	}
	u.Path = "/" + database
	return u.String(), nil
}

// database makes a fresh database and an empty Redis for one run.
func (s *stack) database(ctx context.Context) (at string, drop func(), err error) {
	if err := s.client.FlushDB(ctx).Err(); err != nil {
		return "", nil, fmt.Errorf("empty Redis: %w", err)
	}
	name := fmt.Sprintf("%s_%d", s.template, s.runs.Add(1))
	if _, err := s.admin.Exec(ctx, "CREATE DATABASE "+name+" TEMPLATE "+s.template); err != nil {
		return "", nil, fmt.Errorf("create the database %s: %w", name, err)
	}
	drop = func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopTime)
		defer cancel()
		_, _ = s.admin.Exec(ctx, "DROP DATABASE "+name+" WITH (FORCE)") // it goes with the server
	}
	at, err = s.urlOf(name)
	return at, drop, err
}

// close stops what was started.
func (s *stack) close(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 20*time.Second)
	defer cancel()
	var errs []error
	if s.admin != nil {
		_, err := s.admin.Exec(ctx, "DROP DATABASE IF EXISTS "+s.template+" WITH (FORCE)")
		errs = append(errs, err, s.admin.Close(ctx))
	}
	if s.client != nil {
		errs = append(errs, s.client.FlushDB(ctx).Err(), s.client.Close())
	}
	if s.redis != nil {
		errs = append(errs, s.redis.Close(ctx))
	}
	if s.postgres != nil {
		errs = append(errs, s.postgres.Close(ctx))
	}
	if s.temp != "" {
		errs = append(errs, os.RemoveAll(s.temp))
	}
	return errors.Join(errs...)
}
