package main

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/redis/go-redis/v9"

	"github.com/outboxrelay/outboxrelay/auth"
	"github.com/outboxrelay/outboxrelay/migrations"
	"github.com/outboxrelay/outboxrelay/outbox"
	"github.com/outboxrelay/outboxrelay/relay"
	"github.com/outboxrelay/outboxrelay/ws"
)

const (
	connectTimeout = 5 * time.Second
	poolSize       = 16 // connections, unless the URL has pool_max_conns: memberships and their changes take 8 at most, deep reads 4
)

// server is a relay, a hub or both, with their listeners and connections.
type server struct {
	config   *config
	log      *slog.Logger
	registry *prometheus.Registry
	verifier *auth.Verifier // nil: ROLE=relay
	pool     *pgxpool.Pool
	redis    redis.UniversalClient
	reader   *relay.History // nil: ROLE=relay
	relay    *relay.Relay   // nil: ROLE=ws
	hub      *ws.Hub        // nil: ROLE=relay
	fallback http.Handler   // for the public listener beside /ws; nil: 404

	public, admin net.Listener // public is nil for ROLE=relay
	stopping      atomic.Bool
}

// newServer checks the database and opens the listeners; nothing runs yet. The caller closes it.
func newServer(ctx context.Context, c *config, log *slog.Logger) (*server, error) {
	s := &server{config: c, log: log, registry: prometheus.NewRegistry()}
	if err := s.open(ctx); err != nil {
		s.close()
		return nil, err
	}
	return s, nil
}

// open makes what s is made of; close frees what it got to.
func (s *server) open(ctx context.Context) (err error) {
	c := s.config
	s.registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	if s.pool, err = openPool(ctx, c.databaseURL); err != nil {
		return err
	}
	if err := s.checkDatabase(ctx); err != nil {
		return err
	}
	if s.redis, err = relay.OpenRedis(c.redisURL); err != nil {
		return err
	}
	if c.serves() {
		if s.hub, err = s.newHub(); err != nil {
			return err
		}
		if s.public, err = listen(ctx, c.listenAddr, "LISTEN_ADDR"); err != nil {
			return err
		}
	}
	if c.relays() {
		s.relay, err = relay.New(relay.Config{
			DatabaseURL: c.databaseURL, Redis: s.redis, RecentTTL: c.recentTTL, Retention: c.retention, LogLimit: c.logLimit,
			PollOnly: c.pollOnly, Near: s.reader, Logger: s.log, Registerer: s.registry,
		})
		if err != nil {
			return err
		}
	}
	s.admin, err = listen(ctx, c.adminAddr, "ADMIN_ADDR")
	return err
}

func openPool(ctx context.Context, databaseURL string) (*pgxpool.Pool, error) {
	c, err := pgxpool.ParseConfig(databaseURL)
	if err != nil {
		return nil, fmt.Errorf("DATABASE_URL: %w", errUnreadable)
	}
	if !strings.Contains(databaseURL, "pool_max_conns") {
		c.MaxConns = poolSize
	}
	if c.ConnConfig.RuntimeParams["application_name"] == "" {
		c.ConnConfig.RuntimeParams["application_name"] = "outbox-relay reader"
	}
	c.ConnConfig.ConnectTimeout, c.ConnConfig.DialFunc = connectTimeout, relay.Dial
	c.AfterConnect = func(ctx context.Context, conn *pgx.Conn) error {
		_, err := conn.Exec(ctx, outbox.PlanSettings, pgx.QueryExecModeSimpleProtocol)
		return err
	}
	pool, err := pgxpool.NewWithConfig(ctx, c)
	if err != nil {
		return nil, fmt.Errorf("open the pool: %w", err)
	}
	return pool, nil
}

// withServices opens, for a command, what the servers share, and closes it after use.
func withServices(ctx context.Context, c *config, use func(*pgxpool.Pool, redis.UniversalClient) error) error {
	pool, err := openPool(ctx, c.databaseURL)
	if err != nil {
		return err
	}
	defer pool.Close()
	if err := migrations.Check(ctx, pool); err != nil {
		return err
	}
	client, err := relay.OpenRedis(c.redisURL)
	if err != nil {
		return err
	}
	defer func() { _ = client.Close() }()
	return use(pool, client)
}

// connect opens one connection, beside the pool.
func connect(ctx context.Context, databaseURL string) (*pgx.Conn, error) {
	c, err := relay.ConnConfig(databaseURL)
	if err != nil {
		return nil, errUnreadable
	}
	return pgx.ConnectConfig(ctx, c)
}

// checkDatabase refuses a database that this build can't work with.
func (s *server) checkDatabase(ctx context.Context) error {
	if err := s.pool.Ping(ctx); err != nil {
		return fmt.Errorf("connect to DATABASE_URL: %w", err)
	}
	if err := migrations.Check(ctx, s.pool); err != nil {
		return err
	}
	if err := migrations.CheckTables(ctx, s.pool); err != nil {
		return err
	}
	if s.config.relays() {
		return refusePooler(ctx, s.config.databaseURL)
	}
	return nil
}

func (s *server) newHub() (*ws.Hub, error) {
	c := s.config
	tokens := c.tokens()
	for i := range tokens {
		tokens[i].Logger = s.log
	}
	verifier, err := auth.NewVerifier(tokens...)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", strings.Join(keySettings, ", "), err)
	}
	s.verifier = verifier
	s.registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "outbox_relay_auth_degraded", Help: "Issuers whose keys are missing or couldn't be refreshed lately.",
	}, func() float64 {
		reasons, _ := verifier.Ready()
		return float64(len(reasons))
	}))
	s.reader = relay.NewHistory(relay.HistoryConfig{
		Redis: s.redis, Pool: s.pool, RecentTTL: c.recentTTL, LogLimit: c.logLimit, Logger: s.log, Registerer: s.registry,
	})
	perUser := c.perUser
	if perUser == 0 {
		perUser = -1
	}
	return ws.New(ws.Config{
		Log: history{s.reader}, Auth: verifier, Store: auth.NewStore(s.pool), Logger: s.log, Registerer: s.registry, Origins: c.origins,
		MaxCatchup: c.maxCatchup, PingInterval: c.pingInterval, PingTimeout: c.pingTimeout, AuthTimeout: c.authTimeout,
		WriteTimeout: c.writeTimeout, ShutdownGrace: max(c.shutdownGrace, time.Millisecond), // 0 is the hub's default
		MaxConnections: c.connections, MaxPerUser: perUser, MaxUnauthenticated: c.strangers, MessageRate: c.messages, MessageBurst: c.burst,
	})
}

// run serves until ctx ends or something fails, with further parts that are stopped before all others.
func (s *server) run(ctx context.Context, first ...part) error {
	parts := append(slices.Clone(first), part{"readiness", func(ctx context.Context) error {
		<-ctx.Done()
		s.stopping.Store(true)
		s.log.Info("stopping", "grace", s.config.shutdownGrace)
		return nil
	}})
	if s.hub != nil {
		public := publicServer(s.config.edge, s.hub, s.fallback, s.log)
		parts = append(parts,
			part{"listener", func(ctx context.Context) error { return serveHTTP(ctx, s.public, public) }},
			part{"hub", s.hub.Run},
			part{"keys", s.verifier.Run})
		s.log.Info("listening", "address", s.public.Addr().String())
	}
	if s.relay != nil {
		parts = append(parts, part{"relay", s.relay.Run})
	}
	admin := s.adminServer()
	parts = append(parts, part{"admin listener", func(ctx context.Context) error { return serveHTTP(ctx, s.admin, admin) }})
	s.log.Info("serving", "role", s.config.role, "admin", s.admin.Addr().String(), "version", version())
	return runParts(ctx, parts)
}

// close frees what newServer took. After run the listeners are closed already.
func (s *server) close() {
	for _, l := range []net.Listener{s.public, s.admin} {
		if l != nil {
			_ = l.Close()
		}
	}
	if s.redis != nil {
		_ = s.redis.Close()
	}
	if s.pool != nil {
		s.pool.Close()
	}
}
