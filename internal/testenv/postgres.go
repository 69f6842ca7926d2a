package testenv

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/outboxrelay/outboxrelay/internal/devstack"
	"github.com/outboxrelay/outboxrelay/migrations"
)

// adminTimeout bounds each of this package's own statements: creating and dropping databases, migrating the template.
const adminTimeout = 30 * time.Second

// DB returns a pool of at most 64 connections as superuser to a fresh database with the migrations applied, and that database's URL. Both end with the test.
func DB(t testing.TB) (*pgxpool.Pool, string) {
	t.Helper()
	u := Postgres(t)
	return Pool(t, u), u
}

// Pool returns a pool of at most 64 connections that is closed when the test ends.
func Pool(t testing.TB, databaseURL string) *pgxpool.Pool {
	t.Helper()
	cfg, err := pgxpool.ParseConfig(databaseURL)
	if err != nil {
		t.Fatalf("parse database URL: %v", err)
	}
	cfg.MaxConns = 64
	pool, err := pgxpool.NewWithConfig(context.Background(), cfg)
	if err != nil {
		t.Fatalf("open pool: %v", err)
	}
	t.Cleanup(pool.Close)
	return pool
}

// Conn returns a single connection that is closed when the test ends.
func Conn(t testing.TB, databaseURL string) *pgx.Conn {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), adminTimeout)
	defer cancel()
	conn, err := pgx.Connect(ctx, databaseURL)
	if err != nil {
		t.Fatalf("connect to PostgreSQL: %v", err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), adminTimeout)
		defer cancel()
		_ = conn.Close(ctx)
	})
	return conn
}

// Postgres returns a superuser's URL of a fresh database with the migrations applied, in the shared cluster. It is dropped when the
// test ends, with whatever still uses it.
func Postgres(t testing.TB) string {
	t.Helper()
	admin, tmpl := sharedCluster(t)
	return create(t, admin, tmpl)
}

// EmptyPostgres is like Postgres, without the migrations.
func EmptyPostgres(t testing.TB) string {
	t.Helper()
	admin, _ := sharedCluster(t)
	return create(t, admin, "template0")
}

func sharedCluster(t testing.TB) (admin, tmpl string) {
	t.Helper()
	shared.mu.Lock()
	defer shared.mu.Unlock()
	if shared.err == nil && shared.url == "" {
		shared.err = startCluster()
	}
	if shared.err != nil {
		t.Fatalf("PostgreSQL for tests: %v", shared.err)
	}
	return shared.url, shared.tmpl
}

// startCluster is called with shared.mu held.
func startCluster() error {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute) // may download
	defer cancel()
	admin := os.Getenv("TEST_DATABASE_URL")
	if admin == "" {
		p, err := StartShared(ctx, PostgresConfig(os.Getenv))
		if err != nil {
			return err
		}
		shared.cluster, admin = p, p.URL()
	}
	tmpl, err := template(ctx, admin)
	if err != nil {
		return err
	}
	shared.url, shared.tmpl = admin, tmpl
	return nil
}

// template makes the migrated template database unless it is there; its name holds a hash of the migrations. Test processes wait for each other.
func template(ctx context.Context, admin string) (string, error) {
	name, err := templateName()
	if err != nil {
		return "", err
	}
	conn, err := pgx.Connect(ctx, admin)
	if err != nil {
		return "", fmt.Errorf("connect to the test server: %w", err)
	}
	defer conn.Close(ctx)
	const key = 0x6f757462 // any number that all test processes share
	if _, err := conn.Exec(ctx, "SELECT pg_advisory_lock($1)", key); err != nil {
		return "", fmt.Errorf("lock the template: %w", err)
	}
	var ready bool
	if err := conn.QueryRow(ctx, "SELECT EXISTS (SELECT FROM pg_database WHERE datname = $1)", name).Scan(&ready); err != nil || ready {
		return name, err
	}
	// It gets its name when it is complete: a process that is killed here leaves no half template.
	for _, sql := range []string{"DROP DATABASE IF EXISTS " + name + "_new WITH (FORCE)", "CREATE DATABASE " + name + "_new TEMPLATE template0"} {
		if _, err := conn.Exec(ctx, sql); err != nil {
			return "", fmt.Errorf("make the template: %w", err)
		}
	}
	if err := migrations.Up(ctx, withDatabase(admin, name+"_new")); err != nil {
		return "", fmt.Errorf("migrate the template: %w", err)
	}
	return name, retryInUse(ctx, func() error {
		_, err := conn.Exec(ctx, "ALTER DATABASE "+name+"_new RENAME TO "+name)
		return err
	})
}

func templateName() (string, error) {
	h := sha256.New()
	err := fs.WalkDir(migrations.FS, ".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := fs.ReadFile(migrations.FS, path)
		fmt.Fprintf(h, "%s %d\n%s", path, len(b), b)
		return err
	})
	return fmt.Sprintf("outbox_template_%x", h.Sum(nil)[:6]), err
}

// create copies a database and drops the copy when the test ends.
func create(t testing.TB, admin, tmpl string) string {
	t.Helper()
	name := "t_" + strings.ToLower(rand.Text()[:16])
	err := exec(admin, "CREATE DATABASE "+name+" TEMPLATE "+tmpl)
	if err != nil {
		t.Fatalf("create database: %v", err)
	}
	t.Cleanup(func() {
		if err := drop(admin, name); err != nil {
			t.Errorf("drop database: %v", err)
		}
	})
	return withDatabase(admin, name)
}

// drop rolls back prepared transactions first: they survive everything else and would keep the database.
func drop(admin, name string) error {
	ctx, cancel := context.WithTimeout(context.Background(), adminTimeout)
	defer cancel()
	conn, err := pgx.Connect(ctx, admin)
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	rows, err := conn.Query(ctx, "SELECT format('ROLLBACK PREPARED %L', gid) FROM pg_prepared_xacts WHERE database = $1", name)
	if err != nil {
		return err
	}
	prepared, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return err
	}
	for _, sql := range prepared {
		if err := exec(withDatabase(admin, name), sql); err != nil {
			return err
		}
	}
	return retryInUse(ctx, func() error {
		_, err := conn.Exec(ctx, "DROP DATABASE IF EXISTS "+name+" WITH (FORCE)")
		return err
	})
}

// exec runs one statement on a connection of its own.
func exec(databaseURL, sql string) error {
	ctx, cancel := context.WithTimeout(context.Background(), adminTimeout)
	defer cancel()
	conn, err := pgx.Connect(ctx, databaseURL)
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	return retryInUse(ctx, func() error {
		_, err := conn.Exec(ctx, sql)
		return err
	})
}

// retryInUse repeats f while it fails because somebody (autovacuum, a session on its way out) is still in the database.
func retryInUse(ctx context.Context, f func() error) error {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		err := f()
		var pe *pgconn.PgError
		if err == nil || !errors.As(err, &pe) || pe.Code != "55006" {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-tick.C:
		}
	}
}

func withDatabase(databaseURL, name string) string {
	u, err := url.Parse(databaseURL)
	if err != nil {
		panic(err) // pgx has just connected with it
	}
	u.Path = "/" + name
	return u.String()
}

// OwnPostgres starts a cluster for this test alone and applies the migrations to its database "postgres"; it is deleted when the test ends. The fields of
// opts that choose the server and its folder are filled in here: tests never use DATABASE_URL. For a test that crashes more than
// the server process, leave NoSync false; it costs little.
func OwnPostgres(t testing.TB, opts devstack.PostgresConfig) *devstack.Postgres {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	env := devstack.PostgresFromEnv(os.Getenv)
	if opts.Rung == "" && env.Rung != "url" {
		opts.Rung = env.Rung
	}
	opts.URL = ""
	if opts.CacheDir == "" {
		opts.CacheDir = env.CacheDir
	}
	if opts.Log == nil {
		opts.Log = Logger(t)
	}
	p, err := devstack.StartPostgres(ctx, opts)
	if err != nil {
		t.Fatalf("PostgreSQL for this test: %v", err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), adminTimeout)
		defer cancel()
		if err := p.Close(ctx); err != nil {
			t.Errorf("close PostgreSQL: %v", err)
		}
	})
	if err := migrations.Up(ctx, p.URL()); err != nil {
		t.Fatalf("migrate: %v", err)
	}
	return p
}
