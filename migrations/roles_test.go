package migrations_test

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/outboxrelay/outboxrelay/internal/testenv"
)

// login makes a LOGIN user that is a member of roles and connects as it. The user goes with the test.
func login(t *testing.T, databaseURL string, roles ...string) *pgx.Conn {
	t.Helper()
	admin := testenv.Conn(t, databaseURL)
	u, err := url.Parse(databaseURL)
	if err != nil {
		t.Fatal(err)
	}
	name := "user_of_" + u.Path[1:] + "_" + strings.Join(roles, "_")
	name = name[:min(len(name), 60)]
	exec(t, admin, "CREATE ROLE "+name+" LOGIN")
	t.Cleanup(func() {
		for _, s := range []string{"DROP OWNED BY " + name + " CASCADE", "DROP ROLE " + name} {
			if _, err := admin.Exec(context.Background(), s); err != nil {
				t.Errorf("%s: %v", s, err)
			}
		}
	})
	for _, role := range roles {
		exec(t, admin, "GRANT "+role+" TO "+name)
	}
	u.User = url.User(name)
	return testenv.Conn(t, u.String())
}

// denied tells whether a statement, which is rolled back, is refused for want of a privilege.
func denied(t *testing.T, conn *pgx.Conn, statement string) bool {
	t.Helper()
	exec(t, conn, "BEGIN")
	_, err := conn.Exec(t.Context(), statement, pgx.QueryExecModeSimpleProtocol)
	exec(t, conn, "ROLLBACK")
	var pe *pgconn.PgError
	return errors.As(err, &pe) && pe.Code == "42501"
}

// granted is everything that the roles may do with the schema's objects, by "object operation"; a column's operation is "object.column operation".
// The owner, relay_migrator, may do everything.
var granted = map[string]string{
	"outbox.program_id insert": "emitter", "outbox.event insert": "emitter", "outbox.request_id insert": "emitter", "outbox.data insert": "emitter",
	"outbox.performed_by_id insert": "emitter", "outbox.performed_by_name insert": "emitter", "outbox.traceparent insert": "emitter",
	"outbox.id select": "emitter relay", "outbox insert_any": "emitter", "ticks insert_any": "relay",

	"outbox select": "relay", "outbox delete": "relay", "outbox.xid update": "relay", "outbox.data update": "relay", // the trigger lets it do no more than adopt and blank
	"outbox lock": "relay", "ticks lock": "relay", "cuts lock": "relay", // whoever may DELETE may
	"ticks select": "relay", "ticks insert": "relay", "ticks delete": "relay",
	"cuts select": "relay", "cuts delete": "relay", "flush_probe setval": "relay", "flush_probe nextval": "relay", // UPDATE allows both
	"users select": "relay", "program_members select": "relay", "effective_members select": "relay",

	"schema_version call": "emitter relay", "may_notify call": "emitter relay", "emit call": "emitter", "event_fault call": "emitter",
}

// operations are all statements on all objects of the schema, by the keys of granted.
func operations(t *testing.T, conn *pgx.Conn) map[string]string {
	t.Helper()
	all := map[string]string{}
	rows, err := conn.Query(t.Context(), `SELECT c.relname, c.relkind, ARRAY(SELECT a.attname FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped)
		FROM pg_class c WHERE c.relnamespace = 'relay'::regnamespace AND c.relkind IN ('r', 'v', 'm', 'S', 'p', 'f')`)
	if err != nil {
		t.Fatal(err)
	}
	var name string
	var kind rune
	var columns []string
	_, err = pgx.ForEachRow(rows, []any{&name, &kind, &columns}, func() error {
		if kind == 'S' {
			all[name+" nextval"] = fmt.Sprintf("SELECT nextval('relay.%s')", name)
			all[name+" setval"] = fmt.Sprintf("SELECT setval('relay.%s', 1)", name)
			all[name+" select"] = "SELECT * FROM relay." + name
			return nil
		}
		for operation, statement := range map[string]string{
			"select": "SELECT * FROM relay.%s", "insert_any": "INSERT INTO relay.%s DEFAULT VALUES", "delete": "DELETE FROM relay.%s", "truncate": "TRUNCATE relay.%s CASCADE",
			"lock": "LOCK TABLE relay.%s IN ACCESS EXCLUSIVE MODE", "trigger": "CREATE TRIGGER mine AFTER INSERT ON relay.%s EXECUTE FUNCTION suppress_redundant_updates_trigger()",
			"alter": "ALTER TABLE relay.%s DISABLE TRIGGER USER", "drop": "DROP TABLE relay.%s", "vacuum": "COMMENT ON TABLE relay.%s IS 'mine'",
		} {
			all[name+" "+operation] = fmt.Sprintf(statement, name)
		}
		for _, column := range columns {
			all[name+"."+column+" select"] = fmt.Sprintf("SELECT %s FROM relay.%s", column, name)
			all[name+"."+column+" insert"] = fmt.Sprintf("INSERT INTO relay.%s (%s) VALUES (DEFAULT)", name, column)
			all[name+"."+column+" update"] = fmt.Sprintf("UPDATE relay.%s SET %s = DEFAULT", name, column)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	functions(t, conn, all)
	all["schema create"] = "CREATE TABLE relay.mine ()"
	return all
}

func functions(t *testing.T, conn *pgx.Conn, all map[string]string) {
	t.Helper()
	rows, err := conn.Query(t.Context(), `SELECT proname, prorettype = 'trigger'::regtype,
		(SELECT coalesce(string_agg('NULL::' || format_type(a, NULL), ', '), '') FROM unnest(proargtypes) a) FROM pg_proc WHERE pronamespace = 'relay'::regnamespace`)
	if err != nil {
		t.Fatal(err)
	}
	var name, args string
	var trigger bool
	_, err = pgx.ForEachRow(rows, []any{&name, &trigger, &args}, func() error {
		all[name+" call"] = fmt.Sprintf("SELECT relay.%s(%s)", name, args)
		if trigger {
			all[name+" call"] = "CREATE TEMP TABLE mine (a int); CREATE TRIGGER t AFTER INSERT ON mine FOR EACH ROW EXECUTE FUNCTION relay." + name + "()"
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// Every statement on every object by every role: 42501 where nothing was granted, anything else where something was.
func TestRolesHaveLeastPrivilege(t *testing.T) {
	t.Parallel()
	url := testenv.Postgres(t)
	admin := testenv.Conn(t, url)
	exec(t, admin, "INSERT INTO relay.users (id) VALUES ('u1')", "SELECT relay.emit('p1', 'a:b')")
	all := operations(t, admin)
	for key := range granted {
		if all[key] == "" && !strings.HasSuffix(key, " insert") { // of a table: of each of its columns
			t.Errorf("there is no %q", key)
		}
	}
	if len(all) < 150 {
		t.Errorf("only %d statements were found", len(all))
	}
	for _, role := range []string{"emitter", "relay", "migrator", "nobody"} {
		roles := []string{"relay_" + role}
		if role == "nobody" {
			roles = nil
		}
		conn := login(t, url, roles...)
		for key, statement := range all {
			may := role == "migrator" || slices.Contains(strings.Fields(granted[key]), role)
			if object, operation, _ := strings.Cut(key, " "); strings.Contains(object, ".") {
				table, _, _ := strings.Cut(object, ".")
				may = may || slices.Contains(strings.Fields(granted[table+" "+operation]), role)
			}
			if denied(t, conn, statement) == may {
				t.Errorf("%s: %s: allowed %v, want %v", role, statement, !may, may)
			}
		}
	}
}
