package relay

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/redis/go-redis/v9"
)

// Config tells a Relay where to work. Zero values are the defaults.
type Config struct {
	DatabaseURL string                // direct or session-pooled; required
	Redis       redis.UniversalClient // from OpenRedis; required
	RecentTTL   time.Duration         // age up to which Redis keeps events; default 300 s
	Retention   time.Duration         // age up to which the outbox keeps relayed events; default 24 h, at least RecentTTL + 1 min
	LogLimit    int                   // most entries of one program in Redis; default 10,000
	PollOnly    bool                  // no LISTEN: reads every 25 ms instead
	Near        *History              // of the same process, if it has one: what it watches hears of events before Redis does; default: none
	Logger      *slog.Logger          // default: slog.Default()
	Registerer  prometheus.Registerer // default: none
}

// DefaultRecentTTL, DefaultRetention and DefaultLogLimit are what zero values in Config mean.
const (
	DefaultRecentTTL = 300 * time.Second
	DefaultRetention = 24 * time.Hour
	DefaultLogLimit  = 10_000
)

func (c Config) withDefaults() (Config, error) {
	c.RecentTTL, c.LogLimit = cmp.Or(c.RecentTTL, DefaultRecentTTL), cmp.Or(c.LogLimit, DefaultLogLimit)
	c.Retention = cmp.Or(c.Retention, max(DefaultRetention, c.RecentTTL+skewAllowance))
	c.Logger = cmp.Or(c.Logger, slog.Default())
	switch {
	case c.DatabaseURL == "":
		return c, errors.New("relay: Config.DatabaseURL is empty")
	case c.Redis == nil:
		return c, errors.New("relay: Config.Redis is nil")
	case c.RecentTTL < time.Second || c.LogLimit < 1:
		return c, errors.New("relay: Config.RecentTTL must be at least 1 s and LogLimit at least 1")
	}
	return c, nil
}

// Relay carries events from one database to one Redis. Any number of them may run; one leads.
type Relay struct {
	config  Config
	health  *health
	metrics *metrics
	lacking int // owned by Run: how often patience hasn't been enough

	patience time.Duration // for one statement; statementTimeout, but for tests
	quiet    time.Duration // without events for this long it falls asleep; quietFor, but 0 for tests that want a sleep after each wake-up
	nearFor  time.Duration // the relay relies on a head that it has set this far above it; nearFor, but for tests
	fallback time.Duration // asleep, it reads this often without being woken; fallbackPoll, but for tests that look for lost wake-ups
}

// New checks the configuration. It connects to nothing.
func New(c Config) (*Relay, error) {
	c, err := c.withDefaults()
	if err != nil {
		return nil, err
	}
	m := newMetrics(c.Registerer)
	return &Relay{
		config: c, metrics: m, patience: statementTimeout, quiet: quietFor, fallback: fallbackPoll, nearFor: nearFor,
		health: newHealth(c.Logger, m.degraded, leaderStates...),
	}, nil
}

// Ready returns why the relay doesn't do its whole work at this moment, one reason a line; nothing if all is well. A standby that
// waits for the leader's lock is ready.
func (r *Relay) Ready() []string { return r.health.problems() }

// Leading tells whether this relay holds the leader's lock.
func (r *Relay) Leading() bool { return r.health.leading.Load() }

const (
	firstRetry = 100 * time.Millisecond
	lastRetry  = 3 * time.Second
)

// Run relays until ctx ends, and then returns nil. Whatever goes wrong meanwhile is logged, shown by Ready, and tried again in a new session.
func (r *Relay) Run(ctx context.Context) error {
	r.health.set(stateSession, connecting)
	for delay := firstRetry; ; {
		began := time.Now()
		err := r.session(ctx)
		r.health.leading.Store(false)
		r.metrics.leader.Set(0)
		if ctx.Err() != nil {
			return nil //nolint:nilerr // the end of ctx is the way to stop; what it interrupted is no failure
		}
		r.health.set(stateSession, fmt.Sprintf("session ended: %v", err))
		r.metrics.sessions.Inc()
		if time.Since(began) > 10*lastRetry {
			delay = firstRetry
		}
		if !sleep(ctx, delay/2+rand.N(delay)) {
			return nil
		}
		delay = min(2*delay, lastRetry)
	}
}

// sleep waits and reports whether ctx is still alive.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}
