package devstack

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// startTimeout bounds the wait for a server that was started and neither accepts connections nor exits. Recovery after a
// crash is within it.
const startTimeout = 60 * time.Second

// PostgresConfig says which PostgreSQL to start and how. The zero value is a durable temporary cluster from the first rung that works.
type PostgresConfig struct {
	// URL is an existing server for the rung "url". If set and Rung is empty, it is the only rung.
	URL string
	// Rung forces one rung: "url", "local", "npm" or "apt". Empty: the first that works.
	Rung string
	// DataDir is where the cluster lives (PGDATA); created if absent. Empty: a temporary folder, deleted by Close.
	DataDir string
	// CacheDir holds downloads and the initialised template. Empty: DefaultCacheDir(os.Getenv).
	CacheDir string
	// Database is created if absent and is the one that URL names. Empty: "postgres".
	Database string
	// NoSync turns fsync and full_page_writes off: fast, and a crash of the machine may destroy the cluster. A crash of
	// PostgreSQL alone doesn't.
	NoSync bool
	// MaxConnections is max_connections. 0: 300.
	MaxConnections int
	// MaxPrepared is max_prepared_transactions. 0: PREPARE TRANSACTION is refused, which is also PostgreSQL's default.
	MaxPrepared int
	// Settings are further server settings (name → value); they win over the above.
	Settings map[string]string
	// FreshIdentity runs initdb even for a temporary cluster, which otherwise is a copy of a cached one and so has the same system identifier as
	// every other copy.
	FreshIdentity bool
	// Log gets one line per state change. Nil: discarded.
	Log *slog.Logger
}

// PostgresFromEnv returns a configuration with DATABASE_URL, OUTBOX_RELAY_POSTGRES and the default cache folder filled in.
func PostgresFromEnv(getenv func(string) string) PostgresConfig {
	return PostgresConfig{
		URL:      getenv("DATABASE_URL"),
		Rung:     getenv("OUTBOX_RELAY_POSTGRES"),
		CacheDir: DefaultCacheDir(getenv),
	}
}

// Postgres is a running server, or a stopped one that can be started again. Its methods must not be called concurrently.
type Postgres struct {
	// Immutable after StartPostgres.
	Rung     string // "url", "local", "npm" or "apt"
	Version  string // such as "15.20"; empty for the rung "url"
	BinDir   string // where postgres and initdb are; empty for the rung "url"
	DataDir  string // PGDATA; empty for the rung "url"
	Port     int    // on 127.0.0.1; 0 for the rung "url"
	Attached bool   // somebody else's server on the same data folder: Stop leaves it alone

	cfg  PostgresConfig
	bin  binaries
	as   *account
	url  string
	temp string // folder to delete in Close

	child *child // nil while stopped
}

// StartPostgres starts a server, or attaches to the one that already runs on cfg.DataDir, and returns when it accepts connections. The server lives until
// Stop or Close, not until ctx ends.
func StartPostgres(ctx context.Context, cfg PostgresConfig) (*Postgres, error) {
	cfg.Log = logger(cfg.Log)
	cfg.CacheDir = cmp.Or(cfg.CacheDir, DefaultCacheDir(os.Getenv))
	cfg.Database = cmp.Or(cfg.Database, "postgres")
	cfg.MaxConnections = cmp.Or(cfg.MaxConnections, 300)
	if cfg.Rung == "" && cfg.URL != "" {
		cfg.Rung = "url"
	}
	if cfg.Rung == "url" {
		return useURL(ctx, cfg)
	}
	p := &Postgres{cfg: cfg, DataDir: cfg.DataDir}
	var err error
	if p.as, err = unprivileged(); err != nil {
		return nil, err
	}
	if cfg.DataDir == "" {
		if err := p.startTemporary(ctx); err != nil {
			return nil, err
		}
		return p, nil
	}
	if p.DataDir, err = filepath.Abs(cfg.DataDir); err != nil {
		return nil, fmt.Errorf("data folder %q: %w", cfg.DataDir, err)
	}
	if err := makeParent(p.DataDir, p.as); err != nil {
		return nil, err
	}
	unlock, err := lockFile(ctx, p.DataDir+".lock")
	if err != nil {
		return nil, err
	}
	defer unlock()
	if ok, err := p.attach(ctx); err != nil || ok {
		return p, err
	}
	if err := p.prepare(ctx); err != nil {
		return nil, err
	}
	if err := p.Start(ctx); err != nil {
		return nil, err
	}
	return p, nil
}

func (p *Postgres) startTemporary(ctx context.Context) error {
	sweep(tempRoot(), p.cfg.Log)
	dir, err := tempDir("pg", p.as)
	if err != nil {
		return err
	}
	p.temp, p.DataDir = dir, filepath.Join(dir, "data")
	err = p.prepare(ctx)
	if err == nil {
		err = p.Start(ctx)
	}
	if err != nil {
		return errors.Join(err, os.RemoveAll(dir))
	}
	return nil
}

// useURL takes the rung "url": a server that is not ours.
func useURL(ctx context.Context, cfg PostgresConfig) (*Postgres, error) {
	if cfg.URL == "" {
		return nil, errors.New("OUTBOX_RELAY_POSTGRES=url: DATABASE_URL is not set")
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	pool, err := pgxpool.ParseConfig(cfg.URL) // what it says of a pool isn't for the server
	if err != nil {
		return nil, errors.New("DATABASE_URL: want postgres://user:password@host:5432/database")
	}
	conn, err := pgx.ConnectConfig(ctx, pool.ConnConfig)
	if err != nil {
		return nil, fmt.Errorf("connect to DATABASE_URL: %w", err)
	}
	return &Postgres{Rung: "url", cfg: cfg, url: cfg.URL}, conn.Close(ctx)
}

// prepare finds the binaries and initialises the data folder if it is absent or empty.
func (p *Postgres) prepare(ctx context.Context) error {
	major, err := clusterVersion(p.DataDir)
	if err != nil {
		return err
	}
	p.bin, err = findPostgres(ctx, p.cfg, p.as, major)
	if err != nil {
		return err
	}
	p.Rung, p.Version, p.BinDir = p.bin.rung, p.bin.version, p.bin.dir
	if major == "" {
		return p.initialise(ctx)
	}
	return nil
}

// URL returns a superuser's connection string over TCP on 127.0.0.1 (for the rung "url": DATABASE_URL itself).
func (p *Postgres) URL() string {
	if p.url != "" {
		return p.url
	}
	return p.urlOf(p.cfg.Database)
}

func (p *Postgres) urlOf(database string) string {
	u := url.URL{Scheme: "postgres", User: url.User(superuser), Host: "127.0.0.1:" + strconv.Itoa(p.Port), Path: "/" + database, RawQuery: "sslmode=disable"}
	return u.String()
}

// Pid returns the postmaster's process id, 0 while it doesn't run or isn't ours.
func (p *Postgres) Pid() int {
	if p.child == nil {
		return 0
	}
	return p.child.pid()
}

// Exited is closed when the server process that runs now has ended, wanted or not; nil if there is none that is ours.
func (p *Postgres) Exited() <-chan struct{} {
	if p.child == nil {
		return nil
	}
	return p.child.done
}

// Start starts the server again after Stop or StopImmediate, on the same data folder and port, and returns when it accepts connections.
func (p *Postgres) Start(ctx context.Context) error {
	switch {
	case p.Rung == "url" || p.Attached:
		return errors.New("start PostgreSQL: the server isn't ours")
	case p.child != nil:
		return errors.New("start PostgreSQL: it runs already")
	}
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	began := time.Now()
	p.cfg.Log.Info("starting PostgreSQL", "version", p.Version, "rung", p.Rung, "data", p.DataDir)
	// A port that was free may be taken by the time the server binds it; one that has been told already can't be changed.
	for try := 1; ; try++ {
		chosen := p.Port == 0
		if chosen {
			var err error
			if p.Port, err = FreePort(); err != nil {
				return err
			}
		}
		err := p.launch(ctx)
		if err == nil {
			break
		}
		if !chosen || try == 3 || !strings.Contains(err.Error(), "could not bind") {
			return err
		}
		p.Port = 0
	}
	p.cfg.Log.Info("PostgreSQL accepts connections", "port", p.Port, "after", time.Since(began).Round(time.Millisecond))
	return p.createDatabase(ctx)
}

// launch starts the process once and waits until postmaster.pid says "ready" or "standby", as pg_ctl does.
func (p *Postgres) launch(ctx context.Context) error {
	logPath := p.DataDir + ".log"
	c, err := p.spawn(logPath)
	if err != nil {
		return err
	}
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		if m, err := readPostmaster(p.DataDir); err == nil && m.pid == c.pid() && (m.status == "ready" || m.status == "standby") {
			p.child = c
			return nil
		}
		select {
		case <-c.done:
			return fmt.Errorf("start PostgreSQL %s in %q: %w: %s", p.Version, p.DataDir, c.err, lastLines(logPath))
		case <-ctx.Done():
			_ = c.signal(syscall.SIGQUIT)
			<-c.done
			return fmt.Errorf("start PostgreSQL %s in %q: %w: %s", p.Version, p.DataDir, ctx.Err(), lastLines(logPath))
		case <-tick.C:
		}
	}
}

func (p *Postgres) spawn(logPath string) (*child, error) {
	args := []string{"-D", p.DataDir}
	for k, v := range p.settings() {
		args = append(args, "-c", k+"="+v)
	}
	out, err := os.OpenFile(logPath, os.O_CREATE|os.O_TRUNC|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, fmt.Errorf("open server log: %w", err)
	}
	defer out.Close()
	if err := os.WriteFile(p.ownerFile(), []byte(strconv.Itoa(os.Getpid())), 0o644); err != nil {
		return nil, fmt.Errorf("note the server's owner: %w", err)
	}
	cmd := p.bin.command("postgres", args...)
	cmd.Stdout, cmd.Stderr = out, out
	sig := syscall.SIGINT // fast shutdown
	if p.cfg.NoSync {
		sig = syscall.SIGQUIT // immediate
	}
	return startChild(cmd, p.as, sig)
}

func (p *Postgres) settings() map[string]string {
	s := map[string]string{
		"listen_addresses":          "127.0.0.1",
		"port":                      strconv.Itoa(p.Port),
		"unix_socket_directories":   "", // a path in a deep data folder would exceed 107 bytes
		"max_connections":           strconv.Itoa(p.cfg.MaxConnections),
		"max_prepared_transactions": strconv.Itoa(p.cfg.MaxPrepared),
		"shared_preload_libraries":  "",
		"timezone":                  p.bin.timezone(),
		"log_timezone":              p.bin.timezone(),
		"logging_collector":         "off",
	}
	if p.cfg.NoSync {
		s["fsync"], s["full_page_writes"] = "off", "off"
	}
	for k, v := range p.cfg.Settings {
		s[k] = v
	}
	return s
}

func (p *Postgres) createDatabase(ctx context.Context) error {
	if p.cfg.Database == "postgres" {
		return nil
	}
	conn, err := pgx.Connect(ctx, p.urlOf("postgres"))
	if err != nil {
		return fmt.Errorf("create database %q: %w", p.cfg.Database, err)
	}
	defer conn.Close(ctx)
	var exists bool
	err = conn.QueryRow(ctx, "SELECT EXISTS (SELECT FROM pg_database WHERE datname = $1)", p.cfg.Database).Scan(&exists)
	if err == nil && !exists {
		_, err = conn.Exec(ctx, "CREATE DATABASE "+pgx.Identifier{p.cfg.Database}.Sanitize())
	}
	if err != nil {
		return fmt.Errorf("create database %q: %w", p.cfg.Database, err)
	}
	return nil
}

// Stop shuts the server down cleanly (SIGINT: sessions are cut, a checkpoint is written) and waits for its end; when ctx ends first,
// it goes on like StopImmediate. Stopping a stopped server, or one that isn't ours, does nothing.
func (p *Postgres) Stop(ctx context.Context) error {
	return p.stop(ctx, syscall.SIGINT)
}

// StopImmediate stops the server as `pg_ctl stop -m immediate` does (SIGQUIT): no checkpoint, the next Start recovers from the WAL. Asynchronous
// commits of the last moments may be gone.
func (p *Postgres) StopImmediate(ctx context.Context) error {
	return p.stop(ctx, syscall.SIGQUIT)
}

func (p *Postgres) stop(ctx context.Context, sig syscall.Signal) error {
	if p.child == nil {
		return nil
	}
	c := p.child
	p.child = nil
	if err := c.stop(ctx, sig, syscall.SIGQUIT); err != nil {
		return fmt.Errorf("stop PostgreSQL: %w", err)
	}
	p.cfg.Log.Info("PostgreSQL stopped", "data", p.DataDir)
	return nil
}

// Close stops the server and deletes its data folder if that is a temporary one.
func (p *Postgres) Close(ctx context.Context) error {
	if p.temp == "" {
		return p.Stop(ctx)
	}
	// Temporary data needs no checkpoint.
	return errors.Join(p.StopImmediate(ctx), os.RemoveAll(p.temp))
}
