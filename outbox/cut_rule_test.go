package outbox

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/outboxrelay/outboxrelay/internal/testenv"
)

// cutsByRule is what cuts are, change by change: correct, and too slow for many of them.
const cutsByRule = `cuts AS MATERIALIZED (
    SELECT c.snapshot, row_number() OVER (ORDER BY pg_snapshot_xmax(c.snapshot), (SELECT count(*) FROM pg_snapshot_xip(c.snapshot)) DESC, c.xid) - 1 AS n
    FROM relay.cuts c
    WHERE c.xid >= pg_snapshot_xmin($1::text::pg_snapshot) AND NOT pg_visible_in_snapshot(c.xid, $1::text::pg_snapshot)
      AND pg_snapshot_xmax(c.snapshot) >= pg_snapshot_xmax($1::text::pg_snapshot)
      AND NOT EXISTS (SELECT FROM pg_snapshot_xip(c.snapshot) running WHERE pg_visible_in_snapshot(running, $1::text::pg_snapshot))
      AND EXISTS (
        SELECT FROM relay.outbox k JOIN relay.outbox e ON e.program_id = k.program_id
        WHERE k.xid = c.xid AND k.control AND (NOT e.control OR e.performed_by_id = k.performed_by_id)
          AND NOT pg_visible_in_snapshot(e.xid, $1::text::pg_snapshot) AND pg_visible_in_snapshot(e.xid, c.snapshot))
    ORDER BY n LIMIT 100)`

// Whatever transactions overlap, and wherever the last tick lies, the cuts are those of the rule.
func TestCutsAreThoseOfTheRule(t *testing.T) {
	t.Parallel()
	url := testenv.Postgres(t)
	watcher := testenv.Conn(t, url)
	writers := make([]*pgx.Conn, 6)
	open := make([]bool, len(writers))
	for i := range writers {
		writers[i] = testenv.Conn(t, url)
		execute(t, watcher, fmt.Sprintf("INSERT INTO relay.users (id) VALUES ('u%d')", i))
	}
	execute(t, watcher, PlanSettings)
	list := func(cte, base string) (s string) {
		t.Helper()
		if err := watcher.QueryRow(t.Context(), "WITH "+cte+" SELECT coalesce(string_agg(n || ' ' || snapshot, ', ' ORDER BY n), '') FROM cuts", base).Scan(&s); err != nil {
			t.Fatal(err)
		}
		return s
	}
	bases := []string{Genesis}
	var steps []string
	compared := 0
	random := rand.New(rand.NewPCG(rand.Uint64(), 1)) //nolint:gosec // not a secret
	for step := range 400 {
		i := random.IntN(len(writers))
		program := fmt.Sprintf("p%d", random.IntN(3))
		var query string
		switch k := random.IntN(10); {
		case k < 3 && open[i]:
			query, open[i] = "COMMIT", false
		case k < 4 && !open[i]:
			query, open[i] = "BEGIN", true
		case k < 6:
			query = fmt.Sprintf("INSERT INTO relay.outbox (program_id, event) VALUES ('%s', 'a:b')", program)
		case k < 8:
			query = fmt.Sprintf("INSERT INTO relay.program_members VALUES ('u%d', '%s') ON CONFLICT (user_id, program_id) DO UPDATE SET is_active = NOT relay.program_members.is_active", i, program)
		default:
			var snapshot string
			if err := watcher.QueryRow(t.Context(), "SELECT pg_current_snapshot()::text").Scan(&snapshot); err != nil {
				t.Fatal(err)
			}
			bases = append(bases, snapshot)
			continue
		}
		execute(t, writers[i], query)
		steps = append(steps, fmt.Sprintf("%d: %s", i, query))
		if step%5 > 0 {
			continue
		}
		base := bases[max(0, len(bases)-1-random.IntN(5))]
		got, want := list(cuts, base), list(cutsByRule, base)
		if got != want {
			t.Fatalf("after %s: cuts\n%s\nwant\n%s\nThe steps:\n%s", base, got, want, strings.Join(steps, "\n"))
		}
		compared += strings.Count(want, ",") + min(1, len(want))
	}
	if compared < 10 {
		t.Errorf("only %d cuts were compared", compared)
	}
}
