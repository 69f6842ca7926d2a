package outbox_test

import (
	"fmt"
	"runtime"
	"slices"
	"testing"
	"time"

	"github.com/outboxrelay/outboxrelay/internal/testenv"
	"github.com/outboxrelay/outboxrelay/outbox"
)

// maxHeld is what the package says that it holds of a batch at a time.
const maxHeld = 8 << 20

// A batch was bounded by its rows alone: a thousand of the largest are 250 MB, which were read at once and sent to Redis in one pipeline
// that had to end within 3 seconds. Where it couldn't, the relay tried for ever.
func TestLargeRowsAreReadInSmallChunks(t *testing.T) {
	t.Parallel()
	pool, url := testenv.DB(t)
	r := newReader(t, url)
	exec(t, pool, "INSERT INTO relay.outbox (program_id, event) SELECT 'p1', 'a:b' FROM generate_series(1, 40)")
	exec(t, pool, "INSERT INTO relay.outbox (program_id, event, data) SELECT 'p1', 'a:b', json_build_object('x', repeat('x', 262000)) FROM generate_series(1, 70)")
	_, rows, err := outbox.Next(t.Context(), r.conn, r.last, r.cluster, 1000)
	if err != outbox.ErrLarge { //nolint:errorlint // the bare sentinel is the contract
		t.Fatalf("%d rows at once (%v), want ErrLarge", len(rows), err)
	}
	tick, err := outbox.CommitLarge(t.Context(), r.conn, r.last, r.cluster)
	if err != nil {
		t.Fatal(err)
	}
	var replayed []outbox.Row
	err = outbox.Replay(t.Context(), r.conn, tick, 1000, time.Minute, func(rows []outbox.Row) error {
		if n := bytes(rows); n > maxHeld {
			t.Errorf("a chunk of %d rows with %d bytes", len(rows), n)
		}
		replayed = append(replayed, rows...)
		return nil
	})
	if err != nil || int64(len(replayed)) != tick.Events || tick.Events != 110 {
		t.Errorf("%d of %d rows replayed (%v)", len(replayed), tick.Events, err)
	}
}

func bytes(rows []outbox.Row) (n int) {
	for _, r := range rows {
		n += len(r.Data)
	}
	return n
}

// A deep read took all the rows that a program had in a batch, and computed the tick of each, to return a few: the reads of one that brought
// its program a million rows ended with their deadline, each time anew, and the program's members got nothing any more.
// What a new leader reads of the window was held as a whole: 180 MB for a million events, by a process that had just been killed for its memory.
// Not in parallel: it counts what is allocated.
func TestHeadsAreReadOneForEachProgram(t *testing.T) {
	pool, url := testenv.DB(t)
	r := newReader(t, url)
	const rows = 20_000
	for range 3 {
		exec(t, pool, fmt.Sprintf("INSERT INTO relay.outbox (program_id, event) SELECT 'p' || n %% 5, 'a:b' FROM generate_series(1, %d) n", rows))
		r.next(rows)
	}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	heads, err := outbox.ReadHeads(t.Context(), r.conn, 0, r.last, rows)
	runtime.ReadMemStats(&after)
	if err != nil || len(heads) != 5 {
		t.Fatalf("%d heads (%v)", len(heads), err)
	}
	if bytes := after.TotalAlloc - before.TotalAlloc; bytes > 10*rows {
		t.Errorf("%d bytes were allocated for the heads of 5 programs with %d events", bytes, 3*rows)
	}
}

func TestHistoryOfALargeBatchIsReadInPages(t *testing.T) {
	t.Parallel()
	pool, url := testenv.DB(t)
	r := newReader(t, url)
	exec(t, pool, `INSERT INTO relay.outbox (program_id, event, data)
		SELECT 'p' || n % 3, 'a:b', json_build_object('x', repeat('x', CASE WHEN n > 500 THEN 262000 ELSE 1 END)) FROM generate_series(1, 650) n`)
	var want []outbox.Row
	for _, row := range r.next(1000) {
		if row.Program == "p1" {
			want = append(want, row)
		}
	}
	const limit = 60
	cursor := int64(0)
	var got []outbox.Row
	for {
		rows, through, err := outbox.ReadHistory(t.Context(), pool, "p1", cursor, limit, maxHeld)
		if err != nil {
			t.Fatal(err)
		}
		if len(rows) > limit || bytes(rows) > maxHeld {
			t.Errorf("%d rows with %d bytes at once", len(rows), bytes(rows))
		}
		if got, cursor = append(got, rows...), through; len(rows) == 0 {
			break
		}
	}
	if positions(got) != positions(want) {
		t.Errorf("history forward: %s\nwant %s", positions(got), positions(want))
	}
	got = nil
	for before := r.last.Position + 1; ; before = got[len(got)-1].Position {
		rows, err := outbox.ReadHistoryBefore(t.Context(), pool, "p1", before, 0, limit, maxHeld)
		if err != nil {
			t.Fatal(err)
		}
		if len(rows) > limit || bytes(rows) > maxHeld {
			t.Errorf("%d rows with %d bytes at once", len(rows), bytes(rows))
		}
		if got = append(got, rows...); len(rows) == 0 {
			break
		}
	}
	slices.Reverse(got)
	if positions(got) != positions(want) {
		t.Errorf("history backward: %s\nwant %s", positions(got), positions(want))
	}
}
