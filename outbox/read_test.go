package outbox_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/outboxrelay/outboxrelay/internal/testenv"
	"github.com/outboxrelay/outboxrelay/outbox"
)

// reader is a relay without Redis: it holds the cursor and reads forward.
type reader struct {
	t       *testing.T
	conn    *pgx.Conn
	last    outbox.Tick
	cluster outbox.Cluster
}

func newReader(t *testing.T, url string) *reader {
	t.Helper()
	r := &reader{t: t, conn: testenv.Conn(t, url), last: outbox.Tick{Snapshot: outbox.Genesis}}
	server, err := outbox.ReadServer(t.Context(), r.conn)
	if err != nil {
		t.Fatal(err)
	}
	r.cluster = server.Cluster
	return r
}

// next returns the next batch, by the path for small ones or, if limit is too small for it, by the one for large ones.
func (r *reader) next(limit int) (batch []outbox.Row) {
	r.t.Helper()
	tick, batch, err := outbox.Next(r.t.Context(), r.conn, r.last, r.cluster, limit)
	if err == outbox.ErrLarge { //nolint:errorlint // the bare sentinel is the contract
		if tick, err = outbox.CommitLarge(r.t.Context(), r.conn, r.last, r.cluster); err == nil {
			batch = r.replay(tick, limit)
		}
	}
	if err != nil {
		r.t.Fatal(err)
	}
	if tick.Events > 0 {
		r.last = tick
	}
	return batch
}

func (r *reader) replay(tick outbox.Tick, chunk int) (batch []outbox.Row) {
	r.t.Helper()
	err := outbox.Replay(r.t.Context(), r.conn, tick, chunk, time.Minute, func(rows []outbox.Row) error {
		if len(rows) > chunk {
			r.t.Errorf("a chunk of %d rows, want at most %d", len(rows), chunk)
		}
		batch = append(batch, rows...)
		return nil
	})
	if err != nil {
		r.t.Fatal(err)
	}
	return batch
}

func names(rows []outbox.Row) string {
	var list []string
	for _, r := range rows {
		list = append(list, strings.TrimSpace(r.Program+" "+r.Event))
	}
	return strings.Join(list, ", ")
}

func exec(t *testing.T, db interface {
	Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error)
}, statements ...string,
) {
	t.Helper()
	for _, s := range statements {
		if _, err := db.Exec(t.Context(), s); err != nil {
			t.Fatalf("%s: %v", s, err)
		}
	}
}

func TestNextSeesCommittedRowsOnce(t *testing.T) {
	t.Parallel()
	pool, url := testenv.DB(t)
	r := newReader(t, url)
	if got := r.next(10); len(got) != 0 {
		t.Fatalf("an empty outbox gave %s", names(got))
	}
	begin := func() pgx.Tx {
		tx, err := pool.Begin(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return tx
	}
	late, back := begin(), begin()
	exec(t, late, "SELECT relay.emit('late', 'a:b')")
	exec(t, back, "SELECT relay.emit('back', 'a:b')")
	exec(t, pool, "SELECT relay.emit('early', 'a:b')")
	if got := names(r.next(10)); got != "early a:b" {
		t.Fatalf("first batch %q, want the committed row alone", got)
	}
	exec(t, late, "SAVEPOINT s", "SELECT relay.emit('undone', 'a:b')", "ROLLBACK TO s", "SELECT relay.emit('late2', 'a:b')")
	if err := back.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := r.next(10); len(got) != 0 {
		t.Fatalf("before the late COMMIT: %s", names(got))
	}
	if err := late.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := names(r.next(10)); got != "late a:b, late2 a:b" {
		t.Fatalf("after the late COMMIT %q, want its rows though their ids and xid are older than the cursor's", got)
	}
	if got := r.next(10); len(got) != 0 {
		t.Fatalf("seen twice: %s", names(got))
	}
}

func TestControlRowsComeFirstInTheirWindow(t *testing.T) {
	t.Parallel()
	pool, url := testenv.DB(t)
	exec(t, pool, "INSERT INTO relay.users (id) VALUES ('u1')", "INSERT INTO relay.program_members VALUES ('u1', 'p1')")
	r := newReader(t, url)
	r.next(10)
	tx, err := pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	// Inserted before the revocation, committed after it: by id alone it would come first.
	exec(t, tx, "SELECT relay.emit('p1', 'secret:told')")
	exec(t, pool, "UPDATE relay.program_members SET is_active = false")
	if err := tx.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, limit := range []int{10, 1} { // in one statement, and replayed
		last := r.last
		got := r.next(limit)
		if names(got) != "p1 relay:membership, p1 secret:told" || !got[0].Control {
			t.Errorf("limit %d: batch %q, want the control row first", limit, names(got))
		}
		if got[0].TickThrough != got[1].Position || got[1].Position != got[0].Position+1 {
			t.Errorf("limit %d: positions %d, %d through %d: want consecutive", limit, got[0].Position, got[1].Position, got[0].TickThrough)
		}
		exec(t, pool, fmt.Sprintf("DELETE FROM relay.ticks WHERE position > %d", last.Position))
		r.last = last
	}
}

// churn commits transactions of every kind from several writers at once, and reads batches meanwhile. It returns the rows in the
// order of the log.
func churn(t *testing.T, pool *pgxpool.Pool, r *reader, writers, rounds int) (log []outbox.Row) {
	t.Helper()
	done := make(chan error, writers)
	for w := range writers {
		go func() {
			rng := rand.New(rand.NewPCG(uint64(w), 1))
			for n := range rounds {
				if err := oneTransaction(t, pool, rng, w, n); err != nil {
					done <- err
					return
				}
			}
			done <- nil
		}()
	}
	for running := writers; running > 0; {
		select {
		case err := <-done:
			if err != nil {
				t.Error(err)
			}
			running--
		default:
		}
		log = append(log, r.next(7)...)
	}
	return append(log, r.next(1000)...)
}

func oneTransaction(t *testing.T, pool *pgxpool.Pool, rng *rand.Rand, w, n int) error {
	tx, err := pool.Begin(t.Context())
	if err != nil {
		return err
	}
	defer tx.Rollback(t.Context()) //nolint:errcheck // after Commit there is nothing to roll back
	for k := range 1 + rng.IntN(3) {
		_, err := tx.Exec(t.Context(), "SELECT relay.emit($1, 'a:b', $2::text::json)", fmt.Sprintf("p%d", rng.IntN(3)), fmt.Sprintf(`{"w":%d,"n":%d,"k":%d}`, w, n, k))
		if err != nil {
			return err
		}
		if rng.IntN(4) == 0 {
			if _, err := tx.Exec(t.Context(), "SELECT pg_sleep(0.003)"); err != nil {
				return err
			}
		}
	}
	if rng.IntN(4) == 0 {
		return tx.Rollback(t.Context())
	}
	return tx.Commit(t.Context())
}

func TestHistoryAndReplayRepeatTheLogExactly(t *testing.T) {
	t.Parallel()
	pool, url := testenv.DB(t)
	r := newReader(t, url)
	log := churn(t, pool, r, 8, 40)
	if !slices.IsSortedFunc(log, func(a, b outbox.Row) int { return int(a.Position - b.Position) }) {
		t.Fatal("positions don't ascend")
	}
	var committed int
	if err := pool.QueryRow(t.Context(), "SELECT count(*) FROM relay.outbox").Scan(&committed); err != nil {
		t.Fatal(err)
	}
	if len(log) != committed || committed < 100 {
		t.Fatalf("%d rows read, %d are committed", len(log), committed)
	}
	for _, program := range []string{"p0", "p1", "p2"} {
		var mine []outbox.Row
		for _, row := range log {
			if row.Program == program {
				mine = append(mine, row)
			}
		}
		for i := -1; i < len(mine); i += 3 {
			after := int64(0)
			if i >= 0 {
				after = mine[i].Position
			}
			checkHistory(t, pool, program, after, mine[i+1:])
			checkHistoryBefore(t, pool, program, after, mine[i+1:])
		}
	}
	for _, programs := range [][]string{{"p1"}, {"p2", "none", "p0"}} {
		for i := 0; i < len(log); i += 25 {
			checkReplayPrograms(t, r, log, programs, log[i].Position)
		}
	}
	for _, row := range log {
		if row.Control {
			continue
		}
		if got, err := outbox.ReadEvent(t.Context(), pool, row.ID); err != nil || !reflect.DeepEqual(got, row) {
			t.Errorf("event %d is %+v (%v), want %+v", row.ID, got, err, row)
		}
	}
	newest, err := outbox.NewestTick(t.Context(), r.conn)
	if err != nil || newest.Position != r.last.Position {
		t.Fatalf("newest tick %d, want %d (%v)", newest.Position, r.last.Position, err)
	}
	again := r.replay(newest, 3)
	if want := log[len(log)-len(again):]; positions(again) != positions(want) {
		t.Errorf("replayed %s, want %s", positions(again), positions(want))
	}
	heads, err := outbox.ReadHeads(t.Context(), r.conn, log[len(log)/2].Position, newest, 10)
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]int64{}
	for _, row := range log {
		want[row.Program] = row.Position
	}
	for program, position := range heads {
		if want[program] != position {
			t.Errorf("head of %s is %d, want %d", program, position, want[program])
		}
	}
	if len(heads) != 3 {
		t.Errorf("heads %v, want three programs", heads)
	}
}

func positions(rows []outbox.Row) string {
	var b strings.Builder
	for _, r := range rows {
		fmt.Fprintf(&b, "%d=%d ", r.ID, r.Position)
	}
	return b.String()
}

func checkHistory(t *testing.T, pool *pgxpool.Pool, program string, after int64, want []outbox.Row) {
	t.Helper()
	const limit = 10
	rows, through, err := outbox.ReadHistory(t.Context(), pool, program, after, limit, maxHeld)
	if err != nil {
		t.Fatal(err)
	}
	if len(rows) < min(limit, len(want)) || positions(rows) != positions(want[:len(rows)]) {
		t.Errorf("history of %s after %d: %s\nwant %s", program, after, positions(rows), positions(want))
	}
	for _, w := range want[len(rows):] {
		if w.Position <= through {
			t.Errorf("history of %s after %d claims to be complete through %d, but misses %d", program, after, through, w.Position)
		}
	}
}

// checkReplayPrograms compares what is read of the programs from the batch of the position after on with the log.
func checkReplayPrograms(t *testing.T, r *reader, log []outbox.Row, programs []string, after int64) {
	t.Helper()
	var read, want []outbox.Row
	err := outbox.ReplayPrograms(t.Context(), r.conn, programs, after, r.last, 3, time.Minute, func(rows []outbox.Row) error {
		if len(rows) > 3 {
			t.Errorf("a chunk of %d rows, want at most 3", len(rows))
		}
		read = append(read, rows...)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, row := range log {
		if row.TickThrough > after && slices.Contains(programs, row.Program) {
			want = append(want, row)
		}
	}
	byProgram := func(a, b outbox.Row) int { return strings.Compare(a.Program, b.Program) }
	slices.SortStableFunc(read, byProgram)
	slices.SortStableFunc(want, byProgram)
	if !reflect.DeepEqual(read, want) {
		t.Errorf("%v after %d: %s\nwant %s", programs, after, positions(read), positions(want))
	}
}

func checkHistoryBefore(t *testing.T, pool *pgxpool.Pool, program string, after int64, want []outbox.Row) {
	t.Helper()
	if len(want) < 2 {
		return
	}
	const limit = 5
	before := want[len(want)-1].Position
	rows, err := outbox.ReadHistoryBefore(t.Context(), pool, program, before, after, limit, maxHeld)
	if err != nil {
		t.Fatal(err)
	}
	want = slices.Clone(want[:len(want)-1])
	slices.Reverse(want)
	if len(rows) < min(limit, len(want)) || positions(rows) != positions(want[:len(rows)]) {
		t.Errorf("history of %s between %d and %d, descending: %s\nwant %s", program, after, before, positions(rows), positions(want))
	}
}

// Who read while an ALTER TABLE wrote the outbox anew was told that there is nothing, and that this is complete: its snapshot was from before, and to
// such a one the new table is empty.
func TestReadsWhileATableIsWrittenAnew(t *testing.T) {
	t.Parallel()
	pool, url := testenv.DB(t)
	r := newReader(t, url)
	exec(t, pool, "INSERT INTO relay.outbox (program_id, event) SELECT 'p1', 'a:b' FROM generate_series(1, 5)")
	log := r.next(10)
	exec(t, pool, "INSERT INTO relay.outbox (program_id, event) SELECT 'p1', 'a:b' FROM generate_series(1, 5)")
	log = append(log, r.next(10)...)
	for _, table := range []string{"outbox", "ticks"} {
		for name, read := range map[string]func() ([]outbox.Row, error){
			"ReadHistory": func() (rows []outbox.Row, err error) {
				rows, _, err = outbox.ReadHistory(t.Context(), pool, "p1", log[0].Position, 100, 1<<20)
				return rows, err
			},
			"ReadHistoryBefore": func() ([]outbox.Row, error) {
				return outbox.ReadHistoryBefore(t.Context(), pool, "p1", log[9].Position+1, log[0].Position, 100, 1<<20)
			},
			"ReplayPrograms": func() (rows []outbox.Row, err error) {
				err = outbox.ReplayPrograms(t.Context(), r.conn, []string{"p1"}, log[0].Position, r.last, 100, time.Minute, func(some []outbox.Row) error {
					rows = append(rows, some...)
					return nil
				})
				return rows[max(0, len(rows)-9):], err
			},
		} {
			tx := begin(t, pool)
			exec(t, tx, "ALTER TABLE relay."+table+" SET UNLOGGED", "ALTER TABLE relay."+table+" SET LOGGED")
			type answer struct {
				rows []outbox.Row
				err  error
			}
			answered := make(chan answer, 1)
			go func() {
				rows, err := read()
				answered <- answer{rows, err}
			}()
			testenv.Eventually(t, 30*time.Second, func() error {
				var waits bool
				err := pool.QueryRow(t.Context(), "SELECT EXISTS (SELECT FROM pg_locks WHERE relation = $1::text::regclass AND NOT granted)", "relay."+table).Scan(&waits)
				if err == nil && !waits {
					err = errors.New("nobody waits for the table")
				}
				return err
			})
			commit(t, tx)
			if a := <-answered; a.err != nil || len(a.rows) != 9 {
				t.Errorf("%s while %s is written anew: %d rows, want 9 (%v)", name, table, len(a.rows), a.err)
			}
		}
	}
}

func TestRetentionDeletesWholeBatchesAndShiftsNoPosition(t *testing.T) {
	t.Parallel()
	pool, url := testenv.DB(t)
	r := newReader(t, url)
	log := slices.Concat(churn(t, pool, r, 4, 20), churn(t, pool, r, 4, 20), churn(t, pool, r, 4, 20)) // at least three ticks: the first and the last always stay
	if _, err := pool.Exec(t.Context(), "UPDATE relay.ticks SET at = at - interval '1 hour' WHERE position <= $1", log[len(log)/2].TickThrough); err != nil {
		t.Fatal(err)
	}
	var retention outbox.Retention
	deleted, err := retention.Delete(t.Context(), pool, time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	oldest, err := outbox.Oldest(t.Context(), r.conn)
	if err != nil {
		t.Fatal(err)
	}
	if oldest != log[len(log)/2].TickThrough || deleted == 0 {
		t.Fatalf("oldest position %d after %d rows were deleted, want %d", oldest, deleted, log[len(log)/2].TickThrough)
	}
	if _, _, err := outbox.ReadHistory(t.Context(), pool, "p1", oldest-1, 10, maxHeld); err != outbox.ErrExpired { //nolint:errorlint // the contract
		t.Errorf("a cursor below the oldest tick: error %v, want ErrExpired", err)
	}
	err = outbox.ReplayPrograms(t.Context(), r.conn, []string{"p1"}, oldest-1, r.last, 10, time.Minute, func([]outbox.Row) error { return nil })
	if err != outbox.ErrExpired { //nolint:errorlint // the contract
		t.Errorf("programs replayed from below the oldest tick: error %v, want ErrExpired", err)
	}
	checkReplayPrograms(t, r, log, []string{"p1", "p2"}, oldest)
	for _, row := range log {
		got, err := outbox.ReadEvent(t.Context(), pool, row.ID)
		switch {
		case row.Control:
		case row.Position <= oldest:
			if !errors.Is(err, outbox.ErrNoEvent) && !errors.Is(err, outbox.ErrExpired) {
				t.Errorf("event %d, which has expired: %v (%v)", row.ID, got, err)
			}
		case err != nil || got.Position != row.Position:
			t.Errorf("event %d is at %d (%v), want %d", row.ID, got.Position, err, row.Position)
		}
	}
	var kept []outbox.Row
	for _, row := range log {
		if row.Program == "p1" && row.Position > oldest {
			kept = append(kept, row)
		}
	}
	checkHistory(t, pool, "p1", oldest, kept)
	var rows int
	if err := pool.QueryRow(t.Context(), "SELECT count(*) FROM relay.outbox").Scan(&rows); err != nil {
		t.Fatal(err)
	}
	if want := len(log) - int(deleted); rows != want {
		t.Errorf("%d rows are left, want %d", rows, want)
	}
	// Everything expires but the newest tick and its base; the newest can still be replayed.
	err = outbox.ReplayPrograms(t.Context(), r.conn, []string{"p0", "p1", "p2"}, oldest, r.last, 3, time.Minute, func([]outbox.Row) error {
		exec(t, pool, "UPDATE relay.ticks SET at = at - interval '1 hour'")
		_, err := retention.Delete(t.Context(), pool, time.Minute)
		return err
	})
	if !errors.Is(err, outbox.ErrExpired) {
		t.Errorf("programs replayed while their rows are deleted: error %v, want ErrExpired", err)
	}
	newest, err := outbox.NewestTick(t.Context(), r.conn)
	if err != nil || !newest.Replayable {
		t.Fatalf("newest tick %+v (%v), want it replayable", newest, err)
	}
	if got := r.replay(newest, 100); int64(len(got)) != newest.Events {
		t.Errorf("%d rows replayed, want %d", len(got), newest.Events)
	}
}
