package migrations_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/outboxrelay/outboxrelay/internal/testenv"
	"github.com/outboxrelay/outboxrelay/migrations"
)

func TestMain(m *testing.M) { testenv.Main(m) }

func exec(t testing.TB, conn *pgx.Conn, statements ...string) {
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

// A login named relay has a schema of its name first in its search_path, once it has migrated: goose looked for its table there, found none, and applied
// everything again.
func TestUpAgainWhereTheSchemaComesFirst(t *testing.T) {
	t.Parallel()
	url := testenv.EmptyPostgres(t)
	conn := testenv.Conn(t, url)
	exec(t, conn, fmt.Sprintf("ALTER DATABASE %s SET search_path = relay, public", conn.Config().Database))
	for range 2 {
		if err := migrations.Up(t.Context(), url); err != nil {
			t.Fatal(err)
		}
	}
	list, err := migrations.List(t.Context(), url)
	if err != nil || slices.ContainsFunc(list, func(s migrations.Status) bool { return !s.Applied }) {
		t.Errorf("%+v (%v), want all of them applied", list, err)
	}
}

// An application may use goose too, in the same table: its versions were taken for ours, nothing was applied, and that was called a success.
func TestVersionsOfOtherMigrations(t *testing.T) {
	t.Parallel()
	url := testenv.EmptyPostgres(t)
	conn := testenv.Conn(t, url)
	exec(t, conn, `CREATE TABLE public.goose_db_version (id integer PRIMARY KEY GENERATED BY DEFAULT AS IDENTITY, version_id bigint NOT NULL,
		is_applied boolean NOT NULL, tstamp timestamp NOT NULL DEFAULT now())`, "INSERT INTO public.goose_db_version (version_id, is_applied) VALUES (0, true), (1, true)")
	for range 2 {
		if err := migrations.Up(t.Context(), url); err == nil || !strings.Contains(err.Error(), "goose -table") {
			t.Errorf("Up: %v, want advice", err)
		}
		if _, err := migrations.List(t.Context(), url); err == nil || !strings.Contains(err.Error(), "goose -table") {
			t.Errorf("List: %v, want advice", err)
		}
		exec(t, conn, "INSERT INTO public.goose_db_version (version_id, is_applied) VALUES (2, true), (3, true), (4, true), (5, true)")
	}
}

func TestWhoMayNotMigrateIsToldWhoMay(t *testing.T) {
	t.Parallel()
	url := testenv.EmptyPostgres(t)
	stranger := login(t, url).Config().ConnString()
	if err := migrations.Up(t.Context(), stranger); err == nil || !strings.Contains(err.Error(), "as a superuser") || !strings.Contains(err.Error(), "docs/SECURITY.md") {
		t.Errorf("Up: %v, want advice", err)
	}
	if _, err := migrations.List(t.Context(), stranger); err == nil || !strings.Contains(err.Error(), "docs/SECURITY.md") {
		t.Errorf("List: %v, want advice", err)
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
	for _, s := range []step{
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
		s.check(t, conn)
	}
	for _, table := range []string{"users", "program_members"} {
		var pe *pgconn.PgError
		if _, err := conn.Exec(t.Context(), "TRUNCATE relay."+table); !errors.As(err, &pe) || pe.Code != "23001" {
			t.Errorf("TRUNCATE %s: %v, want restrict_violation", table, err)
		}
	}
}
