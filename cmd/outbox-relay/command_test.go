package main

import (
	"strings"
	"testing"
	"time"

	"github.com/outboxrelay/outboxrelay/auth"
	"github.com/outboxrelay/outboxrelay/internal/testenv"
	"github.com/outboxrelay/outboxrelay/migrations"
)

func TestTokenIsAccepted(t *testing.T) {
	t.Parallel()
	vars := map[string]string{"JWT_ACCESS_SECRET": goodSecret, "JWT_ISSUER": "me", "JWT_AUDIENCE": "them"}
	code, stdout, stderr := call(t, vars, "token", "--user", "u1", "--ttl", "1m")
	if code != 0 {
		t.Fatalf("exit code %d: %s", code, stderr)
	}
	verifier, err := auth.NewVerifier(auth.Config{Secret: []byte(goodSecret), Issuer: "me", Audience: "them"})
	if err != nil {
		t.Fatal(err)
	}
	id, err := verifier.Verify(t.Context(), strings.TrimSpace(stdout))
	if err != nil || id.UserID != "u1" || time.Until(id.ExpiresAt) > time.Minute {
		t.Errorf("Verify: %+v, %v", id, err)
	}
}

func TestUnmigratedDatabaseIsRefused(t *testing.T) {
	t.Parallel()
	vars := with(map[string]string{
		"DATABASE_URL": testenv.EmptyPostgres(t), "REDIS_URL": testenv.Redis(t), "LISTEN_ADDR": "127.0.0.1:0", "ADMIN_ADDR": "127.0.0.1:0",
	})
	want := "outbox-relay: the schema relay is missing: run `outbox-relay migrate up`\n"
	if code, _, stderr := call(t, vars, "serve"); code != 1 || stderr != want {
		t.Errorf("serve: exit code %d, wrote %q", code, stderr)
	}
	if code, _, stderr := call(t, vars, "emit", "--program", "p1", "--event", "a:b"); code != 1 || stderr != want {
		t.Errorf("emit: exit code %d, wrote %q", code, stderr)
	}
	if code, stdout, _ := call(t, vars, "migrate", "status"); code != 1 || strings.Count(stdout, "missing  ") != migrations.Version {
		t.Errorf("migrate status: exit code %d, wrote %q", code, stdout)
	}
	if code, _, stderr := call(t, vars, "migrate", "up"); code != 0 {
		t.Fatalf("migrate up: exit code %d, wrote %q", code, stderr)
	}
	if code, stdout, _ := call(t, vars, "migrate", "status"); code != 0 || strings.Contains(stdout, "missing") {
		t.Errorf("migrate status: exit code %d, wrote %q", code, stdout)
	}
	conn := testenv.Conn(t, vars["DATABASE_URL"])
	if _, err := conn.Exec(t.Context(), "CREATE OR REPLACE FUNCTION relay.schema_version() RETURNS integer LANGUAGE sql IMMUTABLE RETURN 1000"); err != nil {
		t.Fatal(err)
	}
	if code, _, stderr := call(t, vars, "serve"); code != 1 || strings.Count(stderr, "\n") != 1 || !strings.Contains(stderr, "run a newer outbox-relay") {
		t.Errorf("serve on a newer schema: exit code %d, wrote %q", code, stderr)
	}
}

// A host that is tried with TLS and without was named twice, after the driver's own words, and nobody was told what to do.
func TestUnreachableDatabaseIsOneLine(t *testing.T) {
	t.Parallel()
	const (
		one  = "127.0.0.1:1 (127.0.0.1): dial error: dial tcp 127.0.0.1:1: connect: connection refused"
		two  = "127.0.0.1:2 (127.0.0.1): dial error: dial tcp 127.0.0.1:2: connect: connection refused"
		todo = ": start Postgres, or correct DATABASE_URL\n"
	)
	for url, hosts := range map[string]string{
		"postgres://u:topsecret@127.0.0.1:1/d":             one,
		"postgres://u:topsecret@127.0.0.1:1,127.0.0.1:2/d": one + "; " + two,
	} {
		vars := with(map[string]string{"DATABASE_URL": url, "REDIS_URL": testenv.Redis(t), "LISTEN_ADDR": "127.0.0.1:0", "ADMIN_ADDR": "127.0.0.1:0"})
		for command, want := range map[string]string{
			"serve":                         "outbox-relay: connect to DATABASE_URL: ",
			"emit --program p1 --event a:b": "outbox-relay: connect to DATABASE_URL: ",
			"migrate up":                    "outbox-relay: migrate " + databaseName(url) + ": failed to initialize: ",
			"erase --event 42":              "outbox-relay: read the schema version: ",
			"doctor":                        "finding  postgres: connect to DATABASE_URL: ",
		} {
			code, stdout, stderr := call(t, vars, strings.Fields(command)...)
			got := stderr
			if command == "doctor" {
				for line := range strings.Lines(stdout) {
					if strings.HasPrefix(line, "finding ") {
						got = line
					}
				}
			}
			if want += "user u, database d: " + hosts + todo; code != 1 || got != want {
				t.Errorf("%s: exit code %d, wrote\n%q, want\n%q", command, code, got, want)
			}
			if strings.Contains(stdout+stderr, "topsecret") {
				t.Errorf("%s shows the password: %q", command, stdout+stderr)
			}
		}
	}
	if err := refusePooler(t.Context(), "postgres://u:topsecret@127.0.0.1:1/d"); explain(err)+"\n" != "connect to DATABASE_URL: user u, database d: "+one+todo {
		t.Errorf("the look for a pooler: %q", explain(err))
	}
}

// Postgres' own words say what is forbidden, and not what to grant.
func TestWhoLacksARightIsToldWhich(t *testing.T) {
	t.Parallel()
	for role, command := range map[string]string{"relay_relay": "emit --program p1 --event a:b", "relay_emitter": "erase --event 1"} {
		s := newSite(t)
		code, _, stderr := call(t, map[string]string{"DATABASE_URL": s.login("GRANT " + role + " TO %s"), "REDIS_URL": s.vars["REDIS_URL"]}, strings.Fields(command)...)
		if code != 1 || !strings.HasSuffix(stderr, "permission denied for table outbox (SQLSTATE 42501): docs/SECURITY.md says which role may, such as relay_emitter for the application\n") {
			t.Errorf("%s as a member of %s: exit code %d, wrote %q", command, role, code, stderr)
		}
	}
}

func TestEmit(t *testing.T) {
	t.Parallel()
	pool, url := testenv.DB(t)
	vars := map[string]string{"DATABASE_URL": url}
	code, stdout, stderr := call(t, vars, "emit", "--program", "p1", "--event", "request:created", "--request", "r1", "--data", `{"title":"x"}`, "--by", "u1")
	if code != 0 {
		t.Fatalf("exit code %d: %s", code, stderr)
	}
	var row string
	err := pool.QueryRow(t.Context(), "SELECT concat_ws('|', id, program_id, event, request_id, data, performed_by_id) FROM relay.outbox").Scan(&row)
	if want := strings.TrimSpace(stdout) + `|p1|request:created|r1|{"title":"x"}|u1`; err != nil || row != want {
		t.Errorf("the row is %q, want %q (%v)", row, want, err)
	}
	for flag, args := range map[string][]string{
		"--program": {"--program", "p 1", "--event", "a:b"},
		"--event":   {"--program", "p1", "--event", "Created"},
		"--data":    {"--program", "p1", "--event", "a:b", "--data", "[]"},
		"--request": {"--program", "p1", "--event", "a:b", "--request", strings.Repeat("r", 129)},
		"--by":      {"--program", "p1", "--event", "a:b", "--by", strings.Repeat("u", 129)},
	} {
		code, _, stderr := call(t, vars, append([]string{"emit"}, args...)...)
		if code != 2 || !strings.HasPrefix(stderr, "outbox-relay: "+flag+": ") {
			t.Errorf("bad %s: exit code %d, wrote %q", flag, code, stderr)
		}
	}
	var rows int
	if err := pool.QueryRow(t.Context(), "SELECT count(*) FROM relay.outbox").Scan(&rows); err != nil || rows != 1 {
		t.Errorf("%d rows after bad input (%v)", rows, err)
	}
}

func TestErase(t *testing.T) {
	t.Parallel()
	_, url := testenv.DB(t)
	vars := map[string]string{"DATABASE_URL": url, "REDIS_URL": testenv.Redis(t)}
	if code, _, stderr := call(t, vars, "erase"); code != 2 || !strings.HasPrefix(stderr, "outbox-relay: --event: ") {
		t.Errorf("without an event: exit code %d, wrote %q", code, stderr)
	}
	if code, _, stderr := call(t, vars, "erase", "--event", "42"); code != 1 || !strings.Contains(stderr, "event 42: no such event") {
		t.Errorf("an event that isn't there: exit code %d, wrote %q", code, stderr)
	}
	code, id, _ := call(t, vars, "emit", "--program", "p1", "--event", "a:b", "--data", `{"secret":1}`)
	if code != 0 {
		t.Fatal("emit failed")
	}
	code, _, stderr := call(t, vars, "erase", "--event", strings.TrimSpace(id), "--wait", "500ms") // no relay runs
	if code != 1 || strings.Count(stderr, "\n") != 1 || !strings.Contains(stderr, "blank in Postgres, but not yet published") {
		t.Errorf("an event that waits: exit code %d, wrote %q", code, stderr)
	}
}
