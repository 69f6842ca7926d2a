package outbox

import (
	"fmt"
	"math"
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
	run := func(query string) { t.Helper(); execute(t, conn, query) }
	run("ALTER TABLE relay.outbox SET (autovacuum_enabled = off); ALTER TABLE relay.ticks SET (autovacuum_enabled = off)")
	run(fmt.Sprintf("INSERT INTO relay.outbox (program_id, event) SELECT 'p' || n %% 1000, 'a:b' FROM generate_series(1, %d) n", rows))
	run(PlanSettings)
	var sqlc []byte
	sqlc, err := os.ReadFile("query.sql")
	if err != nil {
		t.Fatal(err)
	}
	queries := map[string]string{"next": nextQuery, "cut": nextCutQuery, "large": commitLargeQuery, "refill": refillQuery, "heads": headsQuery}
	for name, args := range map[string][]string{
		"OldestRows": {"program text", "lower", "upper", "max_rows bigint"}, "NewestRows": {"program text", "lower", "upper", "max_rows bigint"},
		"ProgramRows": {"program text", "lower", "upper", "after bigint", "before bigint", "direction bigint", "max_rows bigint", "max_bytes bigint"},
		"DeleteRows":  {"low xid8", "snapshot", "max_rows bigint"},
		"RowsByID":    {"ids bigint"}, "Event": {"id bigint"}, "Stretch": {"after bigint", "upto bigint", "max_ticks bigint", "max_events bigint"},
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
	execute(t, conn, PlanSettings+"; INSERT INTO relay.outbox (program_id, event) SELECT 'p1', 'a:b' FROM generate_series(1, 5000)")
	handled, plan := analyze(t, conn, nextQuery, fmt.Sprintf("'%s', 0, 1, 1, 100, 1000000", Genesis))
	if handled < 100 || handled > 999 {
		t.Errorf("100 rows fit, and the plan handles %d\n%s", handled, plan)
	}
}

// Each membership change was compared with all others of its program, and only then were the first hundred cuts taken: fourteen thousand that had been
// made one by one took twice as long as a read may, so that they were never relayed.
func TestManyMembershipChangesAreEachLookedAtOnce(t *testing.T) {
	t.Parallel()
	const changes = 1000
	for name, sql := range map[string]string{
		"users one by one":               "DO $$ BEGIN FOR n IN 1..%d LOOP INSERT INTO relay.program_members VALUES ('u' || n, 'p'); COMMIT; END LOOP; END $$",
		"one membership again and again": "DO $$ BEGIN FOR n IN 1..%d LOOP INSERT INTO relay.program_members VALUES ('u1', 'p') ON CONFLICT (user_id, program_id) DO UPDATE SET is_active = NOT relay.program_members.is_active; COMMIT; END LOOP; END $$",
		"one user's all at once":         "INSERT INTO relay.program_members SELECT 'u1', 'p' || n FROM generate_series(1, %d) n",
		"one user's one by one":          "DO $$ BEGIN FOR n IN 1..%d LOOP INSERT INTO relay.program_members VALUES ('u1', 'p' || n); COMMIT; END LOOP; END $$",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			conn := testenv.Conn(t, testenv.Postgres(t))
			execute(t, conn, PlanSettings)
			execute(t, conn, fmt.Sprintf("INSERT INTO relay.users (id) SELECT 'u' || n FROM generate_series(1, %d) n", changes))
			execute(t, conn, fmt.Sprintf(sql, changes))
			for query, args := range map[string]string{nextCutQuery: "'%s', 0, 1, 1, 5000, 10000000", commitLargeQuery: "'%s', 0, 1, 1"} {
				handled, plan := analyze(t, conn, query, fmt.Sprintf(args, Genesis))
				if handled < changes || handled > 300*changes { // each row is compared with 100 cuts, and the first 400 changes of a membership with one another
					t.Errorf("the plan handles %d rows for %d changes\n%s", handled, changes, plan)
				}
			}
		})
	}
}

// The way to the tick of a transaction that was open for long is past all the ticks of that time. It was gone for each of its rows: those of an import
// took so long that neither a log could be refilled with them nor a client catch up past them.
func TestTheTickOfATransactionIsLookedForOnce(t *testing.T) {
	t.Parallel()
	url := testenv.Postgres(t)
	conn, long := testenv.Conn(t, url), testenv.Conn(t, url)
	const rows, ticks = 400, 300
	execute(t, conn, PlanSettings+"; INSERT INTO relay.users (id) VALUES ('u')")
	execute(t, long, "BEGIN")
	execute(t, long, fmt.Sprintf("INSERT INTO relay.outbox (program_id, event) SELECT 'p', 'a:b' FROM generate_series(1, %d)", rows))
	execute(t, long, fmt.Sprintf("INSERT INTO relay.program_members SELECT 'u', 'p' || n FROM generate_series(1, %d) n", rows))
	last := Tick{Snapshot: Genesis}
	for n := range ticks + 1 {
		if n == ticks {
			execute(t, long, "COMMIT")
		}
		execute(t, conn, "INSERT INTO relay.outbox (program_id, event) VALUES ('other', 'a:b')")
		var err error
		if last, _, err = Next(t.Context(), conn, last, Cluster{}, 10*rows); err != nil {
			t.Fatal(err)
		}
	}
	read := func(file string) string {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	between := fmt.Sprintf("'p', '%s', '%s', %d", Genesis, last.Snapshot, rows)
	program := []string{"program text", "lower", "upper", "max_rows bigint"}
	for query, args := range map[string]string{
		numbered(t, read("query.sql"), "OldestRows", program):                                                            between,
		numbered(t, read("query.sql"), "NewestRows", program):                                                            between,
		numbered(t, read("query.sql"), "Event", []string{"id bigint"}):                                                   strconv.Itoa(rows),
		numbered(t, read("../auth/query.sql"), "Changes", []string{"user_ids text", "afters bigint", "throughs bigint"}): fmt.Sprintf("ARRAY['u'], ARRAY[0], ARRAY[%d]", last.Position),
	} {
		handled, plan := analyze(t, conn, query, args)
		if handled < rows || handled > 30*(rows+ticks) {
			t.Errorf("the plan handles %d rows for %d, with %d ticks\n%s", handled, rows, ticks, plan)
		}
	}
}

// A transaction that is open for long is in the snapshots of all the ticks of that time, and holds back their xmin. Every read looked at all that it had
// written so far, a page of history once more for each tick of it; and every membership change, and every page, at all that its program had written
// since: of an import of a million rows a page took longer than it may.
func TestATransactionThatIsOpenForLongIsNoBurden(t *testing.T) {
	t.Parallel()
	url := testenv.Postgres(t)
	conn, long := testenv.Conn(t, url), testenv.Conn(t, url)
	const rows, ticks = 20_000, 20 // 250 blocks
	execute(t, conn, PlanSettings+"; INSERT INTO relay.users (id) SELECT 'u' || n FROM generate_series(0, 20) n")
	execute(t, long, fmt.Sprintf("BEGIN; INSERT INTO relay.outbox (program_id, event) SELECT 'p', 'a:b' FROM generate_series(1, %d)", rows))
	last := Tick{Snapshot: Genesis}
	for n := range ticks {
		execute(t, conn, fmt.Sprintf("INSERT INTO relay.outbox (program_id, event) SELECT 'p', 'a:b' FROM generate_series(1, %d)", rows/ticks))
		execute(t, conn, fmt.Sprintf("INSERT INTO relay.outbox (program_id, event) VALUES ('q', 'a:b'); INSERT INTO relay.program_members VALUES ('u%d', 'p')", n))
		var err error
		if last, err = CommitLarge(t.Context(), conn, last, Cluster{}); err != nil {
			t.Fatal(err)
		}
	}
	var event int
	if err := conn.QueryRow(t.Context(), "SELECT max(id) FROM relay.outbox WHERE program_id = 'q'").Scan(&event); err != nil {
		t.Fatal(err)
	}
	sqlc, err := os.ReadFile("query.sql")
	if err != nil {
		t.Fatal(err)
	}
	query := func(name string, args ...string) string {
		return numbered(t, string(sqlc), name, append([]string{"program text", "lower", "upper"}, args...))
	}
	page := query("ProgramRows", "after bigint", "before bigint", "direction bigint", "max_rows bigint", "max_bytes bigint")
	check := func(name, query, args string, most int) {
		t.Helper()
		if blocks, plan := touched(t, conn, query, args); blocks > most {
			t.Errorf("%s: %d blocks, want at most %d\n%s", name, blocks, most, plan)
		}
	}
	execute(t, conn, "INSERT INTO relay.outbox (program_id, event) SELECT 'p', 'a:b' FROM generate_series(1, 10); INSERT INTO relay.program_members VALUES ('u20', 'p')")
	check("next", nextQuery, fmt.Sprintf("'%s', %d, 1, 1, 100, 1000000", last.Snapshot, last.Position), 100)
	check("cut", nextCutQuery, fmt.Sprintf("'%s', %d, 1, 1, 100, 1000000", last.Snapshot, last.Position), 100)
	check("large", commitLargeQuery, fmt.Sprintf("'%s', %d, 1, 1", last.Snapshot, last.Position), 100)
	check("newest rows", query("NewestRows", "max_rows bigint"), fmt.Sprintf("'p', '%s', '%[1]s', 100", last.Snapshot), 100)
	check("oldest rows", query("OldestRows", "max_rows bigint"), fmt.Sprintf("'p', '%s', '%[1]s', 100", last.Snapshot), 100)
	check("the newest page", page, fmt.Sprintf("'p', '%s', '%[1]s', 0, %d, 1, 100, 1000000", last.Snapshot, int64(math.MaxInt64)), 100)
	check("event", numbered(t, string(sqlc), "Event", []string{"id bigint"}), strconv.Itoa(event), 100)
	every := fmt.Sprintf("'q', '%s', '%s', 0, %d, 1, 100, 1000000", Genesis, last.Snapshot, int64(math.MaxInt64))
	check("a page while it is open", page, every, 1000)
	execute(t, long, "COMMIT")
	check("a page later", page, every, 1000)
}

// touched runs a query, without a lasting effect, and counts the blocks that it looks at.
func touched(t *testing.T, conn *pgx.Conn, query, args string) (blocks int, plan string) {
	t.Helper()
	_, plan = analyzeWith(t, conn, "ANALYZE, BUFFERS, TIMING off", query, args)
	for _, n := range regexp.MustCompile(`Buffers: shared(?: hit=(\d+))?(?: read=(\d+))?`).FindStringSubmatch(plan)[1:] {
		k, _ := strconv.Atoi(n)
		blocks += k
	}
	return blocks, plan
}

func execute(t *testing.T, conn *pgx.Conn, query string) {
	t.Helper()
	if _, err := conn.Exec(t.Context(), query, pgx.QueryExecModeSimpleProtocol); err != nil {
		t.Fatalf("%s: %v", query, err)
	}
}

// analyze runs a query, without a lasting effect, and counts the rows that its plan handles, those included that it throws away.
func analyze(t *testing.T, conn *pgx.Conn, query, args string) (handled int, plan string) {
	t.Helper()
	return analyzeWith(t, conn, "ANALYZE, TIMING off", query, args)
}

func analyzeWith(t *testing.T, conn *pgx.Conn, options, query, args string) (handled int, plan string) {
	t.Helper()
	execute(t, conn, "BEGIN; PREPARE analyzed AS "+query)
	rows, err := conn.Query(t.Context(), "EXPLAIN ("+options+") EXECUTE analyzed("+args+")", pgx.QueryExecModeSimpleProtocol)
	if err != nil {
		t.Fatal(err)
	}
	lines, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		t.Fatal(err)
	}
	execute(t, conn, "ROLLBACK; DEALLOCATE analyzed")
	loops := 0
	for _, line := range lines {
		if m := regexp.MustCompile(`actual rows=(\d+) loops=(\d+)|Rows Removed by .*: (\d+)`).FindStringSubmatch(line); m != nil {
			n, _ := strconv.Atoi(m[1] + m[3])
			if m[2] != "" {
				loops, _ = strconv.Atoi(m[2])
			}
			handled += n * loops
		}
	}
	return handled, strings.Join(lines, "\n")
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
	execute(t, conn, "PREPARE plan_"+name+" AS "+query)
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
