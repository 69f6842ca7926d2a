package scenario_test

import (
	"fmt"
	"testing"
	"time"

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
	t.Parallel()
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
	if len(report.WriterError) != 0 || report.SlowestTx > 5*time.Second {
		t.Errorf("the writers noticed: slowest COMMIT %v", report.SlowestTx)
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

// A silent system: each event is the only one, committed some time after its INSERT, while the relay sleeps.
func TestSingleEventsInASilentSystem(t *testing.T) {
	t.Parallel()
	w := scenario.Default(t, 1, 1)
	node := w.Node()
	client := scenario.NewClient("u0", node)
	crowd(t, client)
	j := w.NewJournal(1)
	var took []time.Duration
	for n := range size(20, 200) {
		testenv.Eventually(t, 10*time.Second, func() error {
			if asleep, err := node.Metric("outbox_relay_asleep"); err != nil || asleep != 1 {
				return fmt.Errorf("asleep %v, %v", asleep, err)
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
