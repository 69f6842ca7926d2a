package relay_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"

	"github.com/outboxrelay/outboxrelay/internal/devstack"
	"github.com/outboxrelay/outboxrelay/internal/testenv"
	"github.com/outboxrelay/outboxrelay/outbox"
)

// load emits events to four programs from four writers until stop is called, which returns how many were committed. No writer
// may meet an error or wait long: whatever happens to Redis and the relay is none of its business.
func (s *stack) load() (stop func() int) {
	s.t.Helper()
	ctx, cancel := context.WithCancel(s.t.Context())
	var group errgroup.Group
	var committed atomic.Int64
	for w := range 4 {
		group.Go(func() error {
			for n := 0; ctx.Err() == nil; n++ {
				began := time.Now()
				_, err := outbox.Emit(s.t.Context(), s.pool, outbox.Event{Program: fmt.Sprintf("p%d", (w+n)%4), Name: "a:b", Data: map[string]int{"n": n}})
				if err != nil {
					return err
				}
				if d := time.Since(began); d > 5*time.Second {
					return fmt.Errorf("a writer waited %v", d)
				}
				committed.Add(1)
				if !pause(ctx, 2*time.Millisecond) {
					return nil
				}
			}
			return nil
		})
	}
	return func() int {
		cancel()
		if err := group.Wait(); err != nil {
			s.t.Error(err)
		}
		return int(committed.Load())
	}
}

func pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}

// whole waits until Redis holds exactly what is committed, each event once.
func (s *stack) whole() {
	s.t.Helper()
	testenv.Eventually(s.t, 30*time.Second, func() error {
		for n := range 4 {
			program := fmt.Sprintf("p%d", n)
			var want []string
			rows, err := s.pool.Query(s.t.Context(), "SELECT id::text FROM relay.outbox WHERE program_id = $1 ORDER BY id", program)
			if err != nil {
				return err
			}
			if want, err = pgx.CollectRows(rows, pgx.RowTo[string]); err != nil {
				return err
			}
			seen := map[string]bool{}
			for _, f := range s.log(program) {
				if seen[f.ID] {
					return fmt.Errorf("%s: event %s twice", program, f.ID)
				}
				seen[f.ID] = true
			}
			for _, id := range want {
				if !seen[id] {
					return fmt.Errorf("%s: event %s is missing (%d of %d are there)", program, id, len(seen), len(want))
				}
			}
			if len(seen) != len(want) {
				return fmt.Errorf("%s: %d events, %d are committed", program, len(seen), len(want))
			}
		}
		return nil
	})
}

// grows waits until Redis holds more than n events.
func (s *stack) grows(n int) {
	s.t.Helper()
	testenv.Eventually(s.t, 20*time.Second, func() error {
		total := 0
		for k := range 4 {
			total += len(s.log(fmt.Sprintf("p%d", k)))
		}
		if total <= n {
			return fmt.Errorf("%d events in Redis, want more than %d", total, n)
		}
		return nil
	})
}

func TestWhatRedisLosesIsRefilled(t *testing.T) {
	t.Parallel()
	s := newStack(t)
	r := s.relay(nil)
	stop := s.load()
	for range 3 {
		s.grows(50)
		if err := s.redis.FlushAll(t.Context()).Err(); err != nil {
			t.Fatal(err)
		}
	}
	s.grows(50)
	for _, program := range []string{"p0", "p1"} {
		if err := s.redis.Del(t.Context(), "socket:events:program:"+program).Err(); err != nil {
			t.Fatal(err)
		}
	}
	s.grows(50)
	// Not even the right type.
	if err := s.redis.Set(t.Context(), "socket:events:program:p2", "junk", 0).Err(); err != nil {
		t.Fatal(err)
	}
	testenv.Eventually(t, 20*time.Second, func() error {
		if kind := s.redis.Type(t.Context(), "socket:events:program:p2").Val(); kind != "zset" {
			return fmt.Errorf("p2 is a %s", kind)
		}
		return nil
	})
	stop()
	s.whole()
	if got := r.metric(t, "refills_total"); got < 5 {
		t.Errorf("%v refills, want at least 5", got)
	}
}

func TestRedisStoppedAndFrozen(t *testing.T) {
	t.Parallel()
	own := testenv.OwnRedis(t)
	pool, url := testenv.DB(t)
	s := &stack{t: t, pool: pool, url: url, redis: openRedis(t, own.URL())}
	r := s.relay(nil)
	stop := s.load()
	s.grows(50)
	if err := own.Kill(t.Context()); err != nil {
		t.Fatal(err)
	}
	testenv.Eventually(t, 10*time.Second, func() error {
		if len(r.Ready()) == 0 {
			return fmt.Errorf("ready although Redis is dead")
		}
		return nil
	})
	if !pause(t.Context(), time.Duration(times(1, 10))*time.Second) { // the outage itself
		t.Fatal(t.Context().Err())
	}
	if err := own.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	s.grows(50)
	if err := own.Pause(); err != nil {
		t.Fatal(err)
	}
	testenv.Eventually(t, 15*time.Second, func() error {
		if len(r.Ready()) == 0 {
			return fmt.Errorf("ready although Redis is frozen")
		}
		return nil
	})
	if err := own.Continue(); err != nil {
		t.Fatal(err)
	}
	testenv.Eventually(t, 15*time.Second, func() error {
		if why := r.Ready(); len(why) > 0 {
			return fmt.Errorf("not ready: %v", why)
		}
		return nil
	})
	stop()
	s.whole()
	if got := r.metric(t, "sessions_ended_total"); got != 0 {
		t.Errorf("%v Postgres sessions were lost to a Redis outage", got)
	}
}

func TestFailoverToAReplicaThatLostTheLastAppends(t *testing.T) {
	t.Parallel()
	primary := testenv.OwnRedis(t)
	replica := testenv.OwnRedis(t, "--replicaof", "127.0.0.1 "+port(primary.Addr))
	proxy := testenv.Proxy(t, primary.Addr)
	pool, url := testenv.DB(t)
	s := &stack{t: t, pool: pool, url: url, redis: openRedis(t, "redis://"+proxy.Addr())}
	s.relay(nil)
	stop := s.load()
	s.grows(50)
	stale := openRedis(t, replica.URL())
	testenv.Eventually(t, 10*time.Second, func() error {
		if n, err := stale.ZCard(t.Context(), "socket:events:program:p0").Result(); n < 5 {
			return fmt.Errorf("the replica holds %d events (%w)", n, err)
		}
		return nil
	})
	if err := replica.Pause(); err != nil { // from here on it misses what the primary gets
		t.Fatal(err)
	}
	held := len(s.log("p0"))
	testenv.Eventually(t, 10*time.Second, func() error {
		if n := len(s.log("p0")); n < held+20 {
			return fmt.Errorf("%d events", n)
		}
		return nil
	})
	if err := primary.Kill(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := replica.Continue(); err != nil {
		t.Fatal(err)
	}
	if err := stale.Do(t.Context(), "REPLICAOF", "NO", "ONE").Err(); err != nil {
		t.Fatal(err)
	}
	proxy.SetTarget(replica.Addr)
	s.grows(100)
	stop()
	s.whole()
}

func port(addr string) string {
	for i := len(addr) - 1; i >= 0; i-- {
		if addr[i] == ':' {
			return addr[i+1:]
		}
	}
	return addr
}

func TestOneLeadsAndTheOtherTakesOver(t *testing.T) {
	t.Parallel()
	s := newStack(t)
	a, b := s.relay(nil), s.relay(nil)
	stop := s.load()
	for range times(3, 20) {
		s.grows(0)
		testenv.Eventually(t, 10*time.Second, func() error { // who has lost the lock learns it by its next statement
			if a.Leading() && b.Leading() {
				return errors.New("both lead")
			}
			return nil
		})
		_, err := s.pool.Exec(t.Context(), `SELECT pg_terminate_backend(pid) FROM pg_locks
			WHERE locktype = 'advisory' AND classid = 1919249529 AND objid = 1 AND database = (SELECT oid FROM pg_database WHERE datname = current_database())`)
		if err != nil {
			t.Fatal(err)
		}
		before := len(s.log("p0"))
		testenv.Eventually(t, 10*time.Second, func() error {
			if got := len(s.log("p0")); got <= before {
				return fmt.Errorf("nobody took over: leading %v, %v", a.Leading(), b.Leading())
			}
			return nil
		})
	}
	stop()
	s.whole()
}

func TestPostgresStoppedImmediatelyUnderLoad(t *testing.T) {
	t.Parallel()
	pg := testenv.OwnPostgres(t, devstack.PostgresConfig{Settings: map[string]string{"wal_writer_delay": "200ms"}})
	s := &stack{t: t, pool: testenv.Pool(t, pg.URL()), url: pg.URL(), redis: openRedis(t, testenv.Redis(t))}
	s.relay(nil)
	for range times(2, 5) {
		ctx, cancel := context.WithCancel(t.Context())
		var group errgroup.Group
		for w := range 8 {
			group.Go(func() error {
				for n := 0; ctx.Err() == nil; n++ { // commits that a crash may take back, and ends with the server
					err := pgx.BeginFunc(ctx, s.pool, func(tx pgx.Tx) error {
						if _, err := tx.Exec(ctx, "SET LOCAL synchronous_commit = off"); err != nil {
							return err
						}
						_, err := outbox.Emit(ctx, tx, outbox.Event{Program: fmt.Sprintf("p%d", (w+n)%4), Name: "a:b"})
						return err
					})
					if err != nil {
						return nil //nolint:nilerr // the server is gone, as it should
					}
				}
				return nil
			})
		}
		s.grows(len(s.log("p0"))*4 + 100)
		if err := pg.StopImmediate(t.Context()); err != nil {
			t.Fatal(err)
		}
		cancel()
		_ = group.Wait()
		if err := pg.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		s.whole() // exactly what has survived: a phantom would be one too many
	}
}

// Where Redis had lost the head, or the relay had died before it set one, the logs of the old history stayed.
func TestARestoreIntoAnotherClusterRelaysEachUnrelayedRowOnce(t *testing.T) {
	t.Parallel()
	for name, lost := range map[string]bool{"head": false, "no head": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			restore(t, lost)
		})
	}
}

func restore(t *testing.T, headLost bool) {
	s := newStack(t)
	r := s.relay(nil)
	first := s.emit("p0", nil)
	s.eventuallyLog("p0", first)
	r.stop()
	testenv.Eventually(t, 10*time.Second, func() (err error) { // a statement that was under way may still see what comes now
		var sessions int
		query := "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name LIKE 'outbox-relay%'"
		if err = s.pool.QueryRow(t.Context(), query).Scan(&sessions); err == nil && sessions > 0 {
			err = fmt.Errorf("the relay still has %d sessions", sessions)
		}
		return err
	})
	second := s.emit("p0", nil) // committed, not relayed
	// What a dump and restore leave: the same rows, in a cluster with another identity and transaction ids that mean nothing there.
	if _, err := s.pool.Exec(t.Context(), "UPDATE relay.ticks SET system_id = system_id + 1"); err != nil {
		t.Fatal(err)
	}
	newest, err := outbox.NewestTick(t.Context(), s.pool)
	if err != nil {
		t.Fatal(err)
	}
	head := fmt.Sprintf("%d:%d:%d", newest.Cluster.SystemID, newest.Cluster.Timeline, newest.Position)
	if err := s.redis.Set(t.Context(), "socket:events:head", head, 0).Err(); err != nil {
		t.Fatal(err)
	}
	if headLost {
		s.redis.Del(t.Context(), "socket:events:head")
	}
	s.relay(nil)
	want := []int64{second}
	if headLost { // nobody knows whether the newest tick had been published: better once more than never
		want = []int64{first, second}
	}
	s.eventuallyLog("p0", want...)
	s.eventuallyLog("p0", append(want, s.emit("p0", nil))...)
	var rebased int64
	if err := s.pool.QueryRow(t.Context(), "SELECT rebased_from FROM relay.ticks WHERE rebased_from IS NOT NULL").Scan(&rebased); err != nil || rebased != newest.Position {
		t.Errorf("rebased_from %d, want %d (%v)", rebased, newest.Position, err)
	}
	if got := s.log("p0")[0].Position; got <= fmt.Sprint(newest.Position+9_000_000) {
		t.Errorf("first position %s, want well above %d", got, newest.Position)
	}
}

// left waits until the server has ended the sessions of a relay that was stopped: a statement that was under way may commit a tick until then.
func (s *stack) left() {
	s.t.Helper()
	testenv.Eventually(s.t, 10*time.Second, func() error {
		var n int
		err := s.pool.QueryRow(s.t.Context(), "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'outbox-relay'").Scan(&n)
		if err == nil && n > 0 {
			err = fmt.Errorf("%d sessions of the relay are left", n)
		}
		return err
	})
}

// A dump that is taken between the commit of a tick and its way to Redis (which may be down for hours) holds a newest tick that nobody has
// been sent. Its events used to be taken for relayed, and were lost.
func TestARestoreRelaysTheTickThatWasNotPublished(t *testing.T) {
	t.Parallel()
	s := newStack(t)
	r := s.relay(nil)
	first := s.emit("p0", nil)
	s.eventuallyLog("p0", first)
	r.stop()
	s.left()
	before, err := outbox.NewestTick(t.Context(), s.pool)
	if err != nil {
		t.Fatal(err)
	}
	second := s.emit("p0", nil)
	if _, _, err := outbox.Next(t.Context(), s.pool, before, before.Cluster, 10); err != nil { // the relay died here
		t.Fatal(err)
	}
	if _, err := s.pool.Exec(t.Context(), "UPDATE relay.ticks SET system_id = system_id + 1"); err != nil {
		t.Fatal(err)
	}
	head := fmt.Sprintf("%d:%d:%d", before.Cluster.SystemID+1, before.Cluster.Timeline, before.Position)
	if err := s.redis.Set(t.Context(), "socket:events:head", head, 0).Err(); err != nil {
		t.Fatal(err)
	}
	s.relay(nil)
	s.eventuallyLog("p0", second)
}

// A leader that lost its session while Redis was away used to be red for ever as a standby: what it had said of Redis was never taken back.
func TestAFormerLeaderForgetsWhatAilsTheLeader(t *testing.T) {
	t.Parallel()
	own := testenv.OwnRedis(t)
	pool, url := testenv.DB(t)
	s := &stack{t: t, pool: pool, url: url, redis: openRedis(t, own.URL())}
	former := s.relay(nil)
	s.eventuallyLog("p0", s.emit("p0", nil))
	if err := own.Kill(t.Context()); err != nil {
		t.Fatal(err)
	}
	s.emit("p0", nil)
	testenv.Eventually(t, 10*time.Second, func() error {
		if why := former.Ready(); len(why) != 1 || !strings.HasPrefix(why[0], "redis: ") {
			return fmt.Errorf("Ready says %v", why)
		}
		return nil
	})
	// Whoever takes the lock next is the leader, and it isn't a relay of ours.
	_, err := pool.Exec(t.Context(), `SELECT pg_terminate_backend(pid) FROM pg_locks
		WHERE locktype = 'advisory' AND classid = 1919249529 AND objid = 1 AND database = (SELECT oid FROM pg_database WHERE datname = current_database())`)
	if err != nil {
		t.Fatal(err)
	}
	other := testenv.Conn(t, url)
	testenv.Eventually(t, 10*time.Second, func() error {
		var got bool
		if err := other.QueryRow(t.Context(), "SELECT pg_try_advisory_lock(1919249529, 1)").Scan(&got); err != nil || !got {
			return fmt.Errorf("the lock isn't free (%w)", err)
		}
		return nil
	})
	testenv.Eventually(t, 10*time.Second, func() error {
		if why := former.Ready(); len(why) > 0 || former.Leading() {
			return fmt.Errorf("the standby says %v", why)
		}
		return nil
	})
}

// What a standby had read of the database as it connected, its clock above all, was old by as long as it had waited when it took over: it then read
// all events since, and put logs that had expired back into Redis.
func TestAStandbyThatTakesOverLooksAtTheDatabaseAgain(t *testing.T) {
	t.Parallel()
	s := newStack(t)
	leader := testenv.Conn(t, s.url)
	exec := func(query string) {
		t.Helper()
		if _, err := leader.Exec(t.Context(), query); err != nil {
			t.Fatal(err)
		}
	}
	exec("SELECT pg_advisory_lock(1919249529, 1)")
	standby := s.relay(nil)
	testenv.Eventually(t, 10*time.Second, func() error {
		var tries int
		err := s.pool.QueryRow(t.Context(), `SELECT count(*) FROM pg_stat_activity
			WHERE datname = current_database() AND application_name = 'outbox-relay' AND query LIKE '%pg_try_advisory_lock%'`).Scan(&tries)
		if err == nil && tries == 0 {
			err = errors.New("nobody tries the leader's lock")
		}
		return err
	})
	exec("CREATE OR REPLACE FUNCTION relay.schema_version() RETURNS integer LANGUAGE sql IMMUTABLE RETURN 1000")
	exec("SELECT pg_advisory_unlock(1919249529, 1)")
	testenv.Eventually(t, 10*time.Second, func() error {
		if why := strings.Join(standby.Ready(), " "); !strings.Contains(why, "run a newer outbox-relay") {
			return fmt.Errorf("it says %q", why)
		}
		return nil
	})
	var ticks int
	if err := leader.QueryRow(t.Context(), "SELECT count(*) FROM relay.ticks").Scan(&ticks); err != nil || ticks > 0 {
		t.Errorf("%d ticks on a schema that isn't this build's (%v)", ticks, err)
	}
}
