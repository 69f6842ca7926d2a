package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/outboxrelay/outboxrelay/migrations"
)

const oldestPostgres = 140000

// postgres checks the database as the role in DATABASE_URL.
func (d *doctor) postgres(ctx context.Context) {
	connecting, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	conn, err := connect(connecting, d.config.databaseURL)
	if err != nil {
		d.find("postgres", "connect to DATABASE_URL: %s", explain(err))
		return
	}
	defer conn.Close(context.WithoutCancel(ctx))
	if d.config.relays() && !d.check(ctx, "postgres", "not behind a transaction-mode pooler", func(ctx context.Context) error { return refusePooler(ctx, d.config.databaseURL) }) {
		return // whatever is asked next lands on somebody's backend
	}
	d.server(ctx, conn)
	if !d.privileges(ctx, conn) || !d.check(ctx, "schema", "version is this build's", func(ctx context.Context) error { return migrations.Check(ctx, conn) }) {
		return
	}
	d.outboxTriggers(ctx, conn)
	if d.check(ctx, "memberships", "relay.users and relay.program_members have the columns that are needed", func(ctx context.Context) error { return migrations.CheckTables(ctx, conn) }) {
		d.membershipTriggers(ctx, conn)
		d.membershipsTold(ctx, conn)
	}
	if d.config.relays() && !d.config.pollOnly {
		d.check(ctx, "listen", "a NOTIFY arrived", func(ctx context.Context) error { return d.listen(ctx, conn) })
	}
}

// server checks the version and the server's own settings.
func (d *doctor) server(ctx context.Context, conn *pgx.Conn) {
	var number, prepared int
	var version string
	var standby, super bool
	err := conn.QueryRow(ctx, `SELECT current_setting('server_version_num')::int, current_setting('server_version'), pg_is_in_recovery(),
		current_setting('max_prepared_transactions')::int, rolsuper FROM pg_roles WHERE rolname = current_user`).
		Scan(&number, &version, &standby, &prepared, &super)
	switch {
	case err != nil:
		d.find("postgres", "ask for the version: %v", err)
		return
	case number < oldestPostgres:
		d.find("postgres", "version %s is too old: use 14 or newer", version)
	case standby && d.config.relays():
		d.find("postgres", "the server is a standby, whose snapshots lack open transactions: let DATABASE_URL name the primary")
	default:
		d.good("postgres", "version %s", version)
	}
	if super {
		d.note("grants", "%q is a superuser: in production use a login that is a member of relay_relay alone", conn.Config().User)
	}
	if prepared > 0 {
		d.note("postgres", "max_prepared_transactions is %d: writers wake a sleeping relay only after SET relay.notify = on, else it looks every second", prepared)
	}
}

// privileges checks what the role may do.
func (d *doctor) privileges(ctx context.Context, conn *pgx.Conn) bool {
	need := []string{"outbox SELECT", "ticks SELECT", "users SELECT", "program_members SELECT"}
	if d.config.relays() {
		need = append(need, "outbox DELETE", "ticks INSERT", "ticks DELETE", "cuts SELECT", "cuts DELETE")
	}
	var there, usage, update, probe bool
	err := conn.QueryRow(ctx, "SELECT to_regnamespace('relay') IS NOT NULL, coalesce(has_schema_privilege(to_regnamespace('relay'), 'USAGE'), false)").Scan(&there, &usage)
	switch {
	case err != nil:
		d.find("grants", "ask for privileges: %v", err)
		return false
	case !there:
		d.find("schema", "%v", migrations.ErrNotMigrated)
		return false
	}
	remedy := fmt.Sprintf("GRANT relay_relay TO %s", pgx.Identifier{conn.Config().User}.Sanitize())
	if !usage {
		d.find("grants", "%q may not use the schema relay: %s", conn.Config().User, remedy)
		return false
	}
	var missing []string
	for _, n := range need {
		table, privilege, _ := strings.Cut(n, " ")
		var may bool
		err := conn.QueryRow(ctx, "SELECT coalesce(has_table_privilege(to_regclass($1), $2), true)", "relay."+table, privilege).Scan(&may) // what isn't there is found below
		if err != nil || !may {
			missing = append(missing, privilege+" on relay."+table)
		}
	}
	if d.config.relays() {
		err := conn.QueryRow(ctx, "SELECT has_column_privilege('relay.outbox', 'xid', 'UPDATE')").Scan(&update)
		if err != nil || !update {
			missing = append(missing, "UPDATE (xid) on relay.outbox")
		}
		err = conn.QueryRow(ctx, "SELECT coalesce(has_sequence_privilege(to_regclass('relay.flush_probe'), 'UPDATE'), true)").Scan(&probe)
		if err != nil || !probe {
			missing = append(missing, "UPDATE on relay.flush_probe")
		}
	}
	if len(missing) > 0 {
		d.find("grants", "%q lacks %s: %s", conn.Config().User, strings.Join(missing, ", "), remedy)
		return false
	}
	d.good("grants", "%q may do what ROLE=%s needs", conn.Config().User, d.config.role)
	return true
}

// outboxTriggers checks the triggers of the outbox and of what belongs to it.
func (d *doctor) outboxTriggers(ctx context.Context, conn *pgx.Conn) {
	for _, trigger := range []struct{ table, name, file string }{
		{"relay.outbox", "check_event", "00001_schema"},
		{"relay.outbox", "wake", "00002_waking"},
		{"relay.outbox", "refuse_update", "00002_waking"},
		{"relay.cuts", "note_cut", "00003_membership"},
	} {
		table, name := trigger.table, trigger.name
		var state string
		err := conn.QueryRow(ctx, "SELECT tgenabled::text FROM pg_trigger WHERE tgrelid = $1::text::regclass AND tgname = $2", table, name).Scan(&state)
		switch {
		case errors.Is(err, pgx.ErrNoRows):
			d.find("triggers", "%s has no trigger %s: create it as migrations/%s.sql does", table, name, trigger.file)
		case err != nil:
			d.find("triggers", "look for the trigger %s: %v", name, err)
		case state != "A":
			d.find("triggers", "the trigger %s doesn't always fire: ALTER TABLE %s ENABLE ALWAYS TRIGGER %[1]s", name, table)
		default:
			d.good("triggers", "%s has the trigger %s", table, name)
		}
	}
}

// The bits of pg_trigger.tgtype.
const (
	triggerRow      = 1 << 0
	triggerInsert   = 1 << 2
	triggerDelete   = 1 << 3
	triggerUpdate   = 1 << 4
	triggerTruncate = 1 << 5
	triggerChanges  = triggerInsert | triggerDelete | triggerUpdate
)

// behind is every table that the two tables, or the views in their place, are read from, with the triggers that track it.
const behind = `WITH RECURSIVE reads AS (
    SELECT c.oid, c.relkind FROM pg_class c WHERE c.oid IN (to_regclass('relay.users'), to_regclass('relay.program_members'))
    UNION
    SELECT c.oid, c.relkind FROM reads v
    JOIN pg_rewrite r ON r.ev_class = v.oid AND v.relkind IN ('v', 'm')
    JOIN pg_depend d ON d.classid = 'pg_rewrite'::regclass AND d.objid = r.oid AND d.refclassid = 'pg_class'::regclass AND d.refobjid <> v.oid
    JOIN pg_class c ON c.oid = d.refobjid
)
SELECT b.oid::regclass::text, coalesce(t.tgname, ''), coalesce(t.tgenabled::text, ''), coalesce(t.tgtype, 0)::int
FROM reads b LEFT JOIN (pg_trigger t JOIN pg_proc p ON p.oid = t.tgfoid)
  ON t.tgrelid = b.oid AND (p.pronamespace = to_regnamespace('relay') AND p.proname IN ('track_user', 'track_membership', 'refuse_truncate') OR t.tgname LIKE 'relay\_%')
WHERE b.relkind NOT IN ('v', 'm')
ORDER BY 1, 2`

// membershipTriggers checks that nothing that memberships are read from can change unseen.
func (d *doctor) membershipTriggers(ctx context.Context, conn *pgx.Conn) {
	rows, err := conn.Query(ctx, behind)
	if err != nil {
		d.find("memberships", "look for triggers: %v", err)
		return
	}
	var table, name, state string
	var kind int
	seen := map[string]int{} // what makes a table's triggers fire
	var tables []string
	_, err = pgx.ForEachRow(rows, []any{&table, &name, &state, &kind}, func() error {
		if !slices.Contains(tables, table) {
			tables = append(tables, table)
		}
		switch {
		case name == "":
		case state != "A":
			d.find("memberships", "the trigger %s of %s doesn't always fire: ALTER TABLE %[2]s ENABLE ALWAYS TRIGGER %[1]s", name, table)
			seen[table] |= kind // said once
		case kind&triggerRow != 0 || kind&triggerTruncate != 0:
			seen[table] |= kind
		}
		return nil
	})
	if err != nil {
		d.find("memberships", "look for triggers: %v", err)
		return
	}
	for _, table := range tables {
		if seen[table]&triggerChanges != triggerChanges {
			d.find("memberships", "%s has no trigger that tracks every INSERT, UPDATE and DELETE, so changes stay unseen: attach relay.track_user or relay.track_membership, or one named relay_… (docs/MEMBERSHIP.md)", table)
		} else if seen[table]&triggerTruncate == 0 {
			d.find("memberships", "TRUNCATE of %s would stay unseen: attach relay.refuse_truncate (docs/MEMBERSHIP.md)", table)
		} else {
			d.good("memberships", "changes of %s are tracked", table)
		}
	}
}

// membershipsTold compares what the log has been told with what the tables say.
func (d *doctor) membershipsTold(ctx context.Context, conn *pgx.Conn) {
	d.check(ctx, "memberships", "the log has been told of all", func(ctx context.Context) error {
		var differences int
		err := conn.QueryRow(ctx, `WITH now AS (
			SELECT m.user_id, m.program_id FROM relay.program_members m JOIN relay.users u ON u.id = m.user_id AND u.is_active WHERE m.is_active AND m.program_id IS NOT NULL
		) SELECT (SELECT count(*) FROM (SELECT user_id, program_id FROM relay.effective_members EXCEPT SELECT * FROM now) a)
		       + (SELECT count(*) FROM (SELECT * FROM now EXCEPT SELECT user_id, program_id FROM relay.effective_members) b)`).Scan(&differences)
		if err == nil && differences > 0 {
			err = fmt.Errorf("%d changed without the log being told: run SELECT relay.sync_memberships() as a member of relay_migrator", differences)
		}
		return err
	})
}

// listen sends a notification on one connection and waits for it on another.
func (d *doctor) listen(ctx context.Context, conn *pgx.Conn) error {
	channel := pgx.Identifier{"relay_doctor_" + strings.ToLower(rand.Text())}.Sanitize()
	if _, err := conn.Exec(ctx, "LISTEN "+channel); err != nil {
		return fmt.Errorf("LISTEN: %w", err)
	}
	other, err := connect(ctx, d.config.databaseURL)
	if err != nil {
		return fmt.Errorf("connect a second time: %w", err)
	}
	defer other.Close(context.WithoutCancel(ctx))
	if _, err := other.Exec(ctx, "NOTIFY "+channel); err != nil {
		return fmt.Errorf("NOTIFY: %w", err)
	}
	if _, err := conn.WaitForNotification(ctx); err != nil {
		return errors.New("a NOTIFY never arrived: connect to the server itself, or set RELAY_POLL_ONLY=true")
	}
	return nil
}
