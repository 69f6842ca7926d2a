package migrations_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/outboxrelay/outboxrelay/internal/testenv"
	"github.com/outboxrelay/outboxrelay/migrations"
)

func TestMain(m *testing.M) { testenv.Main(m) }

func exec(t *testing.T, conn *pgx.Conn, statements ...string) {
	t.Helper()
	for _, s := range statements {
		if _, err := conn.Exec(t.Context(), s, pgx.QueryExecModeSimpleProtocol); err != nil {
			t.Fatalf("%s: %v", s, err)
		}
	}
}

// catalog describes everything in the schema relay, grants included.
func catalog(t *testing.T, conn *pgx.Conn) []string {
	t.Helper()
	rows, err := conn.Query(t.Context(), `
		SELECT format('%s %s %s %s default %s null %s acl %s', c.relkind, c.relname, a.attname, format_type(a.atttypid, a.atttypmod),
		              pg_get_expr(d.adbin, d.adrelid), NOT a.attnotnull, a.attacl)
		FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
		LEFT JOIN pg_attrdef d ON d.adrelid = c.oid AND d.adnum = a.attnum
		WHERE c.relnamespace = 'relay'::regnamespace
		UNION ALL SELECT format('acl of %s: %s', relname, relacl) FROM pg_class WHERE relnamespace = 'relay'::regnamespace
		UNION ALL SELECT pg_get_functiondef(oid) || proacl::text FROM pg_proc WHERE pronamespace = 'relay'::regnamespace
		UNION ALL SELECT pg_get_triggerdef(t.oid) || t.tgenabled::text FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid WHERE c.relnamespace = 'relay'::regnamespace
		UNION ALL SELECT pg_get_constraintdef(oid) || conname FROM pg_constraint WHERE connamespace = 'relay'::regnamespace
		UNION ALL SELECT pg_get_indexdef(indexrelid) FROM pg_index i JOIN pg_class c ON c.oid = i.indrelid WHERE c.relnamespace = 'relay'::regnamespace
		UNION ALL SELECT 'acl of the schema: ' || nspacl::text FROM pg_namespace WHERE nspname = 'relay'
		ORDER BY 1`)
	if err != nil {
		t.Fatal(err)
	}
	list, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		t.Fatal(err)
	}
	return list
}

func TestUpDownUpLeavesTheSameSchema(t *testing.T) {
	t.Parallel()
	url := testenv.EmptyPostgres(t)
	conn := testenv.Conn(t, url)
	if err := migrations.Check(t.Context(), conn); !errors.Is(err, migrations.ErrNotMigrated) {
		t.Errorf("Check of an empty database: %v, want ErrNotMigrated", err)
	}
	if err := migrations.Up(t.Context(), url); err != nil {
		t.Fatal(err)
	}
	if err := migrations.Check(t.Context(), conn); err != nil {
		t.Errorf("Check after Up: %v", err)
	}
	first := catalog(t, conn)
	list, err := migrations.List(t.Context(), url)
	if err != nil || len(list) != migrations.Version || list[len(list)-1].Version != migrations.Version {
		t.Fatalf("%d migrations, the last %+v (%v), want %d", len(list), list[len(list)-1], err, migrations.Version)
	}
	for range list {
		if err := migrations.Down(t.Context(), url); err != nil {
			t.Fatal(err)
		}
	}
	var left int
	if err := conn.QueryRow(t.Context(), "SELECT count(*) FROM pg_namespace WHERE nspname = 'relay'").Scan(&left); err != nil || left != 0 {
		t.Errorf("the schema is still there (%v)", err)
	}
	if err := migrations.Up(t.Context(), url); err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(first, catalog(t, conn)); d != "" {
		t.Error(d)
	}
}

func TestCheckRefusesAnotherVersion(t *testing.T) {
	t.Parallel()
	conn := testenv.Conn(t, testenv.Postgres(t))
	for version, want := range map[int]string{migrations.Version - 1: "migrate up", migrations.Version + 1: "newer outbox-relay"} {
		exec(t, conn, fmt.Sprintf("CREATE OR REPLACE FUNCTION relay.schema_version() RETURNS integer LANGUAGE sql AS 'SELECT %d'", version))
		if err := migrations.Check(t.Context(), conn); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("version %d: %v, want advice with %q", version, err, want)
		}
	}
}

func TestConcurrentUp(t *testing.T) {
	t.Parallel()
	url := testenv.EmptyPostgres(t)
	done := make(chan error)
	for range 3 {
		go func() { done <- migrations.Up(context.WithoutCancel(t.Context()), url) }()
	}
	for range 3 {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}

// changes returns the control rows in the order of the log, as "u1 p1 in".
func changes(t *testing.T, conn *pgx.Conn) string {
	t.Helper()
	var list string
	err := conn.QueryRow(t.Context(), `SELECT coalesce(string_agg(performed_by_id || ' ' || program_id || ' ' || (data->>'change'), ', ' ORDER BY id), '')
		FROM relay.outbox WHERE control`).Scan(&list)
	if err != nil {
		t.Fatal(err)
	}
	exec(t, conn, "DELETE FROM relay.outbox")
	return list
}

// A control row is written when the effective membership changes, and only then.
func TestMembershipChangesWriteControlRows(t *testing.T) {
	t.Parallel()
	conn := testenv.Conn(t, testenv.Postgres(t))
	for _, step := range []struct{ statement, want string }{
		{"INSERT INTO relay.users (id) VALUES ('u1'), ('u2')", ""},
		{"INSERT INTO relay.program_members VALUES ('u1', 'p1', true), ('u1', 'p2', false)", "u1 p1 in"},
		{"UPDATE relay.program_members SET is_active = true", "u1 p2 in"},
		{"UPDATE relay.program_members SET is_active = true", ""},
		{"UPDATE relay.users SET first_name = 'Ann', role = 'admin'", ""},
		{"UPDATE relay.users SET is_active = false WHERE id = 'u1'", "u1 p1 out, u1 p2 out"},
		{"UPDATE relay.program_members SET is_active = false WHERE program_id = 'p2'", ""},
		{"UPDATE relay.users SET is_active = true", "u1 p1 in"},
		{"UPDATE relay.program_members SET user_id = 'u2' WHERE program_id = 'p1'", "u1 p1 out, u2 p1 in"},
		{"UPDATE relay.program_members SET program_id = 'p3' WHERE program_id = 'p1'", "u2 p1 out, u2 p3 in"},
		{"DELETE FROM relay.users WHERE id = 'u2'", "u2 p3 out"},
		{"INSERT INTO relay.users (id) VALUES ('u2')", "u2 p3 in"},
		{"UPDATE relay.users SET id = 'u3' WHERE id = 'u2'", "u2 p3 out"},
		{"INSERT INTO relay.users (id) VALUES ('u2')", "u2 p3 in"},
		{"DELETE FROM relay.program_members WHERE user_id = 'u2'", "u2 p3 out"},
		{"BEGIN; INSERT INTO relay.program_members VALUES ('u2', 'p1'); DELETE FROM relay.program_members WHERE user_id = 'u2'; COMMIT", "u2 p1 in, u2 p1 out"},
		{"BEGIN; INSERT INTO relay.program_members VALUES ('u2', 'p1'); ROLLBACK", ""},
		{"WITH u AS (INSERT INTO relay.users (id) VALUES ('u4')) INSERT INTO relay.program_members VALUES ('u4', 'p1')", "u4 p1 in"},
		{"WITH u AS (UPDATE relay.users SET is_active = false WHERE id = 'u4') UPDATE relay.program_members SET is_active = false WHERE user_id = 'u4'", "u4 p1 out"},
	} {
		exec(t, conn, step.statement)
		if got := changes(t, conn); got != step.want {
			t.Errorf("%s\nwrote %q, want %q", step.statement, got, step.want)
		}
	}
	for _, table := range []string{"users", "program_members"} {
		var pe *pgconn.PgError
		if _, err := conn.Exec(t.Context(), "TRUNCATE relay."+table); !errors.As(err, &pe) || pe.Code != "23001" {
			t.Errorf("TRUNCATE %s: %v, want restrict_violation", table, err)
		}
	}
}

// The two triggers racing each other never leave the last word to one that decided on what the other was changing.
func TestUserAndMembershipTriggersRace(t *testing.T) {
	t.Parallel()
	url := testenv.Postgres(t)
	judge := testenv.Conn(t, url)
	exec(t, judge, "INSERT INTO relay.users (id) VALUES ('u1')", "INSERT INTO relay.program_members VALUES ('u1', 'p1', false)")
	toggle := func(statement string) chan error {
		conn := testenv.Conn(t, url)
		done := make(chan error)
		go func() {
			var err error
			for range 300 {
				if _, e := conn.Exec(t.Context(), statement); e != nil {
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
	var wrong int // in after in, or out after out, in the order of commits (which the user's lock makes that of the ids)
	err := judge.QueryRow(t.Context(), `SELECT count(*) FROM (
		SELECT data->>'change' AS c, lag(data->>'change', 1, 'out') OVER (ORDER BY id) AS before FROM relay.outbox WHERE control) x WHERE c = before`).Scan(&wrong)
	if err != nil || wrong != 0 {
		t.Errorf("%d changes change nothing (%v)", wrong, err)
	}
	var agree bool
	err = judge.QueryRow(t.Context(), `SELECT (SELECT u.is_active AND m.is_active FROM relay.users u, relay.program_members m)
		= ((SELECT data->>'change' FROM relay.outbox WHERE control ORDER BY id DESC LIMIT 1) = 'in')`).Scan(&agree)
	if err != nil || !agree {
		t.Errorf("the last change in the log isn't what the tables say (%v)", err)
	}
}

// Each role may do its own work and nothing else.
func TestRolesHaveLeastPrivilege(t *testing.T) {
	t.Parallel()
	url := testenv.Postgres(t)
	conn := testenv.Conn(t, url)
	exec(t, conn, "INSERT INTO relay.users (id) VALUES ('u1')", "SELECT relay.emit('p1', 'a:b')")
	allowed := map[string]string{ // statement → roles that may
		"SELECT relay.emit('p1', 'a:b')": "emitter",
		"INSERT INTO relay.outbox (program_id, event) VALUES ('p1', 'a:b') RETURNING id":            "emitter",
		"INSERT INTO relay.outbox (program_id, event, control) VALUES ('p1', 'relay:x', true)":      "",
		"INSERT INTO relay.outbox (program_id, event, xid) VALUES ('p1', 'a:b', '1')":               "",
		"INSERT INTO relay.outbox (program_id, event, created_at) VALUES ('p1', 'a:b', 'infinity')": "",
		"SELECT data FROM relay.outbox":                         "relay",
		"DELETE FROM relay.outbox WHERE id = 0":                 "relay",
		"TRUNCATE relay.outbox":                                 "",
		"SELECT * FROM relay.ticks":                             "relay",
		"DELETE FROM relay.ticks":                               "relay",
		"UPDATE relay.ticks SET events = 0":                     "",
		"SELECT * FROM relay.users":                             "relay",
		"UPDATE relay.outbox SET data = '{}'":                  "relay",
		"UPDATE relay.users SET is_active = false":              "",
		"INSERT INTO relay.program_members VALUES ('u1', 'p1')": "",
		"SELECT relay.membership_changed('u1', 'p1', 'in')":     "",
		"SELECT relay.lock_user('u1')":                          "",
		"SELECT relay.schema_version()":                         "emitter relay",
		"CREATE TABLE relay.mine ()":                            "migrator",
		"DROP TABLE relay.ticks":                                "migrator",
		"ALTER TABLE relay.outbox ADD COLUMN x int":             "migrator",
	}
	for statement, roles := range allowed {
		for _, role := range []string{"emitter", "relay", "migrator"} {
			if role == "migrator" && !strings.Contains(roles, role) {
				continue // the owner may do everything with the objects
			}
			exec(t, conn, "BEGIN", "SET LOCAL ROLE relay_"+role)
			_, err := conn.Exec(t.Context(), statement)
			exec(t, conn, "ROLLBACK")
			var pe *pgconn.PgError
			denied := errors.As(err, &pe) && pe.Code == "42501"
			if strings.Contains(roles, role) && err != nil {
				t.Errorf("relay_%s: %s: %v", role, statement, err)
			}
			if !strings.Contains(roles, role) && !denied {
				t.Errorf("relay_%s: %s: %v, want 42501", role, statement, err)
			}
		}
	}
}
