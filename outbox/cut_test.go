package outbox_test

import (
	"maps"
	"reflect"
	"strconv"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/outboxrelay/outboxrelay/internal/testenv"
	"github.com/outboxrelay/outboxrelay/outbox"
)

// A batch that took a membership away began with that change, so that who was revoked got nothing of it: not even what had been committed long
// before, if the relay hadn't read it yet. Such a batch ends where the change's transaction saw the world as it committed.
func TestWhatWasCommittedBeforeAMembershipChangeIsABatchOfItsOwn(t *testing.T) {
	t.Parallel()
	for _, limit := range []int{100, 5} { // read at once, or as a large one
		t.Run(strconv.Itoa(limit), func(t *testing.T) {
			t.Parallel()
			testCut(t, limit)
		})
	}
}

func testCut(t *testing.T, limit int) {
	t.Helper()
	pool, url := testenv.DB(t)
	r := newReader(t, url)
	exec(t, pool, "INSERT INTO relay.users (id) VALUES ('u'), ('v'); INSERT INTO relay.program_members VALUES ('u', 'p'), ('v', 'p')")
	r.next(100)
	event := func(db outbox.DB, name string) {
		exec(t, db, "INSERT INTO relay.outbox (program_id, event) VALUES ('p', 'e:"+name+"')")
	}
	late := begin(t, pool) // begins before the removal and ends after it
	event(late, "late")
	event(pool, "before")
	removal := begin(t, pool)
	exec(t, removal, "DELETE FROM relay.program_members WHERE user_id = 'u'")
	event(removal, "with")
	event(pool, "meanwhile") // its xid is above the removal's
	commit(t, removal)
	event(pool, "between")
	commit(t, late)
	exec(t, pool, "INSERT INTO relay.program_members VALUES ('u', 'p')")
	event(pool, "after")
	exec(t, pool, "INSERT INTO relay.outbox (program_id, event) VALUES ('other', 'e:other')")
	base := r.last
	want := "e:before e:meanwhile | relay:membership e:late e:with e:between | relay:membership e:after e:other"
	rows := r.next(limit)
	if got := batches(rows); got != want {
		t.Errorf("batches %q, want %q", got, want)
	}
	if r.last.After != base.Position || r.last.Events != int64(len(rows)) {
		t.Errorf("the tick is %+v, want one of %d rows after %d", r.last, len(rows), base.Position)
	}
	checkPlaces(t, pool, r, base, rows)
	if rows := r.next(limit); len(rows) != 0 {
		t.Errorf("again: %q", events(rows))
	}
}

// checkPlaces compares what every other way to read says of the places of a tick's rows, the only one since base.
func checkPlaces(t *testing.T, pool *pgxpool.Pool, r *reader, base outbox.Tick, rows []outbox.Row) {
	t.Helper()
	newest, err := outbox.NewestTick(t.Context(), pool)
	if newest.At = r.last.At; err != nil || newest != r.last {
		t.Errorf("the newest tick is %+v (%v), want %+v", newest, err, r.last)
	}
	if again := r.replay(newest, 2); !reflect.DeepEqual(again, rows) {
		t.Errorf("replayed %v, want %v", again, rows)
	}
	heads, err := outbox.ReadHeads(t.Context(), pool, base.Position, newest, 100)
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]int64{}
	history := map[string][]outbox.Row{}
	for _, row := range rows {
		want[row.Program] = row.Position
		history[row.Program] = append(history[row.Program], row)
	}
	if !maps.Equal(heads, want) {
		t.Errorf("heads %v, want %v", heads, want)
	}
	for program, rows := range history {
		got, _, err := outbox.ReadHistory(t.Context(), pool, program, base.Position, 100, maxHeld)
		if err != nil || !reflect.DeepEqual(got, rows) {
			t.Errorf("history of %s (%v): %v, want %v", program, err, got, rows)
		}
	}
}

// What a transaction saw may be older than the last tick: SET CONSTRAINTS makes it look early. To end a batch there would relay again what has been.
func TestACutOlderThanTheLastTickIsIgnored(t *testing.T) {
	t.Parallel()
	pool, url := testenv.DB(t)
	r := newReader(t, url)
	exec(t, pool, "INSERT INTO relay.users (id) VALUES ('u'); INSERT INTO relay.program_members VALUES ('u', 'p')")
	r.next(100)
	late := begin(t, pool)
	exec(t, late, "INSERT INTO relay.outbox (program_id, event) VALUES ('p', 'e:late')")
	removal := begin(t, pool)
	exec(t, removal, "SET CONSTRAINTS ALL IMMEDIATE")
	exec(t, removal, "DELETE FROM relay.program_members WHERE user_id = 'u'")
	exec(t, pool, "INSERT INTO relay.outbox (program_id, event) VALUES ('p', 'e:first')")
	if got := events(r.next(100)); got != "e:first" {
		t.Fatalf("batch %q", got)
	}
	commit(t, late)
	commit(t, removal)
	exec(t, pool, "INSERT INTO relay.outbox (program_id, event) VALUES ('p', 'e:last')")
	if got := events(r.next(100)); got != "relay:membership e:late e:last" {
		t.Errorf("batch %q", got)
	}
	if rows := r.next(100); len(rows) != 0 {
		t.Errorf("again: %q", events(rows))
	}
}

// Changes of others, and of one transaction, have nothing to be cut from: ten thousand memberships that are given one by one must not take ten
// thousand flushes.
func TestABatchIsCutOnlyWhereItMatters(t *testing.T) {
	t.Parallel()
	pool, url := testenv.DB(t)
	r := newReader(t, url)
	exec(t, pool, "INSERT INTO relay.outbox (program_id, event) VALUES ('other', 'e:before')")
	for _, u := range []string{"u1", "u2", "u3"} {
		tx := begin(t, pool)
		exec(t, tx, "INSERT INTO relay.users (id) VALUES ('"+u+"')", "INSERT INTO relay.program_members VALUES ('"+u+"', 'p')",
			"UPDATE relay.program_members SET is_active = false WHERE user_id = '"+u+"'")
		commit(t, tx)
	}
	if got := batches(r.next(100)); strings.Contains(got, "|") {
		t.Errorf("batches %q", got)
	}
}

// A tick that was cut is published again as a whole by the next session: retention must leave all of it.
func TestRetentionLeavesAllOfTheNewestTick(t *testing.T) {
	t.Parallel()
	pool, url := testenv.DB(t)
	r := newReader(t, url)
	exec(t, pool, "INSERT INTO relay.users (id) VALUES ('u'); INSERT INTO relay.program_members VALUES ('u', 'p')")
	r.next(100)
	exec(t, pool, "INSERT INTO relay.outbox (program_id, event) VALUES ('p', 'e:old')")
	r.next(100)
	exec(t, pool, "INSERT INTO relay.outbox (program_id, event) VALUES ('p', 'e:before')", "DELETE FROM relay.program_members WHERE user_id = 'u'")
	rows := r.next(100)
	if got := batches(rows); got != "e:before | relay:membership" {
		t.Fatalf("batches %q", got)
	}
	var retention outbox.Retention
	if _, err := retention.Delete(t.Context(), pool, 0); err != nil {
		t.Fatal(err)
	}
	newest, err := outbox.NewestTick(t.Context(), pool)
	if err != nil || !newest.Replayable {
		t.Fatalf("tick %+v (%v)", newest, err)
	}
	if again := r.replay(newest, 100); !reflect.DeepEqual(again, rows) {
		t.Errorf("replayed %v, want %v", again, rows)
	}
}

// What is cut is forgotten with its rows.
func TestRetentionDeletesCuts(t *testing.T) {
	t.Parallel()
	pool, url := testenv.DB(t)
	r := newReader(t, url)
	exec(t, pool, "INSERT INTO relay.users (id) VALUES ('u')")
	for range 4 {
		exec(t, pool, "INSERT INTO relay.program_members VALUES ('u', 'p') ON CONFLICT (user_id, program_id) DO UPDATE SET is_active = NOT program_members.is_active")
		r.next(100)
	}
	var retention outbox.Retention
	if _, err := retention.Delete(t.Context(), pool, 0); err != nil {
		t.Fatal(err)
	}
	var rows, cuts int
	if err := pool.QueryRow(t.Context(), "SELECT (SELECT count(*) FROM relay.outbox), (SELECT count(*) FROM relay.cuts)").Scan(&rows, &cuts); err != nil {
		t.Fatal(err)
	}
	if rows != 1 || cuts != 1 {
		t.Errorf("%d rows and %d cuts are left, want 1 of each", rows, cuts)
	}
}

func begin(t *testing.T, db outbox.Beginner) pgx.Tx {
	t.Helper()
	tx, err := db.BeginTx(t.Context(), pgx.TxOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return tx
}

func commit(t *testing.T, tx pgx.Tx) {
	t.Helper()
	if err := tx.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// batches are the events of rows, batch by batch.
func batches(rows []outbox.Row) string {
	var list []string
	for i, r := range rows {
		if i > 0 && r.TickThrough != rows[i-1].TickThrough {
			list = append(list, "|")
		}
		list = append(list, r.Event)
	}
	return strings.Join(list, " ")
}

func events(rows []outbox.Row) string {
	var list []string
	for _, r := range rows {
		list = append(list, r.Event)
	}
	return strings.Join(list, " ")
}
