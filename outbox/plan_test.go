package outbox

import (
	"fmt"
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/outboxrelay/outboxrelay/internal/testenv"
)

// The reader's plans must not depend on luck: with a generic plan, without statistics and with many rows each scan of the outbox is an index scan
// with a condition on xid (or id), and none of them walks the whole primary key.
func TestPlansAreIndexScans(t *testing.T) {
	t.Parallel()
	conn := testenv.Conn(t, testenv.Postgres(t))
	rows := 100_000
	if testenv.Long() {
		rows = 3_000_000
	}
	run := func(query string) {
		t.Helper()
		if _, err := conn.Exec(t.Context(), query, pgx.QueryExecModeSimpleProtocol); err != nil {
			t.Fatalf("%s: %v", query, err)
		}
	}
	run("ALTER TABLE relay.outbox SET (autovacuum_enabled = off); ALTER TABLE relay.ticks SET (autovacuum_enabled = off)")
	run(fmt.Sprintf("INSERT INTO relay.outbox (program_id, event) SELECT 'p' || n %% 1000, 'a:b' FROM generate_series(1, %d) n", rows))
	run(PlanSettings)
	var sqlc []byte
	sqlc, err := os.ReadFile("query.sql")
	if err != nil {
		t.Fatal(err)
	}
	queries := map[string]string{"next": nextQuery, "cut": nextCutQuery, "large": commitLargeQuery}
	for name, args := range map[string][]string{
		"OldestRows": {"program text", "lower", "upper", "max_rows bigint"}, "NewestRows": {"program text", "lower", "upper", "max_rows bigint"},
		"ProgramRows": {"program text", "lower", "upper", "after bigint", "before bigint", "direction bigint", "max_rows bigint", "max_bytes bigint"},
		"DeleteRows":  {"low xid8", "snapshot", "max_rows bigint"}, "RowsAfter": {"snapshot", "upto"},
	} {
		queries[name] = numbered(t, string(sqlc), name, args)
	}
	var membership []byte
	if membership, err = os.ReadFile("../auth/query.sql"); err != nil {
		t.Fatal(err)
	}
	queries["Memberships"] = numbered(t, string(membership), "Memberships", []string{"user_ids text"}) // the type of an element
	queries["Changes"] = numbered(t, string(membership), "Changes", []string{"user_ids text", "afters bigint", "throughs bigint"})
	for name, query := range queries {
		plan := explain(t, conn, name, query)
		for line := range strings.Lines(plan) {
			if strings.Contains(line, "Seq Scan on outbox") || strings.Contains(line, "Seq Scan on ticks") || strings.Contains(line, "Seq Scan on cuts c") || strings.Contains(line, "Bitmap Heap Scan") {
				t.Errorf("%s: %s\n%s", name, strings.TrimSpace(line), plan)
			}
		}
		if scans, conditions := strings.Count(plan, "Scan using"), strings.Count(plan, "Index Cond"); scans == 0 || scans > conditions+orderedTicks(plan) {
			t.Errorf("%s: %d index scans, of which %d have a condition\n%s", name, scans, conditions, plan)
		}
	}
}

// Next sorted whatever waited only to say that it was too much. A backlog that took longer than the relay's 10 seconds for a read was never
// relayed: each new session began with the same read.
func TestABacklogIsRecognisedByItsFirstRows(t *testing.T) {
	t.Parallel()
	conn := testenv.Conn(t, testenv.Postgres(t))
	exec := func(query string) {
		t.Helper()
		if _, err := conn.Exec(t.Context(), query, pgx.QueryExecModeSimpleProtocol); err != nil {
			t.Fatalf("%s: %v", query, err)
		}
	}
	exec(PlanSettings + "; INSERT INTO relay.outbox (program_id, event) SELECT 'p1', 'a:b' FROM generate_series(1, 5000)")
	exec("PREPARE backlog AS " + nextQuery)
	rows, err := conn.Query(t.Context(), fmt.Sprintf("EXPLAIN (ANALYZE, TIMING off) EXECUTE backlog('%s', 0, 1, 1, 100, 1000000)", Genesis), pgx.QueryExecModeSimpleProtocol)
	if err != nil {
		t.Fatal(err)
	}
	lines, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range lines {
		if m := regexp.MustCompile(`actual rows=(\d+)`).FindStringSubmatch(line); m != nil && len(m[1]) > 3 {
			t.Errorf("100 rows fit, and the plan reads %s\n%s", m[1], strings.Join(lines, "\n"))
		}
	}
}

// Each membership change was compared with all others of its program, and only then were the first hundred cuts taken: fourteen thousand that had been
// made one by one took twice as long as a read may, so that they were never relayed.
func TestManyMembershipChangesAreEachLookedAtOnce(t *testing.T) {
	t.Parallel()
	conn := testenv.Conn(t, testenv.Postgres(t))
	exec := func(query string) {
		t.Helper()
		if _, err := conn.Exec(t.Context(), query, pgx.QueryExecModeSimpleProtocol); err != nil {
			t.Fatalf("%s: %v", query, err)
		}
	}
	const changes = 1000
	exec(PlanSettings)
	exec(fmt.Sprintf("INSERT INTO relay.users (id) SELECT 'u' || n FROM generate_series(1, %d) n", changes))
	exec(fmt.Sprintf("DO $$ BEGIN FOR n IN 1..%d LOOP INSERT INTO relay.program_members VALUES ('u' || n, 'p'); COMMIT; END LOOP; END $$", changes))
	for name, query := range map[string]string{"cut": nextCutQuery, "large": commitLargeQuery} {
		exec("PREPARE changes_" + name + " AS " + query)
		limits := ""
		if name == "cut" {
			limits = ", 5000, 10000000"
		}
		exec("BEGIN")
		rows, err := conn.Query(t.Context(), fmt.Sprintf("EXPLAIN (ANALYZE, TIMING off) EXECUTE changes_%s('%s', 0, 1, 1%s)", name, Genesis, limits), pgx.QueryExecModeSimpleProtocol)
		if err != nil {
			t.Fatal(err)
		}
		lines, err := pgx.CollectRows(rows, pgx.RowTo[string])
		if err != nil {
			t.Fatal(err)
		}
		exec("ROLLBACK")
		total, loops := 0, 1
		for _, line := range lines {
			if m := regexp.MustCompile(`actual rows=(\d+) loops=(\d+)`).FindStringSubmatch(line); m != nil {
				n, _ := strconv.Atoi(m[1])
				loops, _ = strconv.Atoi(m[2])
				total += n * loops
			}
			if m := regexp.MustCompile(`Rows Removed by .*: (\d+)`).FindStringSubmatch(line); m != nil {
				n, _ := strconv.Atoi(m[1])
				total += n * loops
			}
		}
		if total < changes || total > 50*changes {
			t.Errorf("%s: the plan handles %d rows for %d changes\n%s", name, total, changes, strings.Join(lines, "\n"))
		}
	}
}

// orderedTicks counts scans of the ticks from one end, which need no condition.
func orderedTicks(plan string) int {
	return len(regexp.MustCompile(`Scan (?:Backward )?using \S+ on ticks`).FindAllString(plan, -1))
}

// numbered takes a query from the file and gives its named parameters numbers and types; one without a type is a snapshot.
func numbered(t *testing.T, file, name string, args []string) string {
	t.Helper()
	_, query, ok := strings.Cut(file, "-- name: "+name+" :")
	if !ok {
		t.Fatalf("no query %s", name)
	}
	_, query, _ = strings.Cut(query, "\n")
	query, _, _ = strings.Cut(query, ";\n")
	for i, a := range args {
		arg, kind, typed := strings.Cut(a, " ")
		if !typed {
			kind = "pg_snapshot"
		}
		query = regexp.MustCompile(`@`+arg+`\b(::\w+)?`).ReplaceAllString(query, fmt.Sprintf("$$%d::%s", i+1, kind))
	}
	return query
}

func explain(t *testing.T, conn *pgx.Conn, name, query string) string {
	t.Helper()
	if _, err := conn.Exec(t.Context(), "PREPARE plan_"+name+" AS "+query, pgx.QueryExecModeSimpleProtocol); err != nil {
		t.Fatalf("%s: %v\n%s", name, err, query)
	}
	var values []string
	for range parameters(query) {
		values = append(values, "NULL")
	}
	rows, err := conn.Query(t.Context(), fmt.Sprintf("EXPLAIN EXECUTE plan_%s(%s)", name, strings.Join(values, ", ")), pgx.QueryExecModeSimpleProtocol)
	if err != nil {
		t.Fatal(err)
	}
	lines, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		t.Fatal(err)
	}
	return strings.Join(lines, "\n")
}

// parameters returns the highest $n of a query.
func parameters(query string) (n int) {
	for _, m := range regexp.MustCompile(`\$(\d)`).FindAllStringSubmatch(query, -1) {
		n = max(n, int(m[1][0]-'0'))
	}
	return n
}

// As a call of its own the check would cost an INSERT several times as much.
func TestTheCheckOfAnEventIsPlannedInThePlaceOfItsCall(t *testing.T) {
	t.Parallel()
	conn := testenv.Conn(t, testenv.Postgres(t))
	rows, err := conn.Query(t.Context(), `EXPLAIN (VERBOSE, COSTS OFF) SELECT relay.event_fault(o.program_id, o.event, o.request_id, o.data,
		o.performed_by_id, o.performed_by_name, o.traceparent, o.control) FROM relay.outbox o`)
	if err != nil {
		t.Fatal(err)
	}
	plan, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if text := strings.Join(plan, "\n"); err != nil || strings.Contains(text, "event_fault") || !strings.Contains(text, "CASE") {
		t.Errorf("the plan calls it (%v):\n%s", err, text)
	}
}
