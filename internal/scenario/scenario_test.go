package scenario_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/outboxrelay/outboxrelay/internal/devstack"
	"github.com/outboxrelay/outboxrelay/internal/scenario"
	"github.com/outboxrelay/outboxrelay/internal/testenv"
)

// Late commits, rollbacks, savepoints, a transaction that inserted first and stays open for long, and a write transaction of another
// database that never ends: nothing is missing, nothing that was rolled back is seen, and the order is one for all.
func TestEveryCommitArrivesInOneOrder(t *testing.T) {
	t.Parallel()
	w := scenario.Default(t, 4, 3)
	node := w.Node()
	clients := []*scenario.Client{scenario.NewClient("u0", node), scenario.NewClient("u1", node), scenario.NewClient("u2", node)}
	crowd(t, clients...)

	elsewhere := testenv.Conn(t, testenv.Postgres(t)) // the same cluster, another database
	for _, statement := range []string{"BEGIN", "SELECT pg_current_xact_id()"} {
		if _, err := elsewhere.Exec(t.Context(), statement); err != nil {
			t.Fatal(err)
		}
	}
	j := w.NewJournal(4)
	during(t, j, scenario.Mix{Writers: 32, Pause: 5 * time.Millisecond, Sleep: 300 * time.Millisecond}, size(4*time.Second, 20*time.Second), func() {
		key, err := j.Emit(t.Context(), "p0", size(3*time.Second, 15*time.Second))
		if err != nil {
			t.Error(err)
		}
		// Correct is: soon, not only with the end of the other transaction or of the load.
		if err := clients[0].Until(testenv.Context(t, size(5*time.Second, time.Second)), func(c *scenario.Client) bool { return c.Has(key) }); err != nil {
			t.Errorf("the event of the long transaction: %v", err)
		}
	})
	report := verdict(t, j, clients...)
	if report.Repeats != 0 || report.Gaps != 0 {
		t.Errorf("%d repeats and %d gaps without any fault", report.Repeats, report.Gaps)
	}
	if report.Committed < 500 {
		t.Errorf("only %d events were committed: the load was no load", report.Committed)
	}
}

// A relay that is killed anywhere, again and again, loses nothing and repeats nothing but exactly.
func TestTheRelayIsKilledUnderLoad(t *testing.T) {
	t.Parallel()
	w := scenario.Default(t, 3, 2)
	front := w.Node("ROLE=ws")
	relay := w.Node("ROLE=relay")
	clients := []*scenario.Client{scenario.NewClient("u0", front), scenario.NewClient("u1", front)}
	crowd(t, clients...)
	j := w.NewJournal(3)
	during(t, j, scenario.Mix{Writers: 8, Pause: 5 * time.Millisecond}, 0, func() {
		for range size(3, 20) {
			before := clients[0].Received()
			ctx := testenv.Context(t, 30*time.Second)
			if err := clients[0].Until(ctx, func(c *scenario.Client) bool { return c.Count() > before+20 }); err != nil {
				t.Fatal(err)
			}
			relay.Kill()
			relay.Start()
		}
	})
	verdict(t, j, clients...)
}

// Everything in one process, killed and restarted: the clients resume where they were.
func TestTheWholeNodeIsKilledUnderLoad(t *testing.T) {
	t.Parallel()
	w := scenario.Default(t, 3, 2)
	node := w.Node()
	clients := []*scenario.Client{scenario.NewClient("u0", node), scenario.NewClient("u1", node)}
	crowd(t, clients...)
	j := w.NewJournal(3)
	during(t, j, scenario.Mix{Writers: 4, Pause: 20 * time.Millisecond}, time.Second, func() {
		for range size(1, 5) {
			node.Kill()
			node.Start()
		}
	})
	verdict(t, j, clients...)
}

// Clients that drop and resume at random under load meet no hole, and no repeat.
func TestClientsDropAndResume(t *testing.T) {
	alone(t)
	w := scenario.Default(t, 3, 1)
	node := w.Node("MAX_CATCHUP_EVENTS=10000")
	var clients []*scenario.Client
	for range size(30, 1000) {
		clients = append(clients, scenario.NewClient("u0", node))
	}
	crowd(t, clients...)
	j := w.NewJournal(3)
	during(t, j, scenario.Mix{Writers: 2, Pause: size(10*time.Millisecond, 100*time.Millisecond)}, size(3*time.Second, 20*time.Second), func() {
		for n := range size(200, 4000) {
			clients[(n*7919)%len(clients)].Drop()
			if err := clients[(n*104729)%len(clients)].Until(testenv.Context(t, 30*time.Second), func(c *scenario.Client) bool { return c.Connected() }); err != nil {
				t.Fatal(err)
			}
		}
	})
	report := verdict(t, j, clients...)
	if report.Repeats != 0 || report.Gaps != 0 {
		t.Errorf("%d repeats and %d gaps although no relay failed", report.Repeats, report.Gaps)
	}
}

// Redis is emptied under load; connected and resuming clients miss nothing.
func TestRedisIsFlushedUnderLoad(t *testing.T) {
	t.Parallel()
	redis := testenv.OwnRedis(t)
	w := scenario.New(t, testenv.Postgres(t), redis.URL(), 3, 2)
	node := w.Node("MAX_CATCHUP_EVENTS=10000")
	steady, restless := scenario.NewClient("u0", node), scenario.NewClient("u1", node)
	crowd(t, steady, restless)
	j := w.NewJournal(3)
	client := openRedis(t, redis.URL())
	during(t, j, scenario.Mix{Writers: 4, Pause: 10 * time.Millisecond}, time.Second, func() {
		for n := range size(4, 20) {
			before := steady.Received()
			if err := steady.Until(testenv.Context(t, 30*time.Second), func(c *scenario.Client) bool { return c.Count() > before+20 }); err != nil {
				t.Fatal(err)
			}
			restless.Drop()
			if n%2 == 0 {
				client.FlushAll(t.Context())
			} else {
				client.Del(t.Context(), fmt.Sprintf("socket:events:program:p%d", n%3))
			}
		}
	})
	report := verdict(t, j, steady, restless)
	if len(report.WriterErrors) != 0 || report.SlowestCommit > 5*time.Second {
		t.Errorf("the writers noticed: slowest COMMIT %v", report.SlowestCommit)
	}
}

// Redis is away for a while: events wait in the outbox, clients get them afterwards.
func TestRedisIsAwayForAWhile(t *testing.T) {
	t.Parallel()
	redis := testenv.OwnRedis(t)
	w := scenario.New(t, testenv.Postgres(t), redis.URL(), 3, 2)
	node := w.Node("MAX_CATCHUP_EVENTS=10000")
	clients := []*scenario.Client{scenario.NewClient("u0", node), scenario.NewClient("u1", node)}
	crowd(t, clients...)
	j := w.NewJournal(3)
	during(t, j, scenario.Mix{Writers: 4, Pause: 10 * time.Millisecond}, size(2*time.Second, 10*time.Second), func() {
		if err := redis.Kill(t.Context()); err != nil {
			t.Fatal(err)
		}
		testenv.Eventually(t, 10*time.Second, func() error {
			if _, err := node.Get("/readyz"); err == nil {
				return fmt.Errorf("ready although Redis is dead")
			}
			return nil
		})
	})
	if err := redis.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	verdict(t, j, clients...)
	node.Ready()
}

// A silent system: each event is the only one, committed some time after its INSERT, while the relay sleeps. Hence not in parallel;
// `make test-long` runs it alone.
func TestSingleEventsInASilentSystem(t *testing.T) {
	w := scenario.Default(t, 1, 1)
	node := w.Node()
	client := scenario.NewClient("u0", node)
	crowd(t, client)
	j := w.NewJournal(1)
	var took []time.Duration
	for n := range size(20, 200) {
		testenv.Eventually(t, 10*time.Second, func() error {
			if asleep, err := node.Metric("outbox_relay_asleep"); err != nil || asleep != 1 {
				return fmt.Errorf("asleep %v (%w)", asleep, err)
			}
			return nil
		})
		if _, err := j.Emit(t.Context(), "p0", time.Duration(n%50)*time.Millisecond); err != nil {
			t.Fatal(err)
		}
		committed := time.Now()
		if err := client.Until(testenv.Context(t, 10*time.Second), func(c *scenario.Client) bool { return c.Count() == n+1 }); err != nil {
			t.Fatal(err)
		}
		took = append(took, time.Since(committed))
	}
	verdict(t, j, client)
	if p99 := percentile(took, 99); p99 > size(250*time.Millisecond, 50*time.Millisecond) {
		t.Errorf("p99 from commit to socket is %v", p99)
	}
	if missed, err := node.Metric("outbox_relay_fallback_reads_total"); err != nil || missed != 0 {
		t.Errorf("%v events came only through the fallback read (%v)", missed, err)
	}
}

// Redis fails over to a replica that has missed the last appends.
func TestRedisFailsOverToAStaleReplica(t *testing.T) {
	t.Parallel()
	primary := testenv.OwnRedis(t)
	_, primaryPort, _ := strings.Cut(primary.Addr, ":")
	replica := testenv.OwnRedis(t, "--replicaof", "127.0.0.1 "+primaryPort)
	proxy := testenv.Proxy(t, primary.Addr)
	w := scenario.New(t, testenv.Postgres(t), "redis://"+proxy.Addr(), 3, 2)
	node := w.Node("MAX_CATCHUP_EVENTS=10000")
	steady, restless := scenario.NewClient("u0", node), scenario.NewClient("u1", node)
	crowd(t, steady, restless)
	j := w.NewJournal(3)
	stale := openRedis(t, replica.URL())
	more := func(n int) {
		before := steady.Received()
		if err := steady.Until(testenv.Context(t, 30*time.Second), func(c *scenario.Client) bool { return c.Count() > before+n }); err != nil {
			t.Fatal(err)
		}
	}
	during(t, j, scenario.Mix{Writers: 4, Pause: 10 * time.Millisecond}, time.Second, func() {
		more(20)
		testenv.Eventually(t, 10*time.Second, func() error {
			if n := stale.ZCard(t.Context(), "socket:events:program:p0").Val(); n == 0 {
				return fmt.Errorf("the replica is empty")
			}
			return nil
		})
		if err := replica.Pause(); err != nil { // from here on it misses everything
			t.Fatal(err)
		}
		more(50)
		restless.Drop()
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
		more(20)
	})
	verdict(t, j, steady, restless)
}

// Postgres crashes under load with commits that it may take back: what clients got is what has survived.
func TestPostgresCrashesWithAsynchronousCommits(t *testing.T) {
	t.Parallel()
	pg := testenv.OwnPostgres(t, devstack.PostgresConfig{Settings: map[string]string{"wal_writer_delay": "500ms"}})
	w := scenario.New(t, pg.URL(), testenv.Redis(t), 3, 2)
	node := w.Node("MAX_CATCHUP_EVENTS=10000")
	clients := []*scenario.Client{scenario.NewClient("u0", node), scenario.NewClient("u1", node)}
	crowd(t, clients...)
	j := w.NewJournal(3)
	during(t, j, scenario.Mix{Writers: 8, Pause: 5 * time.Millisecond, Async: true, Tolerate: true}, 0, func() {
		for range size(2, 6) {
			before := clients[0].Received()
			if err := clients[0].Until(testenv.Context(t, 30*time.Second), func(c *scenario.Client) bool { return c.Count() > before+100 }); err != nil {
				t.Fatal(err)
			}
			if err := pg.StopImmediate(t.Context()); err != nil {
				t.Fatal(err)
			}
			if err := pg.Start(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
	})
	j.Forgive() // a crash may take back what was committed asynchronously; it may not take back what a client has got
	verdict(t, j, clients...)
}

// Two nodes: one leads, the other takes over when the leader's Postgres session is cut, and clients resume on either.
func TestTheLeaderLosesItsSession(t *testing.T) {
	t.Parallel()
	w := scenario.Default(t, 3, 2)
	a, b := w.Node("MAX_CATCHUP_EVENTS=10000"), w.Node("MAX_CATCHUP_EVENTS=10000")
	clients := []*scenario.Client{scenario.NewClient("u0", a, b), scenario.NewClient("u1", b, a)}
	crowd(t, clients...)
	j := w.NewJournal(3)
	during(t, j, scenario.Mix{Writers: 4, Pause: 10 * time.Millisecond}, time.Second, func() {
		for range size(3, 20) {
			before := clients[0].Received()
			if err := clients[0].Until(testenv.Context(t, 30*time.Second), func(c *scenario.Client) bool { return c.Count() > before+20 }); err != nil {
				t.Fatal(err)
			}
			_, err := w.Pool.Exec(t.Context(), `SELECT pg_terminate_backend(pid) FROM pg_locks
				WHERE locktype = 'advisory' AND classid = 1919249529 AND objid = 1 AND database = (SELECT oid FROM pg_database WHERE datname = current_database())`)
			if err != nil {
				t.Fatal(err)
			}
			clients[1].Drop()
		}
	})
	verdict(t, j, clients...)
}

// A large backlog is drained with memory that doesn't grow with it.
func TestABacklogIsDrainedAtConstantMemory(t *testing.T) {
	w := scenario.Default(t, 10, 1)
	events := size(40_000, 100_000)
	_, err := w.Pool.Exec(t.Context(), `INSERT INTO relay.outbox (program_id, event, data)
		SELECT 'p' || n % 10, 'scenario:happened', json_build_object('key', n::text, 'filler', repeat('x', 4000)) FROM generate_series(1, $1) n`, events)
	if err != nil {
		t.Fatal(err)
	}
	node := w.Node("LOG_LIMIT=1000")
	heap := func() float64 { // resident memory would count the race detector's shadow several times over
		bytes, err := node.Metric("go_memstats_heap_inuse_bytes")
		if err != nil {
			t.Fatal(err)
		}
		return bytes
	}
	most := 0.0
	testenv.Eventually(t, 60*time.Second, func() error {
		most = max(most, heap())
		if n, err := node.Metric("outbox_relay_events_total"); err != nil || int(n) < events {
			return fmt.Errorf("%v of %d events (%w)", n, events, err)
		}
		return nil
	})
	t.Logf("at most %.0f MB of heap while %.0f MB waited", most/1e6, float64(events)*4000/1e6)
	if most > 100e6 { // some chunks of 1,000 rows with 4 KB each, several times over, before the collector comes
		t.Errorf("the heap grew to %.0f MB while %.0f MB waited", most/1e6, float64(events)*4000/1e6)
	}
}
