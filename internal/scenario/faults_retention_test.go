package scenario_test

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/outboxrelay/outboxrelay/internal/devstack"
	"github.com/outboxrelay/outboxrelay/internal/scenario"
	"github.com/outboxrelay/outboxrelay/internal/testenv"
)

var historyFaults = []fault{
	{"history/storm-of-old-cursors", "steady", stormOfOldCursors},
	{"history/two-million-events", "steady", twoMillionEvents},
}

const (
	bulkEvents    = 2_000_000
	bulkRetention = 61 * time.Second // the least for a Redis window of a second
	bulkRound     = 4 * time.Second  // retention works this often
)

// Two million events go through an outbox that keeps a minute: old ones are deleted as fast as new ones come, no writer waits for that, reading
// takes as long as ever, and a transaction that is open for longer than the retention loses nothing.
func twoMillionEvents(t *trial) {
	t.services(devstack.PostgresConfig{})
	node := t.node("RECENT_EVENTS_TTL=1s", "OUTBOX_RETENTION="+bulkRetention.String(), "LOG_LIMIT=1000", "LOG_LEVEL=info")
	t.audience(node)
	t.load(func() {
		var late sync.WaitGroup
		var key string
		late.Go(func() {
			var err error
			if key, err = t.journal.Emit(context.WithoutCancel(t.Context()), "p0", bulkRetention+10*time.Second); err != nil {
				t.Error(err)
			}
		})
		w := t.watch()
		t.bulk(bulkEvents)
		late.Wait()
		if err := t.clients[0].Until(testenv.Context(t.T, 10*time.Second), func(c *scenario.Client) bool { return c.Has(key) }); err != nil {
			t.Errorf("the event of the transaction that was open for longer than the retention: %v", err)
		}
		t.within(bulkRetention+10*bulkRound, func() error { // all of it is relayed, and goes when its time has come
			deleted, err := node.Metric("outbox_relay_retention_rows_total")
			if err == nil && deleted < bulkEvents {
				err = fmt.Errorf("%.0f rows were deleted", deleted)
			}
			return err
		})
		t.within(10*bulkRound, func() (err error) { // and so do the ticks
			var old int
			err = t.world.Pool.QueryRow(t.Context(), "SELECT count(*) FROM relay.ticks WHERE at < clock_timestamp() - $1::interval", bulkRetention+2*bulkRound).Scan(&old)
			if err == nil && old > 1 {
				err = fmt.Errorf("%d ticks are older than the retention", old)
			}
			return err
		})
		w.end()
		t.journal.Trust() // what it committed is no longer in the table
		w.judge(t)
	})
}

// bulk commits n events of a program that nobody listens to.
func (t *trial) bulk(n int) {
	t.Helper()
	const batch = 1000
	var group sync.WaitGroup
	var left atomic.Int64
	left.Store(int64(n / batch))
	for range 2 {
		group.Go(func() {
			for left.Add(-1) >= 0 {
				_, err := t.world.Pool.Exec(t.Context(), `INSERT INTO relay.outbox (program_id, event, data)
					SELECT 'bulk', 'bulk:happened', json_build_object('n', n) FROM generate_series(1, $1::int) n`, batch)
				if err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	group.Wait()
}

// watcher samples the outbox while it grows and shrinks.
type watcher struct {
	end     func()
	reads   []time.Duration // the reader's own query
	size    int64           // the largest, bytes
	oldest  time.Duration   // the highest age of a tick
	ticks   int64           // the most
	blocked []string        // writers that were seen waiting for retention twice in a row, 100 ms apart
}

const (
	readerQuery = `WITH t AS MATERIALIZED (SELECT snapshot FROM relay.ticks ORDER BY position DESC LIMIT 1)
		SELECT count(*) FROM (SELECT id FROM relay.outbox WHERE xid >= (SELECT pg_snapshot_xmax(snapshot) FROM t)
		UNION ALL SELECT id FROM relay.outbox WHERE xid = ANY (ARRAY(SELECT pg_snapshot_xip(snapshot) FROM t))) o`
	sizeQuery = `SELECT pg_total_relation_size('relay.outbox'), (SELECT count(*) FROM relay.ticks),
		coalesce(extract(epoch FROM clock_timestamp() - (SELECT at FROM relay.ticks ORDER BY position OFFSET 1 LIMIT 1)), 0)::float8`
	blockedQuery = `SELECT a.pid FROM pg_stat_activity a WHERE a.wait_event_type = 'Lock' AND EXISTS (SELECT FROM pg_stat_activity r
		WHERE r.application_name = 'outbox-relay retention' AND r.pid = ANY (pg_blocking_pids(a.pid)))`
)

func (t *trial) watch() *watcher {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	conn := testenv.Conn(t.T, t.pg.URL())
	_, err := conn.Exec(ctx, "SET jit = off; SET enable_seqscan = off; SET enable_bitmapscan = off")
	t.do("set up the watcher", err)
	w := &watcher{}
	var group sync.WaitGroup
	w.end = func() {
		cancel()
		group.Wait()
	}
	group.Go(func() {
		var last []int32
		for n := 0; ctx.Err() == nil; n++ {
			var pids []int32
			if err := conn.QueryRow(ctx, "SELECT ARRAY("+blockedQuery+")").Scan(&pids); err != nil {
				continue
			}
			for _, pid := range pids {
				if slices.Contains(last, pid) {
					w.blocked = append(w.blocked, fmt.Sprint(pid))
				}
			}
			last = pids
			if n%10 == 0 {
				w.sample(ctx, func(query string, into ...any) error { return conn.QueryRow(ctx, query).Scan(into...) })
			}
			select {
			case <-time.After(100 * time.Millisecond):
			case <-ctx.Done():
			}
		}
	})
	return w
}

func (w *watcher) sample(ctx context.Context, ask func(query string, into ...any) error) {
	var size, ticks, n int64
	var age float64
	if ask(sizeQuery, &size, &ticks, &age) != nil || ctx.Err() != nil {
		return
	}
	w.size, w.ticks, w.oldest = max(w.size, size), max(w.ticks, ticks), max(w.oldest, time.Duration(age*float64(time.Second)))
	began := time.Now()
	if ask(readerQuery, &n) == nil {
		w.reads = append(w.reads, time.Since(began))
	}
}

func (w *watcher) judge(t *trial) {
	t.Helper()
	third := len(w.reads) / 3
	early, late := percentile(slices.Clone(w.reads[:third]), 50), percentile(slices.Clone(w.reads[2*third:]), 50)
	t.note("outbox at most %d MB, ticks at most %d, oldest %.0fs, reading %.1fms at first, %.1fms at last", w.size>>20, w.ticks, w.oldest.Seconds(),
		early.Seconds()*1e3, late.Seconds()*1e3)
	if len(w.blocked) > 0 {
		t.Errorf("writers waited over 100 ms for retention %d times", len(w.blocked))
	}
	if most := 2 * bulkRetention; w.oldest > most { // a round deletes what has expired while the one before it ran
		t.Errorf("a tick grew %v old, want at most %v", w.oldest, most)
	}
	if late > 3*early+10*time.Millisecond {
		t.Errorf("reading took %v at first and %v at last", early, late)
	}
}

// Hundreds of clients come back with old cursors, again and again: history is read from Postgres a few reads at a time, and writers hardly
// notice.
func stormOfOldCursors(t *trial) {
	t.services(devstack.PostgresConfig{})
	t.exec("INSERT INTO relay.users (id) VALUES ('stormer')")
	t.exec("INSERT INTO relay.program_members (user_id, program_id) SELECT 'stormer', 'q' || n FROM generate_series(1, 5) n")
	node := t.world.Node("RECENT_EVENTS_TTL=1s", "MAX_CATCHUP_EVENTS=50", "LOG_LEVEL=info")
	t.nodes = append(t.nodes, node)
	t.audience(node)
	began := time.Now().UnixMicro()
	for range 400 {
		t.exec(`INSERT INTO relay.outbox (program_id, event, data) SELECT 'q' || 1 + n % 5, 'bulk:happened', json_build_object('n', n)
			FROM generate_series(1, 50) n`)
	}
	t.load(func() {
		t.pass(1500 * time.Millisecond) // the Redis window
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		var group sync.WaitGroup
		var served atomic.Int64
		for range 50 {
			group.Go(func() {
				for ctx.Err() == nil {
					c := scenario.NewClient("stormer", node)
					c.Since = began
					own, end := context.WithCancel(ctx)
					gone := make(chan struct{})
					go func() { defer close(gone); c.Run(own) }()
					if c.Live(own, 1) == nil {
						served.Add(1)
					}
					end()
					<-gone
				}
			})
		}
		most := t.busiest(ctx, "outbox-relay reader")
		group.Wait()
		t.note("resumed %d times, at most %d reads of Postgres at a time", served.Load(), most)
		if served.Load() < 50 || most > 12 {
			t.Errorf("%d resumed with at most %d reads at a time, want at least 50 and at most 12 (8 of memberships, 4 deep)", served.Load(), most)
		}
	})
}

// busiest samples until ctx ends how many sessions of an application work at the same time, and returns the most.
func (t *trial) busiest(ctx context.Context, application string) (most int) {
	t.Helper()
	conn := testenv.Conn(t.T, t.pg.URL())
	for ctx.Err() == nil {
		var n int
		err := conn.QueryRow(t.Context(), "SELECT count(*) FROM pg_stat_activity WHERE application_name = $1 AND state <> 'idle'", application).Scan(&n)
		t.do("look at the sessions", err)
		most = max(most, n)
		select {
		case <-time.After(5 * time.Millisecond):
		case <-ctx.Done():
		}
	}
	return most
}
