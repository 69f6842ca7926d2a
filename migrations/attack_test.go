package migrations_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/outboxrelay/outboxrelay/internal/testenv"
)

// evil is a schema full of things that an unqualified name or operator in a SECURITY DEFINER function could find first. Each notes
// as whom it was called.
const evil = `
CREATE TABLE evil.log (who name);
GRANT USAGE ON SCHEMA evil TO PUBLIC;
GRANT INSERT, SELECT ON evil.log TO PUBLIC;
CREATE FUNCTION evil.note() RETURNS void LANGUAGE sql AS 'INSERT INTO evil.log VALUES (current_user)';
CREATE FUNCTION evil.%s(text) RETURNS text LANGUAGE plpgsql AS 'BEGIN PERFORM evil.note(); RETURN $1; END';
CREATE FUNCTION evil.pg_current_xact_id() RETURNS xid8 LANGUAGE plpgsql AS 'BEGIN PERFORM evil.note(); RETURN ''1''; END';
CREATE FUNCTION evil.to_jsonb(record) RETURNS jsonb LANGUAGE plpgsql AS 'BEGIN PERFORM evil.note(); RETURN ''{}''; END';
CREATE FUNCTION evil.array_append(text[], text) RETURNS text[] LANGUAGE plpgsql AS 'BEGIN PERFORM evil.note(); RETURN $1; END';
CREATE FUNCTION evil.json_build_object(text, text, text, text) RETURNS json LANGUAGE plpgsql AS 'BEGIN PERFORM evil.note(); RETURN ''{}''; END';
CREATE FUNCTION evil.same(text, text) RETURNS boolean LANGUAGE plpgsql AS 'BEGIN PERFORM evil.note(); RETURN true; END';
CREATE FUNCTION evil.same(xid8, xid8) RETURNS boolean LANGUAGE plpgsql AS 'BEGIN PERFORM evil.note(); RETURN true; END';
CREATE FUNCTION evil.same(text[], text[]) RETURNS boolean LANGUAGE plpgsql AS 'BEGIN PERFORM evil.note(); RETURN true; END';
CREATE FUNCTION evil.has(jsonb, text) RETURNS boolean LANGUAGE plpgsql AS 'BEGIN PERFORM evil.note(); RETURN true; END';
CREATE FUNCTION evil.get(jsonb, text) RETURNS text LANGUAGE plpgsql AS 'BEGIN PERFORM evil.note(); RETURN ''victim''; END';
CREATE OPERATOR evil.= (FUNCTION = evil.same, LEFTARG = text, RIGHTARG = text);
CREATE OPERATOR evil.= (FUNCTION = evil.same, LEFTARG = text[], RIGHTARG = text[]);
CREATE OPERATOR evil.<> (FUNCTION = evil.same, LEFTARG = xid8, RIGHTARG = xid8);
CREATE OPERATOR evil.? (FUNCTION = evil.has, LEFTARG = jsonb, RIGHTARG = text);
CREATE OPERATOR evil.->> (FUNCTION = evil.get, LEFTARG = jsonb, RIGHTARG = text);
CREATE TEMP TABLE outbox (LIKE evil.log);
CREATE TEMP TABLE users AS SELECT 'u1'::text AS id, true AS is_active;
CREATE TEMP TABLE program_members AS SELECT 'u1'::text AS user_id, 'victim'::text AS program_id, true AS is_active;
CREATE TEMP TABLE effective_members (user_id text, program_id text);
CREATE TEMP TABLE user_locks (user_id text, xid xid8);
SET search_path = evil, pg_temp, relay, pg_catalog;
`

// An application that may write the two tables needs no other grant: the triggers work as their owner. Nothing that it can put in their way is
// looked at: their search_path is pinned.
func TestTriggersWorkAsTheirOwner(t *testing.T) {
	t.Parallel()
	url := testenv.Postgres(t)
	admin := testenv.Conn(t, url)
	application := login(t, url, "relay_emitter")
	user := application.Config().User
	exec(t, admin, "CREATE SCHEMA evil AUTHORIZATION "+user, "GRANT INSERT, UPDATE, DELETE, SELECT ON relay.users, relay.program_members TO "+user)
	exec(t, application, fmt.Sprintf(evil, "quote_ident"))
	exec(t, application,
		"INSERT INTO relay.users (id) VALUES ('u1')",
		"INSERT INTO relay.program_members VALUES ('u1', 'p1'), ('u1', 'p2')",
		"UPDATE relay.program_members SET is_active = false WHERE program_id OPERATOR(pg_catalog.=) 'p1'",
		"UPDATE relay.users SET is_active = false", "UPDATE relay.users SET is_active = true, role = 'x'")
	if got, want := changes(t, admin), "u1 p1 in, u1 p2 in, u1 p1 out, u1 p2 out, u1 p2 in"; got != want {
		t.Errorf("control rows: %s, want %s", got, want)
	}
	var called, fooled int
	err := application.QueryRow(t.Context(), `SELECT (SELECT pg_catalog.count(*) FROM evil.log),
		(SELECT pg_catalog.count(*) FROM pg_temp.outbox) OPERATOR(pg_catalog.+) (SELECT pg_catalog.count(*) FROM pg_temp.user_locks)
		OPERATOR(pg_catalog.+) (SELECT pg_catalog.count(*) FROM pg_temp.effective_members)`).Scan(&called, &fooled)
	if err != nil || called != 0 || fooled != 0 {
		t.Errorf("the application's functions were called %d times, its tables written %d times (%v)", called, fooled, err)
	}
}

// Every SECURITY DEFINER function pins its search_path, with pg_temp last.
func TestDefinersPinTheirSearchPath(t *testing.T) {
	t.Parallel()
	conn := testenv.Conn(t, testenv.Postgres(t))
	var loose []string
	var definers int
	err := conn.QueryRow(t.Context(), `SELECT count(*), coalesce(array_agg(proname::text) FILTER (WHERE proconfig IS DISTINCT FROM ARRAY['search_path=pg_catalog, pg_temp']), '{}')
		FROM pg_proc WHERE pronamespace = 'relay'::regnamespace AND prosecdef`).Scan(&definers, &loose)
	if err != nil || len(loose) > 0 || definers < 5 {
		t.Errorf("of %d functions %v don't (%v)", definers, loose, err)
	}
}

// Who may only emit can't make the log say anything about memberships, in no way.
func TestControlRowsCannotBeForged(t *testing.T) {
	t.Parallel()
	url := testenv.Postgres(t)
	admin := testenv.Conn(t, url)
	exec(t, admin, "INSERT INTO relay.users (id) VALUES ('u1')")
	emitter := login(t, url, "relay_emitter")
	data := `'{"userId":"u1","change":"in"}'`
	for statement, want := range map[string]string{
		"SELECT relay.emit('p1', 'relay:membership', " + data + ", performed_by_id => 'u1')":                                          "23514",
		"INSERT INTO relay.outbox (program_id, event, data, performed_by_id) VALUES ('p1', 'relay:membership', " + data + ", 'u1')":   "23514",
		"INSERT INTO relay.outbox (program_id, event, control) VALUES ('p1', 'relay:membership', true)":                               "42501",
		"INSERT INTO relay.outbox (program_id, event, xid) VALUES ('p1', 'a:b', '3')":                                                 "42501",
		"INSERT INTO relay.outbox (id, program_id, event) OVERRIDING SYSTEM VALUE VALUES (1, 'p1', 'a:b')":                            "42501",
		"COPY relay.outbox (program_id, event, control) FROM PROGRAM 'true'":                                                          "42501",
		"INSERT INTO relay.outbox (program_id, event) VALUES ('p1', 'a:b') ON CONFLICT (id) DO UPDATE SET event = 'relay:membership'": "42501",
		"SELECT relay.membership_changed('u1', 'p1', 'in')":                                                                           "42501",
		"SELECT relay.check_membership('u1', 'p1')":                                                                                   "42501",
		"SELECT relay.lock_user('u1')":    "42501",
		"SELECT relay.sync_memberships()": "42501",
		"CREATE TEMP TABLE m (u text, p text); CREATE TRIGGER t AFTER INSERT ON m FOR EACH ROW EXECUTE FUNCTION relay.track_membership('u', 'p')":               "42501",
		"CREATE FUNCTION pg_temp.f() RETURNS void LANGUAGE sql SECURITY DEFINER AS $$ SELECT relay.membership_changed('u1', 'p1', 'in') $$; SELECT pg_temp.f()": "42501",
		"SET ROLE relay_migrator":               "42501",
		"SET SESSION AUTHORIZATION relay_relay": "42501",
	} {
		exec(t, emitter, "BEGIN")
		_, err := emitter.Exec(t.Context(), statement, pgx.QueryExecModeSimpleProtocol)
		exec(t, emitter, "ROLLBACK")
		var pe *pgconn.PgError
		if !errors.As(err, &pe) || pe.Code != want {
			t.Errorf("%s: %v, want SQLSTATE %s", statement, err, want)
		}
	}
	if got := changes(t, admin); got != "" {
		t.Errorf("the log says %s", got)
	}
}

// The check of an event works as whoever inserts, and finds none of his own functions and operators.
func TestTheCheckOfAnEventCannotBeMisled(t *testing.T) {
	t.Parallel()
	url := testenv.Postgres(t)
	emitter := login(t, url, "relay_emitter")
	exec(t, testenv.Conn(t, url), "CREATE SCHEMA evil AUTHORIZATION "+emitter.Config().User)
	exec(t, emitter, `CREATE FUNCTION evil.yes(text, text) RETURNS boolean LANGUAGE plpgsql AS 'BEGIN RETURN true; END';
		CREATE FUNCTION evil.no(text, text) RETURNS boolean LANGUAGE plpgsql AS 'BEGIN RETURN false; END';
		CREATE FUNCTION evil.no(boolean, boolean) RETURNS boolean LANGUAGE plpgsql AS 'BEGIN RETURN false; END';
		CREATE FUNCTION evil.length(text) RETURNS integer LANGUAGE plpgsql AS 'BEGIN RETURN 1; END';
		CREATE FUNCTION evil.octet_length(text) RETURNS integer LANGUAGE plpgsql AS 'BEGIN RETURN 1; END';
		CREATE FUNCTION evil.json_typeof(json) RETURNS text LANGUAGE plpgsql AS 'BEGIN RETURN ''object''; END';
		CREATE FUNCTION evil.starts_with(text, text) RETURNS boolean LANGUAGE plpgsql AS 'BEGIN RETURN false; END';
		CREATE FUNCTION evil.split_part(text, text, integer) RETURNS text LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
		CREATE FUNCTION evil.event_fault(text, text, text, json, text, text, text, boolean) RETURNS text LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
		CREATE OPERATOR evil.~ (FUNCTION = evil.yes, LEFTARG = text, RIGHTARG = text);
		CREATE OPERATOR evil.!~ (FUNCTION = evil.no, LEFTARG = text, RIGHTARG = text);
		CREATE OPERATOR evil.<> (FUNCTION = evil.no, LEFTARG = text, RIGHTARG = text);
		CREATE OPERATOR evil.<> (FUNCTION = evil.no, LEFTARG = boolean, RIGHTARG = boolean);
		SET search_path = evil, relay, pg_catalog`)
	for values, column := range map[string]string{
		"('p 1', 'a:b', '{}', NULL)":                                                             "program_id",
		"('p1', 'relay:membership', '{}', NULL)":                                                 "event",
		"('p1', 'a:b', '[]', NULL)":                                                              "data",
		"('p1', 'a:b', '{}', pg_catalog.repeat('x', 129))":                                       "performed_by_id",
		"(pg_catalog.repeat('p', 129), 'a:b', '{}', NULL)":                                       "program_id",
		"('p1', 'a:' || pg_catalog.repeat('b', 63), '{}', NULL)":                                 "event",
		`('p1', 'a:b', pg_catalog.json_build_object('a', pg_catalog.repeat('x', 262144)), NULL)`: "data",
	} {
		_, err := emitter.Exec(t.Context(), "INSERT INTO relay.outbox (program_id, event, data, performed_by_id) VALUES "+values)
		var pe *pgconn.PgError
		if !errors.As(err, &pe) || pe.Code != "23514" || pe.ColumnName != column {
			t.Errorf("%s: %v, want SQLSTATE 23514 for %s", values, err, column)
		}
	}
}

// A name of a type in PL/pgSQL is looked up once in a session, by the search_path of whoever comes first, and pg_temp comes before all else.
// What a check calls would then run as the owner of a function that inserts on somebody's behalf.
func TestTypesOfThePathAreNotUsed(t *testing.T) {
	t.Parallel()
	url := testenv.Postgres(t)
	admin := testenv.Conn(t, url)
	application := login(t, url, "relay_emitter")
	exec(t, admin, "GRANT INSERT, UPDATE, DELETE, SELECT ON relay.users, relay.program_members TO "+application.Config().User)
	exec(t, application, "CREATE TEMP TABLE log (who name); GRANT INSERT ON pg_temp.log TO PUBLIC")
	for _, name := range []string{"text", "json", "xid8", "pg_snapshot", "name"} {
		exec(t, application,
			fmt.Sprintf(`CREATE TYPE pg_temp.%s AS ENUM ('x')`, name),
			fmt.Sprintf(`CREATE FUNCTION pg_temp.f(pg_catalog.%[1]s) RETURNS pg_temp.%[1]s LANGUAGE plpgsql AS 'BEGIN INSERT INTO pg_temp.log VALUES (current_user); RETURN NULL; END'`, name),
			fmt.Sprintf(`CREATE CAST (pg_catalog.%[1]s AS pg_temp.%[1]s) WITH FUNCTION pg_temp.f(pg_catalog.%[1]s) AS ASSIGNMENT`, name))
	}
	exec(t, application,
		"SELECT relay.emit('p1', 'a:b')",
		"INSERT INTO relay.users (id) VALUES ('u1')",
		"INSERT INTO relay.program_members VALUES ('u1', 'p1')",
		"UPDATE relay.program_members SET is_active = false")
	rows, err := application.Query(t.Context(), "SELECT who::pg_catalog.text FROM pg_temp.log")
	if err != nil {
		t.Fatal(err)
	}
	if called, err := pgx.CollectRows(rows, pgx.RowTo[string]); err != nil || len(called) > 0 {
		t.Errorf("the application's functions were called, as %v (%v)", called, err)
	}
	if got, want := changes(t, admin), "u1 p1 in, u1 p1 out"; got != want {
		t.Errorf("control rows: %s, want %s", got, want)
	}
}

// Whoever attaches the triggers to a table of his own, with the grants that docs/MEMBERSHIP.md names, gets no further: his casts aren't called.
func TestCastsOfAColumnAreNotUsed(t *testing.T) {
	t.Parallel()
	url := testenv.Postgres(t)
	admin := testenv.Conn(t, url)
	owner := login(t, url, "relay_emitter")
	user := owner.Config().User
	exec(t, admin, "CREATE SCHEMA app AUTHORIZATION "+user, "GRANT EXECUTE ON FUNCTION relay.track_user(), relay.track_membership(), relay.refuse_truncate() TO "+user)
	exec(t, owner, "CREATE TABLE app.log (who text)", "GRANT USAGE ON SCHEMA app TO PUBLIC", "GRANT INSERT ON app.log TO PUBLIC", "CREATE TYPE app.kind AS ENUM ('x', 'y')")
	for _, to := range []string{"json", "jsonb", "text", "varchar"} {
		exec(t, owner,
			fmt.Sprintf(`CREATE FUNCTION app.to_%[1]s(app.kind) RETURNS %[1]s LANGUAGE plpgsql AS 'BEGIN INSERT INTO app.log VALUES (current_user); RETURN NULL; END'`, to),
			fmt.Sprintf(`CREATE CAST (app.kind AS %[1]s) WITH FUNCTION app.to_%[1]s(app.kind) AS IMPLICIT`, to))
	}
	exec(t, owner,
		"CREATE TABLE app.people (id app.kind, odd app.kind)", "CREATE TABLE app.seats (person app.kind, project text, odd app.kind)",
		"CREATE TRIGGER relay_track AFTER INSERT OR UPDATE OR DELETE ON app.people FOR EACH ROW EXECUTE FUNCTION relay.track_user('id', 'odd')",
		"CREATE TRIGGER relay_track AFTER INSERT OR UPDATE OR DELETE ON app.seats FOR EACH ROW EXECUTE FUNCTION relay.track_membership('person', 'project', 'odd')")
	exec(t, owner,
		"INSERT INTO app.people VALUES ('x', 'x')", "UPDATE app.people SET odd = 'y'", "DELETE FROM app.people",
		"INSERT INTO app.seats VALUES ('x', 'p1', NULL)", "UPDATE app.seats SET odd = 'y'", "UPDATE app.seats SET person = 'y'", "DELETE FROM app.seats")
	var called int
	if err := admin.QueryRow(t.Context(), "SELECT count(*) FROM app.log").Scan(&called); err != nil || called > 0 {
		t.Errorf("the owner's casts were called %d times (%v)", called, err)
	}
}

// Whatever stands in an argument of relay.emit is stored to the letter or refused; it is never part of a statement.
func TestInjectionIntoEveryArgument(t *testing.T) {
	t.Parallel()
	url := testenv.Postgres(t)
	admin := testenv.Conn(t, url)
	emitter := login(t, url, "relay_emitter")
	texts := []string{
		"'; DROP TABLE relay.outbox; --", `"; DROP TABLE relay.outbox; --`, "$$; DROP TABLE relay.outbox; $$", "x') ON CONFLICT DO NOTHING; --", `\'; SELECT 1`, "%s%n%I%L", "{{1}}",
		"${jndi:ldap://h/x}", "<script>alert(1)</script>", "\u202e\u0000"[:3], "a\nb\r\nc", "\x1b[31m", "🦉\u200b", strings.Repeat("'", 128), "*", "p1:1,*:9", "NULL::text;",
	}
	for _, text := range texts {
		for _, field := range []string{"request_id", "performed_by_id", "performed_by_name"} {
			var got string
			var id int64
			err := emitter.QueryRow(t.Context(), "SELECT relay.emit('p1', 'a:b', "+field+" => $1)", text).Scan(&id)
			if err == nil {
				err = admin.QueryRow(t.Context(), "SELECT "+field+" FROM relay.outbox WHERE id = $1", id).Scan(&got)
			}
			if err != nil || got != text {
				t.Errorf("%s %q is stored as %q (%v)", field, text, got, err)
			}
		}
		for _, call := range []string{"SELECT relay.emit($1, 'a:b')", "SELECT relay.emit('p1', $1)", "SELECT relay.emit('p1', 'a:b', $1::text::json)"} {
			_, err := emitter.Exec(t.Context(), call, text)
			var pe *pgconn.PgError
			if !errors.As(err, &pe) || pe.Code != "23514" && pe.Code != "22P02" {
				t.Errorf("%s with %q: %v, want it refused", call, text, err)
			}
		}
		var id int64
		var got string
		err := emitter.QueryRow(t.Context(), "SELECT relay.emit('p1', 'a:b', json_build_object($1::text, $1::text))", text).Scan(&id)
		if err == nil {
			err = admin.QueryRow(t.Context(), "SELECT data ->> $2 FROM relay.outbox WHERE id = $1", id, text).Scan(&got)
		}
		if err != nil || got != text {
			t.Errorf("data with %q is stored as %q (%v)", text, got, err)
		}
	}
	if _, err := emitter.Exec(t.Context(), "SELECT relay.emit('p1', 'a:b', request_id => $1)", "a\x00b"); err == nil {
		t.Error("a zero byte is stored")
	}
}
