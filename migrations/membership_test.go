package migrations_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/outboxrelay/outboxrelay/internal/testenv"
)

// step is a statement, or several, and the control rows that it must write.
type step struct{ statement, want string }

func (s step) check(t *testing.T, conn *pgx.Conn) {
	t.Helper()
	exec(t, conn, s.statement)
	if got := changes(t, conn); got != s.want {
		t.Errorf("%s\nwrote %q, want %q", s.statement, got, s.want)
	}
}

// A control row says that somebody was a member until then, and catch-up shows what lies before it. The triggers used to write an `out`
// for a user who had been inactive all the time, when one transaction took away two memberships; and none when one statement
// deactivated a user and a membership that were older than the triggers.
func TestControlRowsSayOnlyWhatWasTrue(t *testing.T) {
	t.Parallel()
	conn := testenv.Conn(t, testenv.Postgres(t))
	exec(t, conn, "ALTER TABLE relay.users DISABLE TRIGGER USER", "ALTER TABLE relay.program_members DISABLE TRIGGER USER",
		"INSERT INTO relay.users (id) VALUES ('old')", "INSERT INTO relay.program_members VALUES ('old', 'p1'), ('old', 'p2')",
		"ALTER TABLE relay.users ENABLE ALWAYS TRIGGER track_user", "ALTER TABLE relay.program_members ENABLE ALWAYS TRIGGER track_membership")
	for _, s := range []step{
		{"SELECT relay.sync_memberships()", "old p1 in, old p2 in"},
		{"SELECT relay.sync_memberships()", ""},
		{"WITH u AS (UPDATE relay.users SET is_active = false) UPDATE relay.program_members SET is_active = false WHERE program_id = 'p1'", "old p1 out, old p2 out"},
		{"BEGIN; DELETE FROM relay.program_members WHERE program_id = 'p1'; DELETE FROM relay.program_members WHERE program_id = 'p2'; COMMIT", ""},
		{"BEGIN; INSERT INTO relay.program_members VALUES ('old', 'p3'); DELETE FROM relay.program_members; COMMIT", ""},
		{"BEGIN; UPDATE relay.users SET is_active = true; INSERT INTO relay.program_members VALUES ('old', 'p3'); COMMIT", "old p3 in"},
		{"WITH u AS (UPDATE relay.users SET is_active = false) INSERT INTO relay.program_members VALUES ('old', 'p4')", "old p3 out"},
		{"WITH u AS (UPDATE relay.users SET is_active = true) DELETE FROM relay.program_members WHERE program_id = 'p4'", "old p3 in"},
		{"INSERT INTO relay.program_members VALUES ('old', 'p3', false) ON CONFLICT (user_id, program_id) DO UPDATE SET is_active = excluded.is_active", "old p3 out"},
		{"INSERT INTO relay.program_members VALUES ('old', 'p3') ON CONFLICT (user_id, program_id) DO NOTHING", ""},
		{"INSERT INTO relay.program_members VALUES ('old', 'p3'), ('old', 'p5') ON CONFLICT (user_id, program_id) DO UPDATE SET is_active = true", "old p3 in, old p5 in"},
		{"INSERT INTO relay.users (id, is_active) VALUES ('old', false) ON CONFLICT (id) DO UPDATE SET is_active = excluded.is_active", "old p3 out, old p5 out"},
		{"BEGIN; SAVEPOINT s; UPDATE relay.users SET is_active = true; ROLLBACK TO s; COMMIT", ""},
		{"SELECT relay.check_user('nobody'), relay.check_membership('old', 'p3'), relay.membership_changed('old', 'p3', 'out')", ""},
		{"UPDATE relay.users SET is_active = true", "old p3 in, old p5 in"},
		{"BEGIN; DELETE FROM relay.users; INSERT INTO relay.users (id) VALUES ('old'); COMMIT", "old p3 out, old p5 out, old p3 in, old p5 in"},
		// Behind the triggers' back, and then told.
		{"ALTER TABLE relay.program_members DISABLE TRIGGER track_membership; DELETE FROM relay.program_members WHERE program_id = 'p3'; " +
			"INSERT INTO relay.program_members VALUES ('old', 'p6'), ('nobody', 'p6'); ALTER TABLE relay.program_members ENABLE ALWAYS TRIGGER track_membership", ""},
		{"SELECT relay.sync_memberships()", "old p3 out, old p6 in"},
	} {
		s.check(t, conn)
	}
	// Rows that logical replication applies count as well.
	step{"SET session_replication_role = replica; DELETE FROM relay.users WHERE id = 'old'; RESET session_replication_role", "old p5 out, old p6 out"}.check(t, conn)
}

// The control row and the change are one transaction: neither is there without the other.
func TestAChangeThatCannotBeToldFails(t *testing.T) {
	t.Parallel()
	conn := testenv.Conn(t, testenv.Postgres(t))
	exec(t, conn, "INSERT INTO relay.users (id) VALUES ('u1')", "CREATE TABLE seats (person text, place text)",
		"CREATE VIEW other AS SELECT person AS user_id, place AS program_id, true AS is_active FROM seats",
		"DROP TABLE relay.program_members", "ALTER VIEW other SET SCHEMA relay", "ALTER VIEW relay.other RENAME TO program_members",
		"GRANT SELECT ON relay.program_members TO relay_migrator")
	attach := func(args string) {
		exec(t, conn, "DROP TRIGGER IF EXISTS seats ON seats",
			"CREATE TRIGGER seats AFTER INSERT OR UPDATE OR DELETE ON seats FOR EACH ROW EXECUTE FUNCTION relay.track_membership("+args+")")
	}
	for args, want := range map[string]string{
		"'person', 'plaice'":            "no column plaice", // used to be taken for a table that nothing ever happens to
		"'person', 'place', 'isactive'": "no column isactive",
		"'person'":                      "must name the columns of the user and the program",
	} {
		attach(args)
		if _, err := conn.Exec(t.Context(), "INSERT INTO seats VALUES ('u1', 'p1')"); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("track_membership(%s): %v, want %q", args, err, want)
		}
	}
	attach("'person', 'place'")
	if _, err := conn.Exec(t.Context(), "INSERT INTO seats VALUES ('u1', 'no place')"); err == nil || !strings.Contains(err.Error(), "program_id must be") {
		t.Errorf("a program id that can't be one: %v", err)
	}
	step{"INSERT INTO seats VALUES ('u1', NULL), (NULL, 'p1'), ('u1', 'p1'), ('u1', 'p1')", "u1 p1 in"}.check(t, conn)
	step{"DELETE FROM seats WHERE ctid = (SELECT min(ctid) FROM seats WHERE person = 'u1' AND place = 'p1')", ""}.check(t, conn) // one of two
	step{"DELETE FROM seats", "u1 p1 out"}.check(t, conn)
}

// The two triggers racing each other never leave the last word to one that decided on what the other was changing, at any isolation level.
func TestUserAndMembershipTriggersRace(t *testing.T) {
	t.Parallel()
	for _, level := range []string{"read committed", "repeatable read", "serializable"} {
		t.Run(level, func(t *testing.T) {
			t.Parallel()
			race(t, level)
		})
	}
}

func race(t *testing.T, level string) {
	rounds := 300
	if testenv.Long() {
		rounds = 3000
	}
	url := testenv.Postgres(t)
	judge := testenv.Conn(t, url)
	exec(t, judge, "INSERT INTO relay.users (id) VALUES ('u1')", "INSERT INTO relay.program_members VALUES ('u1', 'p1', false)")
	toggle := func(statement string) chan error {
		conn := testenv.Conn(t, url)
		exec(t, conn, "SET default_transaction_isolation = '"+level+"'")
		done := make(chan error)
		go func() {
			var err error
			for range rounds {
				if _, e := conn.Exec(t.Context(), statement); e != nil && !retriable(e, level) {
					err = e
				}
			}
			done <- err
		}()
		return done
	}
	a, b := toggle("UPDATE relay.users SET is_active = NOT is_active"), toggle("UPDATE relay.program_members SET is_active = NOT is_active")
	for _, done := range []chan error{a, b} {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	var total, wrong int // in after in, or out after out, in the order of commits (which the user's lock makes that of the ids)
	err := judge.QueryRow(t.Context(), `SELECT count(*), count(*) FILTER (WHERE c = before) FROM (
		SELECT data->>'change' AS c, lag(data->>'change', 1, 'out') OVER (ORDER BY id) AS before FROM relay.outbox WHERE control) x`).Scan(&total, &wrong)
	if err != nil || wrong != 0 || total < 10 {
		t.Errorf("%d of %d changes change nothing (%v)", wrong, total, err)
	}
	var agree bool
	err = judge.QueryRow(t.Context(), `SELECT (SELECT u.is_active AND m.is_active FROM relay.users u, relay.program_members m)
		= coalesce((SELECT data->>'change' FROM relay.outbox WHERE control ORDER BY id DESC LIMIT 1) = 'in', false)`).Scan(&agree)
	if err != nil || !agree {
		t.Errorf("the last change in the log isn't what the tables say (%v)", err)
	}
}

// retriable tells whether an error is one that the isolation level allows: nothing was changed then.
func retriable(err error, level string) bool {
	var pe *pgconn.PgError
	return level != "read committed" && errors.As(err, &pe) && pe.Code == "40001"
}
