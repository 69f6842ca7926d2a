package auth_test

import (
	"context"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/outboxrelay/outboxrelay/auth"
	"github.com/outboxrelay/outboxrelay/internal/testenv"
)

// database is a database in which the test itself writes the ticks.
type database struct {
	t    *testing.T
	pool *pgxpool.Pool
	last int64
}

func (d *database) exec(sql string, args ...any) {
	d.t.Helper()
	if _, err := d.pool.Exec(d.t.Context(), sql, args...); err != nil {
		d.t.Fatal(err)
	}
}

// tick makes everything committed so far a batch that ends at position.
func (d *database) tick(position, events int64) {
	d.t.Helper()
	d.exec(`INSERT INTO relay.ticks (position, after, base, snapshot, events, at, system_id, timeline)
		VALUES ($1, $2, $2, pg_current_snapshot(), $3, now(), 1, 1)`, position, d.last, events)
	d.last = position
}

func (d *database) want(s *auth.Store, user string, want auth.Membership) {
	d.t.Helper()
	got, err := s.Membership(d.t.Context(), user)
	if err != nil {
		d.t.Fatal(err)
	}
	want.UserID, want.Position = user, d.last
	if diff := cmp.Diff(want, got, cmpopts.EquateEmpty()); diff != "" {
		d.t.Errorf("memberships of %s (-want +got):\n%s", user, diff)
	}
}

func TestMembershipIsAsOfTheTick(t *testing.T) {
	t.Parallel()
	pool, _ := testenv.DB(t)
	d, s := &database{t: t, pool: pool}, auth.NewStore(pool)
	u := auth.Membership{Found: true, Active: true, Role: "admin", Name: "Ann Lee"}
	of := func(programs ...string) auth.Membership {
		m := u
		m.Programs = programs
		return m
	}
	d.want(s, "nobody", auth.Membership{})
	d.exec("INSERT INTO relay.users (id, first_name, last_name, role) VALUES ('u1', 'Ann', 'Lee', 'admin')")
	d.exec("INSERT INTO relay.program_members VALUES ('u1', 'p1'), ('u1', 'p2')")
	d.want(s, "u1", of()) // no tick yet: their control entries are still to come
	d.tick(100, 2)
	d.want(s, "u1", of("p1", "p2"))

	d.exec("DELETE FROM relay.program_members WHERE program_id = 'p1'")
	d.exec("INSERT INTO relay.program_members VALUES ('u1', 'p3')")
	d.want(s, "u1", of("p1", "p2"))
	d.exec("INSERT INTO relay.program_members VALUES ('u1', 'p1')") // back: the first change decides
	d.exec("DELETE FROM relay.program_members WHERE program_id = 'p3'")
	d.want(s, "u1", of("p1", "p2"))
	d.tick(110, 4)
	d.want(s, "u1", of("p1", "p2"))

	d.exec("UPDATE relay.users SET is_active = false WHERE id = 'u1'")
	u.Active = false
	d.want(s, "u1", of("p1", "p2"))
	d.tick(120, 2)
	d.want(s, "u1", of())
	d.exec("UPDATE relay.users SET is_active = true WHERE id = 'u1'")
	u.Active = true
	d.want(s, "u1", of())
	d.tick(130, 2)
	d.want(s, "u1", of("p1", "p2"))
}

// A transaction that was open at the tick isn't contained in it, though its ids and xid are older than what is.
func TestMembershipOfALateTransaction(t *testing.T) {
	t.Parallel()
	pool, _ := testenv.DB(t)
	d, s := &database{t: t, pool: pool}, auth.NewStore(pool)
	d.exec("INSERT INTO relay.users (id) VALUES ('u1'), ('u2')")
	late, err := pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = late.Rollback(context.Background()) }()
	if _, err := late.Exec(t.Context(), "INSERT INTO relay.program_members VALUES ('u1', 'p1')"); err != nil {
		t.Fatal(err)
	}
	d.exec("INSERT INTO relay.program_members VALUES ('u2', 'p1')")
	d.tick(50, 1)
	if err := late.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	member := auth.Membership{Found: true, Active: true, Role: "member"}
	d.want(s, "u1", member)
	both := member
	both.Programs = []string{"p1"}
	d.want(s, "u2", both)
	d.tick(60, 1)
	d.want(s, "u1", both)
	want := []auth.Change{{Program: "p1", After: 59, Through: 60, ID: 1, First: true, Last: true}}
	if got, err := s.Changes(t.Context(), "u1", 50, 60); err != nil || cmp.Diff(want, got) != "" {
		t.Errorf("changes %+v, %v", got, err)
	}
}

// TestManyChangesThatWait: a user whose memberships in very many programs changed in one transaction is answered before its tick too, within a
// socket's patience; each of the programs was compared with each.
func TestManyChangesThatWait(t *testing.T) {
	t.Parallel()
	pool, _ := testenv.DB(t)
	d, s := &database{t: t, pool: pool}, auth.NewStore(pool)
	d.exec("INSERT INTO relay.users (id) VALUES ('u1')")
	d.tick(10, 1)
	const programs = 60_000
	d.exec("ALTER TABLE relay.program_members DISABLE TRIGGER track_membership") // it does what follows, one by one
	d.exec("INSERT INTO relay.program_members SELECT 'u1', 'p' || n FROM generate_series(1, $1) n", programs)
	d.exec(`INSERT INTO relay.outbox (program_id, event, data, performed_by_id, control)
		SELECT m.program_id, 'relay:membership', '{"userId":"u1","change":"in"}', 'u1', true FROM relay.program_members m`)
	ctx := testenv.Context(t, 10*time.Second)
	of := func(want int) {
		t.Helper()
		if m, err := s.Membership(ctx, "u1"); err != nil || len(m.Programs) != want {
			t.Fatalf("%d programs, want %d (%v)", len(m.Programs), want, err)
		}
	}
	of(0)
	d.tick(10+programs, programs)
	of(programs)
}

// A view with an outer join has a row without a program for who has none: neither that user nor those who were asked for together with it were
// answered, and it passed for a Postgres that can't be read.
func TestAMembershipWithoutAProgramIsNone(t *testing.T) {
	t.Parallel()
	pool, _ := testenv.DB(t)
	d, s := &database{t: t, pool: pool}, auth.NewStore(pool)
	d.exec("INSERT INTO relay.users (id) VALUES ('u1')")
	d.exec("INSERT INTO relay.program_members VALUES ('u1', 'p1')")
	d.exec("INSERT INTO relay.outbox (program_id, event) VALUES ('p1', 'a:b')")
	d.tick(10, 2)
	d.exec("ALTER TABLE relay.program_members RENAME TO behind")
	d.exec("CREATE VIEW relay.program_members AS SELECT user_id, program_id, is_active FROM relay.behind UNION ALL SELECT 'u1', NULL, true")
	d.want(s, "u1", auth.Membership{Found: true, Active: true, Role: "member", Programs: []string{"p1"}})
	d.exec("ALTER VIEW relay.program_members OWNER TO relay_migrator")
	var found int
	if err := pool.QueryRow(t.Context(), "SELECT relay.sync_memberships()").Scan(&found); err != nil || found != 0 {
		t.Errorf("%d memberships differ from what the log has been told (%v)", found, err)
	}
}

// Where the application's ids differ only by case its own column may call two equal. The log doesn't: who came with another spelling than the one in the
// table was let in, and heard of no revocation before the next look at the memberships.
func TestIdsAreComparedByteForByte(t *testing.T) {
	t.Parallel()
	pool, _ := testenv.DB(t)
	d, s := &database{t: t, pool: pool}, auth.NewStore(pool)
	if _, err := pool.Exec(t.Context(), "CREATE COLLATION caseless (provider = icu, locale = 'und-u-ks-level2', deterministic = false)"); err != nil {
		t.Skip("this server has no ICU:", err)
	}
	d.exec("INSERT INTO relay.users (id) VALUES ('u1'), ('u2')")
	d.exec("INSERT INTO relay.program_members VALUES ('u1', 'p1'), ('U2', 'p1')")
	d.exec("INSERT INTO relay.outbox (program_id, event) VALUES ('p1', 'a:b')")
	d.tick(10, 2)
	d.exec("ALTER TABLE relay.program_members RENAME TO members")
	d.exec("ALTER TABLE relay.users RENAME TO people")
	d.exec("CREATE VIEW relay.users AS SELECT id COLLATE caseless AS id, first_name, last_name, role, is_active FROM relay.people")
	d.exec("CREATE VIEW relay.program_members AS SELECT user_id COLLATE caseless AS user_id, program_id, is_active FROM relay.members")
	d.want(s, "U1", auth.Membership{})
	d.want(s, "u1", auth.Membership{Found: true, Active: true, Role: "member", Programs: []string{"p1"}})
	d.want(s, "u2", auth.Membership{Found: true, Active: true, Role: "member"})
}

func TestOldestAndResets(t *testing.T) {
	t.Parallel()
	pool, _ := testenv.DB(t)
	d, s := &database{t: t, pool: pool}, auth.NewStore(pool)
	d.tick(10, 1)
	d.tick(20, 1)
	d.tick(1000, 5)
	d.tick(1010, 1)
	d.want(s, "x", auth.Membership{})
	d.exec("UPDATE relay.ticks SET rebased_from = 20 WHERE position = 1000")
	d.want(s, "x", auth.Membership{Resets: []auth.Reset{{After: 20, Before: 996}}})
	d.exec("DELETE FROM relay.ticks WHERE position = 10")
	d.want(s, "x", auth.Membership{Oldest: 20, Resets: []auth.Reset{{After: 20, Before: 996}}})
}

func TestChanges(t *testing.T) {
	t.Parallel()
	pool, _ := testenv.DB(t)
	d, s := &database{t: t, pool: pool}, auth.NewStore(pool)
	d.exec("INSERT INTO relay.users (id) VALUES ('u1')")
	d.tick(5, 0)
	d.exec("INSERT INTO relay.program_members VALUES ('u1', 'p1'), ('u1', 'p2')")
	d.tick(10, 2)
	err := pgx.BeginFunc(t.Context(), pool, func(tx pgx.Tx) error {
		_, err := tx.Exec(t.Context(), "UPDATE relay.program_members SET is_active = false WHERE program_id = 'p1'")
		if err == nil {
			_, err = tx.Exec(t.Context(), "UPDATE relay.program_members SET is_active = true WHERE program_id = 'p1'")
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	d.tick(30, 12)
	d.exec("DELETE FROM relay.program_members WHERE program_id = 'p2'")
	d.tick(40, 1)
	all := []auth.Change{
		{Program: "p1", After: 8, Through: 10, ID: 1, First: true, Last: true},
		{Program: "p2", After: 8, Through: 10, ID: 2, First: true, Last: true},
		{Program: "p1", After: 18, Through: 30, ID: 4, Last: true, Lost: true},
		{Program: "p2", After: 39, Through: 40, ID: 5, Lost: true},
	}
	for _, c := range []struct {
		after, through int64
		want           []auth.Change
	}{{0, 40, all}, {9, 40, all}, {10, 40, all[2:]}, {29, 30, all[2:3]}, {30, 40, all[3:]}, {40, 40, []auth.Change{}}} {
		got, err := s.Changes(t.Context(), "u1", c.after, c.through)
		if err != nil || cmp.Diff(c.want, got) != "" {
			t.Errorf("changes in (%d, %d]: %+v (%v), want %+v", c.after, c.through, got, err, c.want)
		}
	}
}
