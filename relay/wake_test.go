package relay_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"

	"github.com/outboxrelay/outboxrelay/internal/devstack"
	"github.com/outboxrelay/outboxrelay/internal/testenv"
	"github.com/outboxrelay/outboxrelay/outbox"
	"github.com/outboxrelay/outboxrelay/relay"
)

// deaf is a fallback poll so rare that an event whose wake-up was lost comes too late. (The session is closed after 10 s without a query.)
const deaf = 9 * time.Second

// times is n in `make test` and full in `make test-long`.
func times(n, full int) int {
	if testenv.Long() {
		return full
	}
	return n
}

// arrivals reports the program of every event that a relay publishes, until the test ends.
func (s *stack) arrivals() <-chan string {
	s.t.Helper()
	sub := s.redis.PSubscribe(s.t.Context(), "socket:events:program:*")
	ctx, done := s.t.Context(), make(chan struct{})
	if _, err := sub.Receive(s.t.Context()); err != nil {
		s.t.Fatal(err)
	}
	out := make(chan string, 1000)
	go func() {
		defer close(done)
		for m := range sub.Channel() {
			select {
			case out <- strings.TrimPrefix(m.Channel, "socket:events:program:"):
			case <-ctx.Done():
			}
		}
	}()
	s.t.Cleanup(func() {
		sub.Close()
		<-done
	})
	return out
}

// arrives waits for an event of the program.
func (s *stack) arrives(arrivals <-chan string, program string, within time.Duration) {
	s.t.Helper()
	deadline := time.NewTimer(within)
	defer deadline.Stop()
	for {
		select {
		case got := <-arrivals:
			if got == program {
				return
			}
		case <-deadline.C:
			s.t.Fatalf("no event of %s within %v", program, within)
		}
	}
}

// emitSlowly commits an event some time after its INSERT.
func (s *stack) emitSlowly(program string, delay time.Duration) error {
	return pgx.BeginFunc(s.t.Context(), s.pool, func(tx pgx.Tx) error {
		if _, err := outbox.Emit(s.t.Context(), tx, outbox.Event{Program: program, Name: "a:b"}); err != nil {
			return err
		}
		_, err := tx.Exec(s.t.Context(), "SELECT pg_sleep($1)", delay.Seconds())
		return err
	})
}

func TestASleepingRelayIsWokenByEverySingleEvent(t *testing.T) {
	t.Parallel()
	s := newStack(t)
	arrivals := s.arrivals()
	r := s.relayWith(nil, func(r *relay.Relay) { relay.SetFallback(r, deaf) })
	for n := range times(20, 200) {
		testenv.Eventually(t, 10*time.Second, r.asleep(t))
		program := "p" + strconv.Itoa(n)
		if err := s.emitSlowly(program, rand.N(50*time.Millisecond)); err != nil {
			t.Fatal(err)
		}
		s.arrives(arrivals, program, deaf/2)
	}
}

// The relay waited without a read when no writer was in flight any more after it had taken the sleep lock: one that had committed just
// before was found by the fallback poll alone.
func TestNoWakeUpIsLostWhileFallingAsleep(t *testing.T) {
	t.Parallel()
	s := newStack(t)
	r := s.relayWith(nil, func(r *relay.Relay) {
		relay.SetQuiet(r, 0)
		relay.SetFallback(r, deaf)
	})
	testenv.Eventually(t, 10*time.Second, r.asleep(t))
	want := float64(times(200, 3000))
	arrivals := s.arrivals()
	for _, writers := range []int{2, 8, 64} {
		before := r.metric(t, "sleeps_total")
		for n := 0; r.metric(t, "sleeps_total") < before+want/3; n++ {
			// A burst that wakes the relay, and one last event that falls into its falling asleep.
			var group errgroup.Group
			for range writers {
				group.Go(func() error { return s.emitSlowly("burst", rand.N(2*time.Millisecond)) })
			}
			if err := group.Wait(); err != nil {
				t.Fatal(err)
			}
			program := fmt.Sprintf("last-%d-%d", writers, n)
			if err := s.emitSlowly(program, rand.N(2*time.Millisecond)); err != nil {
				t.Fatal(err)
			}
			s.arrives(arrivals, program, deaf/2)
		}
	}
}

// notifications counts what writers send, on a connection of its own.
func notifications(t *testing.T, url string) (count func() int) {
	t.Helper()
	conn := testenv.Conn(t, url)
	if _, err := conn.Exec(t.Context(), "LISTEN relay_outbox"); err != nil {
		t.Fatal(err)
	}
	return func() (n int) {
		ended, cancel := context.WithCancel(t.Context())
		cancel()
		if err := conn.Ping(t.Context()); err != nil { // brings in what has been sent
			t.Fatal(err)
		}
		for {
			notification, err := conn.WaitForNotification(ended)
			if err != nil {
				return n
			}
			if notification.Payload == "" { // else the relay's own canary
				n++
			}
		}
	}
}

func TestWritersNotifyOnlyASleepingRelay(t *testing.T) {
	t.Parallel()
	own := testenv.OwnRedis(t)
	pool, url := testenv.DB(t)
	s := &stack{t: t, pool: pool, url: url, redis: openRedis(t, own.URL())}
	sent := notifications(t, url)
	emit := func(n int) {
		for range n {
			s.emit("p1", nil)
		}
	}
	emit(10)
	if got := sent(); got != 0 {
		t.Errorf("without a relay writers sent %d notifications", got)
	}
	r := s.relay(nil)
	testenv.Eventually(t, 10*time.Second, r.asleep(t))
	emit(1)
	if got := sent(); got != 1 {
		t.Errorf("for a sleeping relay the writer sent %d notifications, want 1", got)
	}
	if err := own.Kill(t.Context()); err != nil {
		t.Fatal(err)
	}
	emit(1) // finds Redis down
	testenv.Eventually(t, 10*time.Second, func() error {
		if r.metric(t, "asleep") != 0 || !strings.Contains(fmt.Sprint(r.Ready()), "redis: ") {
			return fmt.Errorf("asleep %v, ready %v", r.metric(t, "asleep"), r.Ready())
		}
		return nil
	})
	sent()
	emit(10)
	if got := sent(); got != 0 {
		t.Errorf("while the relay waited for Redis writers sent %d notifications", got)
	}
	r.stop()
	emit(10)
	if got := sent(); got != 0 {
		t.Errorf("after the relay had stopped writers sent %d notifications", got)
	}
}

func TestAwakeRelayNeedsNoNotifications(t *testing.T) {
	t.Parallel()
	s := newStack(t)
	sent := notifications(t, s.url)
	r := s.relay(nil)
	testenv.Eventually(t, 10*time.Second, r.asleep(t))
	const writers = 8
	n := times(300, 3000)
	// A relay that gets no turn on a busy machine sees long pauses, and sleeps: then they write again.
	testenv.Eventually(t, time.Minute, func() error {
		sent() // forgets those of before
		var group errgroup.Group
		for range writers {
			group.Go(func() error {
				for range n {
					if _, err := outbox.Emit(t.Context(), s.pool, outbox.Event{Program: "p1", Name: "a:b"}); err != nil {
						return err
					}
				}
				return nil
			})
		}
		if err := group.Wait(); err != nil {
			t.Fatal(err)
		}
		if got := sent(); got > writers*n/4 {
			return fmt.Errorf("%d notifications for %d commits in quick succession: the relay didn't turn awake", got, writers*n)
		}
		return nil
	})
}

func TestPreparedTransactionsAreDelivered(t *testing.T) {
	t.Parallel()
	pg := testenv.OwnPostgres(t, devstack.PostgresConfig{MaxPrepared: 10, NoSync: true})
	s := &stack{t: t, pool: testenv.Pool(t, pg.URL()), url: pg.URL(), redis: openRedis(t, testenv.Redis(t))}
	r := s.relay(nil)
	for n := range 3 {
		testenv.Eventually(t, 10*time.Second, r.asleep(t))
		conn := testenv.Conn(t, s.url)
		id := fmt.Sprintf("t%d", n)
		for _, statement := range []string{"BEGIN", "SELECT relay.emit('p1', 'a:b')", "PREPARE TRANSACTION '" + id + "'"} {
			if _, err := conn.Exec(t.Context(), statement); err != nil {
				t.Fatalf("%s: %v", statement, err)
			}
		}
		if got := len(s.log("p1")); got != n {
			t.Fatalf("%d events before COMMIT PREPARED, want %d", got, n)
		}
		if _, err := conn.Exec(t.Context(), "COMMIT PREPARED '"+id+"'"); err != nil {
			t.Fatal(err)
		}
		testenv.Eventually(t, 10*time.Second, func() error {
			if got := len(s.log("p1")); got != n+1 {
				return fmt.Errorf("%d events, want %d", got, n+1)
			}
			return nil
		})
	}
}

func TestALockTimeoutNeverFailsACommit(t *testing.T) {
	t.Parallel()
	s := newStack(t)
	r := s.relay(nil)
	testenv.Eventually(t, 10*time.Second, r.asleep(t))
	// NOTIFY takes this lock at COMMIT (object 0 of pg_database, see PreCommit_Notify in Postgres' async.c). Nobody can take it from SQL; what
	// a test can see is that a session with a short timeout doesn't notify at all.
	sent := notifications(t, s.url)
	for _, setting := range []string{"lock_timeout = '20ms'", "statement_timeout = '500ms'"} {
		conn := testenv.Conn(t, s.url)
		if _, err := conn.Exec(t.Context(), "SET "+setting); err != nil {
			t.Fatal(err)
		}
		before := len(s.log("p1"))
		if _, err := conn.Exec(t.Context(), "SELECT relay.emit('p1', 'a:b')"); err != nil {
			t.Fatal(err)
		}
		if got := sent(); got != 0 {
			t.Errorf("with %s the writer sent %d notifications", setting, got)
		}
		testenv.Eventually(t, 10*time.Second, func() error {
			if got := len(s.log("p1")); got != before+1 {
				return fmt.Errorf("%d events, want %d", got, before+1)
			}
			return nil
		})
	}
	testenv.Eventually(t, 10*time.Second, func() error {
		if r.metric(t, "fallback_reads_total") == 0 {
			return errors.New("no fallback read was counted")
		}
		return nil
	})
}

// After a fallback read that found an event the relay waits a little for a notification that may only be late. If one came it was taken
// for that event's, and nothing was read: what it had really announced waited for the next fallback, a second later.
func TestANotificationAfterAFallbackReadIsNotLost(t *testing.T) {
	t.Parallel()
	s := newStack(t)
	arrivals := s.arrivals()
	r := s.relay(nil)
	var waits []time.Duration
	for range 5 {
		testenv.Eventually(t, 10*time.Second, r.asleep(t))
		err := pgx.BeginFunc(t.Context(), s.pool, func(tx pgx.Tx) error {
			if _, err := tx.Exec(t.Context(), "SET LOCAL lock_timeout = '10ms'"); err != nil { // so it doesn't notify
				return err
			}
			_, err := outbox.Emit(t.Context(), tx, outbox.Event{Program: "quiet", Name: "a:b"})
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		s.arrives(arrivals, "quiet", 10*time.Second)
		began := time.Now()
		s.emit("loud", nil)
		s.arrives(arrivals, "loud", 10*time.Second)
		waits = append(waits, time.Since(began))
	}
	slices.Sort(waits)
	if waits[2] > fallback/2 {
		t.Errorf("events that were announced took %v", waits)
	}
}

const fallback = time.Second // between reads of a sleeping relay that nobody wakes

// A LISTEN that hears nothing left a relay asleep with health green: each event waited for the fallback poll, and writers notified for nothing.
func TestADeafListenIsNoticed(t *testing.T) {
	t.Parallel()
	pool, url := testenv.DB(t)
	direct, err := pgx.ParseConfig(url)
	if err != nil {
		t.Fatal(err)
	}
	proxy := testenv.Proxy(t, fmt.Sprintf("%s:%d", direct.Host, direct.Port))
	proxy.Deafen(false)
	s := &stack{t: t, pool: pool, url: url, redis: openRedis(t, testenv.Redis(t))}
	sent := notifications(t, url)
	r := s.relay(func(c *relay.Config) { c.DatabaseURL = proxy.URL(url) })
	testenv.Eventually(t, 10*time.Second, r.asleep(t))
	proxy.Deafen(true)
	testenv.Eventually(t, 30*time.Second, func() error {
		if why := fmt.Sprint(r.Ready()); !strings.Contains(why, "listen: ") || r.degraded(t, "listen") != 1 {
			return fmt.Errorf("ready %s, metric %v", why, r.degraded(t, "listen"))
		}
		return nil
	})
	testenv.Eventually(t, 5*time.Second, func() error { // it doesn't pretend to sleep
		if got := r.metric(t, "asleep"); got != 0 {
			return fmt.Errorf("asleep %v", got)
		}
		return nil
	})
	sent()
	arrivals := s.arrivals()
	for n := range 5 {
		program := "deaf" + strconv.Itoa(n)
		s.emit(program, nil)
		s.arrives(arrivals, program, 500*time.Millisecond) // half of what the fallback poll takes at worst
	}
	if got := sent(); got != 0 {
		t.Errorf("writers sent %d notifications to a deaf relay", got)
	}
	proxy.Deafen(false)
	testenv.Eventually(t, 30*time.Second, func() error {
		if why := r.Ready(); len(why) != 0 || r.degraded(t, "listen") != 0 {
			return fmt.Errorf("ready %s, metric %v", why, r.degraded(t, "listen"))
		}
		return nil
	})
	testenv.Eventually(t, 10*time.Second, r.asleep(t))
	if got := r.metric(t, "sessions_ended_total"); got != 0 {
		t.Errorf("%v sessions ended", got)
	}
	if got := r.metric(t, "fallback_reads_total"); got != 0 {
		t.Errorf("%v fallback reads were counted", got)
	}
}
