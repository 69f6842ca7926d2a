package main

import (
	"context"
	"fmt"
	"maps"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/outboxrelay/outboxrelay/internal/devstack"
	"github.com/outboxrelay/outboxrelay/internal/testenv"
)

// login makes a LOGIN user with statements that may name it as %[1]s, and returns the database's URL for it. It goes with the test.
func (s *site) login(statements ...string) string {
	s.t.Helper()
	u, err := url.Parse(s.vars["DATABASE_URL"])
	if err != nil {
		s.t.Fatal(err)
	}
	name := "login_of_" + u.Path[1:]
	s.exec("CREATE ROLE " + name + " LOGIN")
	admin := testenv.Conn(s.t, s.vars["DATABASE_URL"])
	s.t.Cleanup(func() {
		for _, sql := range []string{"DROP OWNED BY " + name + " CASCADE", "DROP ROLE " + name} {
			if _, err := admin.Exec(context.Background(), sql); err != nil {
				s.t.Errorf("%s: %v", sql, err)
			}
		}
	})
	for _, sql := range statements {
		s.exec(fmt.Sprintf(sql, name))
	}
	u.User = url.User(name)
	return u.String()
}

// doctor fails unless doctor finds exactly these things, in this order; each is a part of one line.
func (s *site) doctor(more map[string]string, want ...string) {
	s.t.Helper()
	vars := maps.Clone(s.vars)
	maps.Copy(vars, more)
	code, stdout, stderr := call(s.t, vars, "doctor")
	var findings []string
	for line := range strings.Lines(stdout) {
		if strings.HasPrefix(line, "finding ") {
			findings = append(findings, line)
		} else if !strings.HasPrefix(line, "ok ") && !strings.HasPrefix(line, "note ") {
			s.t.Errorf("an odd line: %q", line)
		}
	}
	ok := len(findings) == len(want)
	for i := range min(len(findings), len(want)) {
		ok = ok && strings.Contains(findings[i], want[i])
	}
	if !ok || code != min(len(want), 1) || (stderr == "") != (len(want) == 0) {
		s.t.Errorf("exit code %d, want the findings %q; wrote\n%s%s", code, want, stdout, stderr)
	}
	if strings.Contains(stdout+stderr, goodSecret) || strings.Contains(stdout+stderr, "topsecret") {
		s.t.Errorf("a secret is shown:\n%s", stdout)
	}
}

func TestDoctorFindsNothingWrong(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.doctor(nil)
	for _, role := range []string{"all", "relay", "ws"} {
		s.doctor(map[string]string{"ROLE": role})
	}
	s.doctor(map[string]string{"DATABASE_URL": s.login("GRANT relay_relay TO %s")})
	if code, _, stderr := call(t, s.vars, "doctor", "--nonsense"); code != 2 || !strings.Contains(stderr, "--nonsense") {
		t.Errorf("an unknown flag: exit code %d, wrote %q", code, stderr)
	}
}

func TestDoctorFindsNothingWrongWithTheRecipe(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.applyRecipe("INSERT INTO app.people VALUES ('" + ann + "', 'Ann'); INSERT INTO app.projects VALUES (1); INSERT INTO app.seats VALUES ('" + ann + "', 1)")
	s.doctor(nil)
	s.exec("DROP TRIGGER relay_track ON app.team_projects")
	s.doctor(nil, "app.team_projects has no trigger that tracks every INSERT, UPDATE and DELETE")
	s.exec("CREATE TRIGGER relay_track AFTER INSERT OR DELETE ON app.team_projects FOR EACH ROW EXECUTE FUNCTION app.team_changed()")
	s.doctor(nil, "ALTER TABLE app.team_projects ENABLE ALWAYS TRIGGER relay_track", "app.team_projects has no trigger that tracks every")
}

// Each finding, on a database that is really so.
func TestDoctorFindings(t *testing.T) {
	t.Parallel()
	const disable = "ALTER TABLE relay.program_members DISABLE TRIGGER track_membership"
	for name, test := range map[string]struct {
		sql  string
		want []string
	}{
		"wake is gone":             {"DROP TRIGGER wake ON relay.outbox", []string{"relay.outbox has no trigger wake"}},
		"wake fires not always":    {"ALTER TABLE relay.outbox ENABLE TRIGGER wake", []string{"ALTER TABLE relay.outbox ENABLE ALWAYS TRIGGER wake"}},
		"updates aren't refused":   {"ALTER TABLE relay.outbox DISABLE TRIGGER refuse_update", []string{"ENABLE ALWAYS TRIGGER refuse_update"}},
		"events aren't checked":    {"DROP TRIGGER check_event ON relay.outbox", []string{"relay.outbox has no trigger check_event: create it as migrations/00001_schema.sql does"}},
		"cuts aren't noted":        {"DROP TRIGGER note_cut ON relay.cuts", []string{"relay.cuts has no trigger note_cut: create it as migrations/00003_membership.sql does"}},
		"a column is missing":      {"ALTER TABLE relay.users DROP COLUMN last_name", []string{"relay.users has no column last_name"}},
		"a column is of a type":    {"ALTER TABLE relay.users ALTER is_active DROP DEFAULT, ALTER is_active TYPE int USING 1", []string{"relay.users.is_active must be boolean, not int4"}},
		"no trigger on users":      {"DROP TRIGGER track_user ON relay.users", []string{"relay.users has no trigger that tracks"}},
		"trigger is off":           {disable, []string{"ALTER TABLE relay.program_members ENABLE ALWAYS TRIGGER track_membership"}},
		"TRUNCATE isn't refused":   {"DROP TRIGGER refuse_truncate ON relay.users", []string{"TRUNCATE of relay.users would stay unseen"}},
		"the log hasn't been told": {disable + "; DELETE FROM relay.program_members; ALTER TABLE relay.program_members ENABLE ALWAYS TRIGGER track_membership", []string{"1 changed without the log being told: run SELECT relay.sync_memberships()"}},
		"an old schema":            {"CREATE OR REPLACE FUNCTION relay.schema_version() RETURNS int LANGUAGE sql AS 'SELECT 1'", []string{"run `outbox-relay migrate up`"}},
		"no schema":                {"DROP SCHEMA relay CASCADE", []string{"the schema relay is missing: run `outbox-relay migrate up`"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newSite(t)
			s.exec(test.sql)
			s.doctor(nil, test.want...)
		})
	}
}

func TestDoctorFindsMissingGrants(t *testing.T) {
	t.Parallel()
	newSite := func() *site { return newSite(t) }
	s := newSite()
	s.doctor(map[string]string{"DATABASE_URL": s.login()}, "may not use the schema relay: GRANT relay_relay TO")
	s = newSite()
	emitter := s.login("GRANT relay_emitter TO %s")
	s.doctor(map[string]string{"DATABASE_URL": emitter}, "lacks SELECT on relay.outbox, SELECT on relay.ticks, SELECT on relay.users")
	s = newSite()
	reader := s.login("GRANT USAGE ON SCHEMA relay TO %s", "GRANT EXECUTE ON FUNCTION relay.schema_version() TO %s", "GRANT SELECT ON ALL TABLES IN SCHEMA relay TO %s")
	s.doctor(map[string]string{"DATABASE_URL": reader, "ROLE": "ws"})
	s.doctor(map[string]string{"DATABASE_URL": reader, "ROLE": "relay"}, "lacks DELETE on relay.outbox, INSERT on relay.ticks, DELETE on relay.ticks, DELETE on relay.cuts, UPDATE (xid) on relay.outbox, UPDATE on relay.flush_probe: GRANT relay_relay")
}

func TestDoctorLooksAtSettingsAndServers(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	nobody := testenv.FreeAddr(t)
	s.doctor(map[string]string{"JWT_ACCESS_SECRET": "short", "PING_INTERVAL": "60s"}, "settings: JWT_ACCESS_SECRET", "settings: PING_TIMEOUT")
	s.doctor(map[string]string{"DATABASE_URL": "", "REDIS_URL": ""}, "settings: DATABASE_URL: not set", "settings: REDIS_URL: not set")
	s.doctor(map[string]string{"DATABASE_URL": "postgres://u:topsecret@" + nobody + "/d"}, "connect to DATABASE_URL")
	s.doctor(map[string]string{"REDIS_URL": "redis://u:topsecret@" + nobody}, "start it, or correct REDIS_URL")
	evicting := testenv.OwnRedis(t, "--maxmemory-policy", "allkeys-lru")
	s.doctor(map[string]string{"REDIS_URL": evicting.URL()}, "maxmemory-policy is allkeys-lru, so that logs may vanish")
	client := aclClient(t, s.vars["REDIS_URL"])
	acl(t, client, "blind", "~socket:events:* &socket:events:* +get +info +ping")
	acl(t, client, "unasked", "~socket:events:* &socket:events:* +get +subscribe +publish +ping")
	s.doctor(map[string]string{"REDIS_URL": asUser(t, s.vars["REDIS_URL"], "blind")}, "SUBSCRIBE socket:events:nodes")
	s.doctor(map[string]string{"REDIS_URL": asUser(t, s.vars["REDIS_URL"], "blind"), "ROLE": "relay"}, "PUBLISH socket:events:nodes")
	s.doctor(map[string]string{"REDIS_URL": asUser(t, s.vars["REDIS_URL"], "unasked")}, "INFO memory")
	s.doctor(map[string]string{"DATABASE_URL": pgbouncer(t, s.vars["DATABASE_URL"], "transaction", 4)}, "goes through a pooler in transaction mode")
}

func TestDoctorFindsAStandby(t *testing.T) {
	t.Parallel()
	pg := testenv.OwnPostgres(t, devstack.PostgresConfig{MaxPrepared: 5})
	if err := pg.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(pg.DataDir, "standby.signal"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := pg.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	s := &site{t: t, vars: with(map[string]string{"DATABASE_URL": pg.URL(), "REDIS_URL": testenv.Redis(t)})}
	s.doctor(map[string]string{"ROLE": "relay"}, "the server is a standby", "LISTEN: ")
	s.doctor(map[string]string{"ROLE": "ws"})
	_, stdout, _ := call(t, s.vars, "doctor")
	if !strings.Contains(stdout, "note     postgres: max_prepared_transactions is 5") {
		t.Errorf("no note on prepared transactions:\n%s", stdout)
	}
}
