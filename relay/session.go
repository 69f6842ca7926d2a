package relay

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/redis/go-redis/v9"
	"golang.org/x/sync/errgroup"

	"github.com/outboxrelay/outboxrelay/migrations"
	"github.com/outboxrelay/outboxrelay/outbox"
)

const (
	lockClass  = 1919249529 // "rely": the class of both advisory locks
	leaderLock = 1
	sleepLock  = 2 // held exclusively while the relay sleeps; relay.wake() tries it

	standbyRetry  = time.Second      // a standby tries the leader's lock this often
	pingInterval  = 3 * time.Second  // the session is used at least this often …
	pingTimeout   = 5 * time.Second  // … and must answer within this
	readTimeout   = 10 * time.Second // a batch that fits in memory
	compareEvery  = 30 * time.Second // Redis' newest scores are compared with what they must be
	maxBatch      = 1000             // rows of a batch that is read in one statement; also of a chunk of a larger one
	channel       = "relay_outbox"
	closeTimeout  = 2 * time.Second
	sessionLimits = `SET idle_session_timeout = '10s'; SET idle_in_transaction_session_timeout = '10s'; SET tcp_user_timeout = '10s';
SET statement_timeout = 0; SET lock_timeout = 0; SET synchronous_commit = on; SET default_transaction_isolation = 'read committed'; ` + outbox.PlanSettings
)

// session is one Postgres session that leads, from the lock to the loss of the connection. One goroutine owns it; only while a chunk is on its way,
// the one that sends it has log.
type session struct {
	*Relay
	conn    *pgx.Conn
	cluster outbox.Cluster
	last    outbox.Tick // the newest tick; fully published between steps
	log     *logWriter

	used      time.Time // when the session last answered
	compared  time.Time // when Redis was last compared
	suspect   bool      // Redis failed since: compare before going on
	headSet   int64     // the database's clock when the head was last known to be this session's, or the head if that is later
	sleeping  bool      // holds the sleep lock
	deaf      bool      // the newest canary wasn't heard
	notified  int       // commits that notified, of one wake-up: each transaction does once, however much it writes
	flush     flush
	clockAt   time.Time // the database's clock …
	clockRead time.Time // … when it was read

	heardCanary string                 // payload of the newest one that was heard
	canary      atomic.Pointer[canary] // the newest one that was sent; shared with sing
}

// session connects, waits for the leader's lock, and leads until something fails or ctx ends.
func (r *Relay) session(ctx context.Context) error {
	conn, err := connect(ctx, r.config.DatabaseURL, "outbox-relay")
	if err != nil {
		return err
	}
	defer closeConn(ctx, conn)
	if _, err := check(ctx, conn); err != nil {
		return err
	}
	if err := r.lead(ctx, conn); err != nil {
		return err
	}
	server, err := check(ctx, conn) // a standby may have waited for days: its clock and its schema are those of now
	if err != nil {
		return err
	}
	s := &session{
		Relay: r, conn: conn, cluster: server.Cluster, used: time.Now(), clockAt: server.Now, clockRead: time.Now(),
		log: newLogWriter(r.config),
	}
	s.log.now = s.now
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return r.retain(ctx) })
	group.Go(func() error { return s.run(ctx) })
	if !r.config.PollOnly {
		group.Go(func() error { return s.sing(ctx) })
	}
	return group.Wait()
}

// connect dials a connection of its own, never a pool's: it carries locks, LISTEN and settings.
func connect(ctx context.Context, url, name string) (*pgx.Conn, error) {
	config, err := ConnConfig(url)
	if err != nil {
		return nil, err
	}
	if config.RuntimeParams["application_name"] == "" {
		config.RuntimeParams["application_name"] = name
	}
	config.ConnectTimeout = pingTimeout
	conn, err := pgx.ConnectConfig(ctx, config)
	if err != nil {
		return nil, fmt.Errorf("connect to Postgres: %w", err)
	}
	limited, cancel := context.WithTimeout(ctx, pingTimeout)
	defer cancel()
	if _, err := conn.Exec(limited, sessionLimits, pgx.QueryExecModeSimpleProtocol); err != nil {
		closeConn(ctx, conn)
		return nil, fmt.Errorf("set up the Postgres session: %w", err)
	}
	return conn, nil
}

// check refuses a server that a relay can't work with.
func check(ctx context.Context, conn *pgx.Conn) (server outbox.Server, err error) {
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	if err := migrations.Check(ctx, conn); err != nil {
		return server, err
	}
	if server, err = outbox.ReadServer(ctx, conn); err != nil {
		return server, err
	}
	if server.Standby {
		return server, errors.New("the database is a standby, whose snapshots lack open transactions: DATABASE_URL must name the primary")
	}
	return server, nil
}

// closeConn says goodbye even when ctx has ended, so that the server frees the locks at once.
func closeConn(ctx context.Context, conn *pgx.Conn) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeTimeout)
	defer cancel()
	_ = conn.Close(ctx)
}

// lead returns once this session holds the leader's lock. It tries instead of waiting: a session that waits for a lock holds back
// vacuum, and the tries keep the session alive.
func (r *Relay) lead(ctx context.Context, conn *pgx.Conn) error {
	for waiting := false; ; waiting = true {
		got, err := tryLock(ctx, conn, leaderLock)
		if err != nil {
			return err
		}
		if got {
			r.config.Logger.Info("relay: leading")
			r.health.leading.Store(true)
			r.metrics.leader.Set(1)
			return nil
		}
		r.health.standby()
		if !waiting {
			r.config.Logger.Info("relay: standby, another relay leads")
		}
		if !sleep(ctx, standbyRetry) {
			return ctx.Err()
		}
	}
}

func tryLock(ctx context.Context, conn *pgx.Conn, key int) (got bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, pingTimeout)
	defer cancel()
	if err := conn.QueryRow(ctx, "SELECT pg_try_advisory_lock($1, $2)", lockClass, key).Scan(&got); err != nil {
		return false, fmt.Errorf("try advisory lock %d: %w", key, err)
	}
	return got, nil
}

// run is the life of a leader: make sure that the newest tick is in Redis, then follow the outbox.
func (s *session) run(ctx context.Context) error {
	if !s.config.PollOnly {
		if err := s.listen(ctx); err != nil {
			return err
		}
	} else {
		s.health.set(statePolling, "poll-only by configuration")
	}
	if err := s.begin(ctx); err != nil {
		return err
	}
	s.health.set(stateSession, "")
	if s.config.PollOnly {
		return s.poll(ctx)
	}
	return s.follow(ctx)
}

func (s *session) listen(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, pingTimeout)
	defer cancel()
	if _, err := s.conn.Exec(ctx, "LISTEN "+channel); err != nil {
		return fmt.Errorf("listen: %w", err)
	}
	return nil
}

// begin brings Redis to the newest tick. Its publication is repeated whatever the session before did: that one may have died
// anywhere between COMMIT and the last append.
func (s *session) begin(ctx context.Context) error {
	err := s.patiently(ctx, func(ctx context.Context) (err error) {
		s.last, err = outbox.NewestTick(ctx, s.conn)
		return err
	})
	if err != nil {
		return err
	}
	if err := s.openLog(ctx); err != nil {
		return err
	}
	before := outbox.Tick{Position: s.last.After, Snapshot: s.last.AfterSnapshot}
	if s.last.Position == 0 || !s.last.Replayable || s.last.Events == 0 {
		before = s.last
	}
	if err := s.readHeads(ctx, before); err != nil {
		return err
	}
	s.suspect = true // this session has not seen what Redis holds
	err = s.publishTick(ctx, s.last, nil)
	if errors.Is(err, outbox.ErrDeleted) && headPosition(s.log.head) >= s.last.Position {
		s.config.Logger.Warn("relay: the newest tick isn't published again: it has been", "error", err)
		if err = s.readHeads(ctx, s.last); err == nil {
			err = s.publishHead(ctx)
		}
	}
	return err
}

// readHeads notes the predecessors of what follows the tick upto.
func (s *session) readHeads(ctx context.Context, upto outbox.Tick) error {
	err := s.patiently(ctx, func(ctx context.Context) (err error) {
		s.log.newest, err = outbox.ReadHeads(ctx, s.conn, s.now()-(s.log.window+skewAllowance).Microseconds(), upto, headRows)
		return err
	})
	if err == nil {
		s.used = time.Now()
	}
	return err
}

// openLog loads the scripts, reads the head, and where the database has started a new history starts it in Redis too. So it has if it is not
// what the newest tick was committed on, or if Redis has seen a tick that it doesn't hold: then it is an older copy of itself. The database
// comes first: whatever dies in between, a head of another history is still there to say that the logs must be cleared. They are too if they may
// have been trimmed by less than what they are to hold.
func (s *session) openLog(ctx context.Context) error {
	var seen int64
	var held limits
	err := s.withRedis(ctx, func(ctx context.Context) (err error) {
		if err = s.log.load(ctx); err == nil {
			s.log.head, seen, err = readHead(ctx, s.log.redis)
		}
		if err == nil {
			held, err = readLimits(ctx, s.log.redis)
		}
		return err
	})
	if err != nil {
		return err
	}
	was := headCluster(s.log.head)
	if was.SystemID == s.cluster.SystemID && was.Timeline > s.cluster.Timeline {
		return fmt.Errorf("%w (%s); if that one is gone for good, run in Redis: SET %s %d:%d:%d", errNewer, s.log.head,
			headKey, s.cluster.SystemID, s.cluster.Timeline, seen)
	}
	if s.last.Position == 0 {
		s.last.Cluster = s.cluster // no tick says otherwise
	}
	if s.last.Cluster != s.cluster || seen > s.last.Position {
		if err := s.rebase(ctx, seen); err != nil {
			return err
		}
	}
	begun := s.last.Events == 0 && seen < s.last.Position // a tick without events begins a history, or there is none at all
	another := begun || s.last.Position == 0 || s.log.head != "" && was != s.cluster
	if another || held.least(s.log.limits) != s.log.limits {
		switch {
		case s.log.head == "":
		case another:
			s.config.Logger.Warn("relay: Redis holds another history; its logs are cleared", "head", s.log.head)
		default:
			s.config.Logger.Info("relay: the logs in Redis are to hold more than before; they are filled again", "before", held, "now", s.log.limits)
		}
		if err := s.clear(ctx); err != nil {
			return err
		}
	}
	return s.withRedis(ctx, func(ctx context.Context) error {
		if held != s.log.limits { // less is said before anything is trimmed by it
			if err := s.log.redis.Set(ctx, limitsKey, s.log.limits.String(), 0).Err(); err != nil {
				return fmt.Errorf("set %s: %w", limitsKey, err)
			}
		}
		if another { // Connected clients are told of the new history when their memberships are read: now, not within a minute.
			return tellNodes(ctx, s.log.redis, s.last.Position)
		}
		return nil
	})
}

// now is the database's clock as a position (microseconds since 1970), carried on by the monotonic clock.
func (s *session) now() int64 { return s.clockAt.Add(time.Since(s.clockRead)).UnixMicro() }

// keepAlive pings the session if it hasn't been used for a while.
func (s *session) keepAlive(ctx context.Context) error {
	if time.Since(s.used) < pingInterval {
		return nil
	}
	return s.ping(ctx)
}

// ping makes sure that the session, and with it the leader's lock, is still there.
func (s *session) ping(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, pingTimeout)
	defer cancel()
	if err := s.conn.Ping(ctx); err != nil {
		return fmt.Errorf("ping Postgres: %w", err)
	}
	s.used = time.Now()
	return s.drain(ctx)
}

// withRedis repeats work until it succeeds, fails for a reason that isn't Redis being away, or the Postgres session is lost. Nothing else
// happens meanwhile: the outbox is the buffer. Writers send no NOTIFY while the relay waits here.
func (s *session) withRedis(ctx context.Context, work func(context.Context) error) error {
	for delay := 20 * time.Millisecond; ; delay = min(2*delay, time.Second) {
		attempt, cancel := context.WithTimeout(ctx, redisTimeout)
		err := work(attempt)
		cancel()
		if err == nil {
			s.health.set(stateRedis, "")
			return nil
		}
		if ctx.Err() != nil || errors.Is(err, errLate) || errors.Is(err, errNewer) || errors.Is(err, errLimits) {
			return err
		}
		if isNoScript(err) { // Redis was restarted or flushed: its scripts are gone
			err = errors.Join(err, s.log.load(ctx))
		}
		if cluster, ok := s.log.redis.(*redis.ClusterClient); ok {
			cluster.ReloadState(ctx) // another master may have taken over
		}
		s.suspect = true
		s.health.set(stateRedis, "Redis can't be written, events wait in the outbox: "+err.Error())
		if err := s.wakeUp(ctx); err != nil {
			return err
		}
		if err := s.keepAlive(ctx); err != nil {
			return err
		}
		if !sleep(ctx, delay) {
			return ctx.Err()
		}
	}
}
