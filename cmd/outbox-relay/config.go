package main

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"github.com/outboxrelay/outboxrelay/auth"
	"github.com/outboxrelay/outboxrelay/relay"
	"github.com/outboxrelay/outboxrelay/ws"
)

// config is what the settings say. Everything in it has been checked, except where a comment says else.
type config struct {
	databaseURL string
	redisURL    string
	listenAddr  string
	adminAddr   string
	role        string // all, relay, ws

	auth    auth.Config
	issuers []auth.Config // in place of auth, but for its leeway
	origins []string
	edge    edge

	recentTTL   time.Duration
	retention   time.Duration
	logLimit    int
	pollOnly    bool
	maxCatchup  int
	connections int // 0: no bound
	perUser     int // 0: no bound
	strangers   int // connections without a token
	messages    float64
	burst       int

	pingInterval  time.Duration
	pingTimeout   time.Duration
	authTimeout   time.Duration
	writeTimeout  time.Duration
	shutdownGrace time.Duration

	logLevel  slog.Level
	logFormat string // text, json

	given map[string]bool // names of the settings that were set, by flag or environment
}

func (c *config) relays() bool { return c.role != "ws" }
func (c *config) serves() bool { return c.role != "relay" }

// setting is one row of the table that flags, environment, --help and docs/CONFIGURATION.md are made of.
type setting struct {
	name   string // of the environment variable
	value  string // default
	help   string
	secret bool // NAME_FILE names a file that holds it
	set    func(c *config, value string) error
}

// flag is the setting's name as a flag.
func (s setting) flag() string { return strings.ToLower(strings.ReplaceAll(s.name, "_", "-")) }

// settings is every setting, in the order of the documentation.
func settings() []setting {
	return []setting{
		{"DATABASE_URL", "", "Postgres, direct or session-pooled: postgres://user:password@host:5432/database", true, setDatabase},
		{"REDIS_URL", "", "redis:// or rediss://; several hosts: Redis Cluster; redis+sentinel://: Sentinel", true, setRedis},
		{"LISTEN_ADDR", ":8080", "public listener (/ws)", false, address(func(c *config) *string { return &c.listenAddr })},
		{"ADMIN_ADDR", "127.0.0.1:9090", "listener of /healthz, /readyz, /metrics and /debug/pprof", false, address(func(c *config) *string { return &c.adminAddr })},
		{"ROLE", "all", "all, relay (outbox to Redis) or ws (Redis to WebSocket)", false, oneOf(func(c *config) *string { return &c.role }, "all", "relay", "ws")},
		{"JWT_ACCESS_SECRET", "", "HS256 key of at least 32 bytes", true, setSecret},
		{"JWT_PUBLIC_KEY", "", "in place of the secret: PEM of an RSA (RS256), P-256 (ES256) or Ed25519 (EdDSA) public key", true, setPublicKey},
		{"JWT_JWKS_URL", "", "in place of the secret: where the issuer publishes its keys, https://…", false, setJWKS},
		{"JWT_ISSUERS_FILE", "", "in place of the secret: file that lists several issuers and their keys", false, setIssuers},
		{"JWT_ISSUER", "", "the iss that tokens must have", false, text(func(c *config) *string { return &c.auth.Issuer })},
		{"JWT_AUDIENCE", "", "the aud that tokens must have", false, text(func(c *config) *string { return &c.auth.Audience })},
		{"JWT_LEEWAY", "10s", "tolerated clock difference, at most 30s", false, duration(func(c *config) *time.Duration { return &c.auth.Leeway }, 0, auth.MaxLeeway)},
		{"CLIENT_URL", "", "allowed browser origins, comma separated; empty: only the host that serves /ws", false, setOrigins},
		{"ALLOWED_HOSTS", "", "names by which clients call this server, comma separated; empty: any", false, setHosts},
		{"TRUSTED_PROXIES", "", "networks or addresses of your proxies, comma separated, whose X-Forwarded-For is believed", false, setProxies},
		{"RECENT_EVENTS_TTL", "300s", "age up to which Redis keeps events", false, duration(func(c *config) *time.Duration { return &c.recentTTL }, time.Second, 24*time.Hour)},
		{"MAX_CATCHUP_EVENTS", "50", "most events per program sent in one catch-up", false, number(func(c *config) *int { return &c.maxCatchup }, 1, 10_000)},
		{"OUTBOX_RETENTION", "24h", "age up to which the outbox keeps relayed events; at least RECENT_EVENTS_TTL + 60s", false, duration(func(c *config) *time.Duration { return &c.retention }, time.Minute, 10*365*24*time.Hour)},
		{"LOG_LIMIT", "10000", "most events of one program in Redis", false, number(func(c *config) *int { return &c.logLimit }, 1, 1_000_000)},
		{"RELAY_POLL_ONLY", "false", "true: no LISTEN, events are found by polling every 25 ms", false, setPollOnly},
		{"PING_INTERVAL", "25s", "time between WebSocket pings", false, duration(func(c *config) *time.Duration { return &c.pingInterval }, 10*time.Millisecond, 10*time.Minute)},
		{"PING_TIMEOUT", "60s", "silence after which a connection is closed; longer than PING_INTERVAL", false, duration(func(c *config) *time.Duration { return &c.pingTimeout }, 20*time.Millisecond, 30*time.Minute)},
		{"AUTH_TIMEOUT", "10s", "time for the auth frame", false, duration(func(c *config) *time.Duration { return &c.authTimeout }, 10*time.Millisecond, 5*time.Minute)},
		{"WRITE_TIMEOUT", "10s", "time for one message to a client, then it is a slow consumer", false, duration(func(c *config) *time.Duration { return &c.writeTimeout }, 10*time.Millisecond, 5*time.Minute)},
		{"MAX_CONNECTIONS", "0", "most connections of this process; 0: no bound", false, number(func(c *config) *int { return &c.connections }, 0, 10_000_000)},
		{"MAX_CONNECTIONS_PER_USER", "20", "most connections of one user in this process; 0: no bound", false, number(func(c *config) *int { return &c.perUser }, 0, 10_000_000)},
		{"MAX_UNAUTHENTICATED", "1000", "most connections of this process that have sent no token for a second", false, number(func(c *config) *int { return &c.strangers }, 1, 10_000_000)},
		{"MESSAGE_RATE", "2", "messages and pings a second that a client may send in the long run", false, setMessageRate},
		{"MESSAGE_BURST", "30", "and at once", false, number(func(c *config) *int { return &c.burst }, 1, 100_000)},
		{"SHUTDOWN_GRACE", "20s", "time over which sockets are closed when the process is told to end", false, duration(func(c *config) *time.Duration { return &c.shutdownGrace }, 0, 10*time.Minute)},
		{"LOG_LEVEL", "info", "debug, info, warn or error", false, setLogLevel},
		{"LOG_FORMAT", "text", "text or json", false, oneOf(func(c *config) *string { return &c.logFormat }, "text", "json")},
	}
}

// The settings that a command takes.
var (
	databaseSettings = []string{"DATABASE_URL"}
	serviceSettings  = []string{"DATABASE_URL", "REDIS_URL"}
	tokenSettings    = []string{"JWT_ACCESS_SECRET", "JWT_ISSUER", "JWT_AUDIENCE"}
)

// some returns the named settings.
func some(names ...string) []setting {
	return slices.DeleteFunc(settings(), func(s setting) bool { return !slices.Contains(names, s.name) })
}

// bind adds the flags of settings.
func bind(flags *pflag.FlagSet, list []setting) {
	for _, s := range list {
		flags.String(s.flag(), s.value, s.help+" ["+s.name+"]")
		if s.secret {
			flags.String(s.flag()+"-file", "", "file that holds --"+s.flag()+" ["+s.name+"_FILE]")
		}
	}
}

// load reads settings from flags, then the environment, then the default. What is wrong with any of them is one line of a usageError.
func load(flags *pflag.FlagSet, getenv func(string) string, list []setting) (config, *usageError) {
	c := config{given: map[string]bool{}}
	bad := &usageError{}
	for _, s := range list {
		value, given, err := s.lookup(flags, getenv)
		if err == nil {
			if !given {
				value = s.value
			}
			c.given[s.name] = given
			if given || value != "" {
				err = s.set(&c, value)
			}
		}
		if err != nil {
			bad.lines = append(bad.lines, s.name+": "+err.Error())
		}
	}
	return c, bad
}

// lookup returns what was given: a flag wins over the environment; in either a value and a file contradict each other. An empty variable is
// as good as none.
func (s setting) lookup(flags *pflag.FlagSet, getenv func(string) string) (value string, given bool, err error) {
	own, path := flags.Lookup(s.flag()), ""
	switch file := flags.Lookup(s.flag() + "-file"); {
	case file != nil && file.Changed:
		path = file.Value.String()
		if own.Changed {
			value = own.Value.String()
		}
	case own != nil && own.Changed:
		value = own.Value.String()
		return value, value != "", nil
	case s.secret:
		value, path = getenv(s.name), getenv(s.name+"_FILE")
	default:
		value = getenv(s.name)
	}
	if value != "" && path != "" {
		return "", false, fmt.Errorf("it and %s_FILE are both set: keep one of them", s.name)
	}
	if path == "" {
		return value, value != "", nil
	}
	content, err := os.ReadFile(path)
	if err != nil {
		return "", false, fmt.Errorf("read the file of %s_FILE: %w", s.name, err)
	}
	value = strings.TrimRight(string(content), "\r\n")
	if value == "" {
		return "", false, fmt.Errorf("the file %q of %s_FILE is empty", path, s.name)
	}
	return value, true, nil
}

// err returns b as an error if it has a line.
func (e *usageError) err() error {
	if len(e.lines) == 0 {
		return nil
	}
	return e
}

// require adds a line for each named setting that wasn't given.
func (e *usageError) require(c *config, why map[string]string) {
	for _, s := range settings() {
		want, ok := why[s.name]
		if ok && !c.given[s.name] && !e.names(s.name) {
			e.lines = append(e.lines, s.name+": not set: "+want)
		}
	}
}

var errUnreadable = errors.New("can't be read: " + wantDatabase +
	" (in a password / is %2F and % is %25), and behind a ? parameters that Postgres and the pool know, such as sslmode and pool_max_conns")

const (
	wantDatabase = "want postgres://user:password@host:5432/database"
	wantRedis    = "want redis://host:6379/0"
)

// check adds what is missing or wrong for a server.
func (e *usageError) check(c *config) {
	e.require(c, map[string]string{"DATABASE_URL": wantDatabase, "REDIS_URL": wantRedis})
	if c.serves() {
		e.checkKeys(c)
	}
	e.checkTogether(c)
}

// checkTogether adds what is wrong with settings that are good alone and contradict each other.
func (e *usageError) checkTogether(c *config) {
	if least := c.recentTTL + time.Minute; c.retention != 0 && c.recentTTL != 0 && c.retention < least {
		e.lines = append(e.lines, fmt.Sprintf("OUTBOX_RETENTION: %v is too short: want at least RECENT_EVENTS_TTL + 60s, which is %v", c.retention, least))
	}
	if c.pingTimeout != 0 && c.pingInterval != 0 && c.pingTimeout <= c.pingInterval {
		e.lines = append(e.lines, fmt.Sprintf("PING_TIMEOUT: %v is not longer than PING_INTERVAL, %v", c.pingTimeout, c.pingInterval))
	}
	if _, port, err := net.SplitHostPort(c.adminAddr); err == nil && c.adminAddr == c.listenAddr && port != "0" {
		e.lines = append(e.lines, "ADMIN_ADDR: the same as LISTEN_ADDR: want another port, which the public can't reach")
	}
}

func text(field func(*config) *string) func(*config, string) error {
	return func(c *config, value string) error {
		*field(c) = value
		return nil
	}
}

func oneOf(field func(*config) *string, choices ...string) func(*config, string) error {
	return func(c *config, value string) error {
		if !slices.Contains(choices, value) {
			return fmt.Errorf("%q is none of %s", value, strings.Join(choices, ", "))
		}
		*field(c) = value
		return nil
	}
}

func address(field func(*config) *string) func(*config, string) error {
	return func(c *config, value string) error {
		_, port, err := net.SplitHostPort(value)
		if err != nil {
			return fmt.Errorf("%q is no address: want host:port or :port", value)
		}
		if n, err := strconv.ParseUint(port, 10, 16); err != nil {
			return fmt.Errorf("%q has no port from 0 to 65535", value)
		} else if n == 0 && port != "0" {
			return fmt.Errorf("%q has an odd port", value)
		}
		*field(c) = value
		return nil
	}
}

func number(field func(*config) *int, least, most int) func(*config, string) error {
	return func(c *config, value string) error {
		n, err := strconv.Atoi(value)
		if err != nil || n < least || n > most {
			return fmt.Errorf("%q is no number from %d to %d", value, least, most)
		}
		*field(c) = n
		return nil
	}
}

func duration(field func(*config) *time.Duration, least, most time.Duration) func(*config, string) error {
	return func(c *config, value string) error {
		d, err := time.ParseDuration(value)
		if err != nil {
			return fmt.Errorf("%q is no duration: want a number with a unit, such as 500ms, 300s, 24h", value)
		}
		if d < least || d > most {
			return fmt.Errorf("%v is not between %v and %v", d, least, most)
		}
		*field(c) = d
		return nil
	}
}

func setDatabase(c *config, value string) error {
	if _, err := relay.ConnConfig(value); err != nil {
		return errUnreadable // the parser's message may quote what it couldn't read
	}
	c.databaseURL = value
	return nil
}

func setRedis(c *config, value string) error {
	client, err := relay.OpenRedis(value)
	if err != nil {
		return errors.New(strings.TrimPrefix(err.Error(), "REDIS_URL: "))
	}
	c.redisURL = value
	return client.Close()
}

func setOrigins(c *config, value string) error {
	if c.origins = listOf(value); len(c.origins) == 0 {
		return namesNothing(value)
	}
	// A hub that never runs, for its opinion.
	_, err := ws.New(ws.Config{Log: history{}, Auth: &auth.Verifier{}, Store: &auth.Store{}, Origins: c.origins})
	return err
}

func setPollOnly(c *config, value string) (err error) {
	if c.pollOnly, err = strconv.ParseBool(value); err != nil {
		return fmt.Errorf("%q is neither true nor false", value)
	}
	return nil
}

// setMessageRate refuses what is less than the protocol promises: a ping every 5 s.
func setMessageRate(c *config, value string) (err error) {
	if c.messages, err = strconv.ParseFloat(value, 64); err != nil || !(c.messages >= 0.2 && c.messages <= 10_000) {
		return fmt.Errorf("%q is no number from 0.2 to 10000", value)
	}
	return nil
}

func setLogLevel(c *config, value string) error {
	levels := map[string]slog.Level{"debug": slog.LevelDebug, "info": slog.LevelInfo, "warn": slog.LevelWarn, "error": slog.LevelError}
	level, ok := levels[strings.ToLower(value)]
	if !ok {
		return fmt.Errorf("%q is none of debug, info, warn, error", value)
	}
	c.logLevel = level
	return nil
}

// databaseName is the part of a connection string that may be shown.
func databaseName(databaseURL string) string {
	c, err := relay.ConnConfig(databaseURL)
	if err != nil {
		return "?"
	}
	return (&url.URL{Scheme: "postgres", Host: net.JoinHostPort(c.Host, strconv.Itoa(int(c.Port))), Path: c.Database}).String()
}
