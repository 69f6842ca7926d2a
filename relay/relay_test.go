package relay_test

import (
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/outboxrelay/outboxrelay/internal/testenv"
)

func TestCommittedEventReachesItsLogAndARolledBackOneDoesNot(t *testing.T) {
	t.Parallel()
	s := newStack(t)
	r := s.relay(nil)
	first := s.emit("p1", map[string]int{"n": 1})
	s.eventuallyLog("p1", first)
	testenv.Eventually(t, 10*time.Second, r.asleep(t))

	tx, err := s.pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	insert := func(tx pgx.Tx, n int) (id int64) {
		err := tx.QueryRow(t.Context(), "SELECT relay.emit('p1', 'request:updated', json_build_object('n', $1::int))", n).Scan(&id)
		if err != nil {
			t.Fatal(err)
		}
		return id
	}
	insert(tx, 2)
	if err := tx.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	third := s.emit("p1", map[string]int{"n": 3})
	s.eventuallyLog("p1", first, third)
	if got := r.metric(t, "fallback_reads_total"); got != 0 {
		t.Errorf("%v events were found by a fallback read: a wake-up was lost", got)
	}
}

func TestLargeBacklogIsReplayed(t *testing.T) {
	t.Parallel()
	s := newStack(t)
	_, err := s.pool.Exec(t.Context(), `INSERT INTO relay.outbox (program_id, event, data)
		SELECT 'p' || n % 3, 'request:created', json_build_object('n', n) FROM generate_series(1, 3500) n`)
	if err != nil {
		t.Fatal(err)
	}
	r := s.relay(nil)
	var want []int64
	for id := int64(3); id <= 3500; id += 3 {
		want = append(want, id)
	}
	s.eventuallyLog("p0", want...)
	testenv.Eventually(t, 10*time.Second, r.asleep(t))
	if got := r.metric(t, "ticks_total"); got != 1 {
		t.Errorf("%v ticks, want 1: a batch is never cut", got)
	}
}

// When the database's clock was set back, positions run ahead of it until it has caught up. A program's key lived as long as ever, and then
// Redis answered a cursor within the window, by that clock, with nothing: what lay behind the cursor was never sent.
func TestALogOutlivesAClockSetBack(t *testing.T) {
	t.Parallel()
	s := newStack(t)
	s.relay(nil)
	s.eventuallyLog("p0", s.emit("p0", nil))
	const hour = 3600
	_, err := s.pool.Exec(t.Context(), `INSERT INTO relay.ticks (position, after, base, snapshot, events, at, system_id, timeline)
		SELECT t.position + $1::bigint * 1000000, t.position, t.position, t.snapshot, 0, t.at, t.system_id, t.timeline FROM relay.ticks t ORDER BY t.position DESC LIMIT 1`, hour)
	if err != nil {
		t.Fatal(err)
	}
	s.eventuallyLog("p1", s.emit("p1", nil))
	life := s.redis.TTL(t.Context(), "socket:events:program:p1").Val()
	if least := (hour + 300) * time.Second; life < least {
		t.Errorf("the log lives for %v, and Redis is asked about its entry for %v", life, least)
	}
}
