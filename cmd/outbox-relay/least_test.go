package main

import (
	"context"
	"fmt"
	"net/url"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/outboxrelay/outboxrelay/internal/testenv"
	"github.com/outboxrelay/outboxrelay/relay"
)

func aclClient(t *testing.T, url string) redis.UniversalClient {
	t.Helper()
	client, err := relay.OpenRedis(url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = client.Close() })
	return client
}

// acl makes a Redis user who may do nothing but what rules say.
func acl(t *testing.T, client redis.UniversalClient, user, rules string) {
	t.Helper()
	args := []any{"ACL", "SETUSER", user, "reset", "on", ">topsecret"}
	for _, rule := range strings.Fields(rules) {
		args = append(args, rule)
	}
	if err := client.Do(t.Context(), args...).Err(); err != nil {
		t.Fatalf("ACL SETUSER %s %s: %v", user, rules, err)
	}
}

func asUser(t *testing.T, rawURL, user string) string {
	t.Helper()
	u, err := url.Parse(rawURL)
	if err != nil {
		t.Fatal(err)
	}
	u.User = url.UserPassword(user, "topsecret")
	return u.String()
}

// documentedACL is the rules of a role in docs/SECURITY.md.
func documentedACL(t *testing.T, role string) string {
	t.Helper()
	row := regexp.MustCompile("(?m)^\\| `" + role + "` \\| `([^`]*)` \\|$").FindStringSubmatch(readFile(t, "../../docs/SECURITY.md"))
	if row == nil {
		t.Fatalf("docs/SECURITY.md has no Redis rights of %s", role)
	}
	return strings.ReplaceAll(row[1], `\|`, "|")
}

// denials returns what the server's ACL has refused so far.
func denials(t *testing.T, client redis.UniversalClient) string {
	t.Helper()
	log, err := client.Do(t.Context(), "ACL", "LOG").Result()
	if err != nil {
		t.Fatal(err)
	}
	if text := fmt.Sprint(log); text != "[]" {
		return text
	}
	return ""
}

// With the least rights that docs/SECURITY.md names, in Postgres and in Redis, everything works: relay and node apart, live, catch-up, repair
// of a deleted log, of a foreign one and of a flushed Redis, the start of a new history, and doctor. And nothing more is allowed.
func TestLeastRights(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	client := aclClient(t, s.vars["REDIS_URL"])
	for _, role := range []string{"relay", "ws", "all"} {
		acl(t, client, role, documentedACL(t, role))
	}
	s.vars["DATABASE_URL"] = s.login("GRANT relay_relay TO %s")
	root := s.vars["REDIS_URL"]
	for _, role := range []string{"relay", "ws", "all"} {
		s.doctor(map[string]string{"ROLE": role, "REDIS_URL": asUser(t, root, role)})
	}
	s.live(client, root)
	if got := denials(t, client); got != "" {
		t.Errorf("Redis refused something: %s", got)
	}
	s.nothingMore(root)
}

// live runs the two halves apart, then together, through all that they do with Redis.
func (s *site) live(client redis.UniversalClient, root string) {
	t := s.t
	relayVars := map[string]string{"ROLE": "relay", "JWT_ACCESS_SECRET": "", "ADMIN_ADDR": freeAddr(t), "REDIS_URL": asUser(t, root, "relay")}
	half := s.serve(relayVars)
	s.emit("p1", "a:first")
	s.settled()
	node := s.serve(map[string]string{"ROLE": "ws", "REDIS_URL": asUser(t, root, "ws")})
	c := s.connect("u1", `,"since":"1"`)
	c.expect("ready [p1]", "event p1 a:first", "live")
	s.exec("INSERT INTO relay.program_members VALUES ('u1', 'p2')")
	s.emit("p2", "a:b")
	c.expect("joined p2", "event p2 a:b")
	s.exec("DELETE FROM relay.program_members WHERE program_id = 'p2'")
	c.expect("left p2")
	for n, harm := range [][]any{
		{"DEL", "socket:events:program:p1"},
		{"SET", "socket:events:program:p1", "no log"},
		{"FLUSHALL"},
		{"SCRIPT", "FLUSH"},
		{"DEL", "socket:events:head"},
		{"ZADD", "socket:events:program:p1", "9007199254740000", "foreign"},
	} {
		if err := client.Do(t.Context(), harm...).Err(); err != nil {
			t.Fatal(err)
		}
		event := fmt.Sprintf("harm:n%d", n)
		if harm[0] == "ZADD" { // found at the start of a session
			half.stop()
			half = s.serve(relayVars)
		}
		s.emit("p1", event)
		if harm[0] != "ZADD" {
			c.expect("event p1 " + event)
		}
	}
	half.stop()
	node.stop()
	if err := client.Set(t.Context(), "socket:events:head", "1:1:5", 0).Err(); err != nil { // another cluster's: everything is cleared
		t.Fatal(err)
	}
	s.serve(map[string]string{"REDIS_URL": asUser(t, root, "all")})
	s.emit("p1", "z:last")
	c = s.connect("u1", `,"since":"1"`)
	for got := ""; got != "event p1 z:last"; {
		if got = c.next(); strings.HasPrefix(got, "close") {
			t.Fatal(got)
		}
	}
}

// nothingMore tries what the users must not be able to do.
func (s *site) nothingMore(root string) {
	ctx := testenv.Context(s.t, 20*time.Second)
	for user, commands := range map[string][]string{
		"relay": {"GET other", "SET other x", "DEL other", "EVAL return(redis.call('GET','other')) 1 other", "PUBLISH other x", "SUBSCRIBE socket:events:nodes", "FLUSHALL", "KEYS *", "CONFIG GET *", "ACL LIST", "CLIENT LIST", "SHUTDOWN"},
		"ws": {
			"GET other", "SET socket:events:head x", "DEL socket:events:head", "ZADD socket:events:program:p1 1 x", "EVAL return(1) 0", "PUBLISH socket:events:program:p1 1", "SUBSCRIBE other", "PSUBSCRIBE *",
			"SCAN 0", "FLUSHALL", "KEYS *", "CONFIG GET *", "ACL LIST",
		},
		"all": {"GET other", "SET other x", "PUBLISH other x", "SUBSCRIBE other", "PSUBSCRIBE *", "FLUSHALL", "KEYS *", "CONFIG GET *", "ACL LIST", "SHUTDOWN"},
	} {
		client := aclClient(s.t, asUser(s.t, root, user))
		for _, command := range commands {
			var args []any
			for _, word := range strings.Fields(command) {
				args = append(args, word)
			}
			if err := client.Do(ctx, args...).Err(); err == nil || !strings.Contains(err.Error(), "NOPERM") && !strings.Contains(err.Error(), "can't access") && !strings.Contains(err.Error(), "No permissions") {
				s.t.Errorf("%s: %s: %v, want it refused", user, command, err)
			}
		}
	}
}

// One role per process: each command works with a login that is a member of its own role alone.
func TestOneRolePerProcess(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	emitter := s.login("GRANT relay_emitter TO %s")
	if code, id, stderr := call(t, map[string]string{"DATABASE_URL": emitter}, "emit", "--program", "p1", "--event", "a:b"); code != 0 || id == "" {
		t.Errorf("emit as relay_emitter: exit code %d: %s", code, stderr)
	}
	if code, _, stderr := call(t, with(map[string]string{"DATABASE_URL": emitter, "REDIS_URL": s.vars["REDIS_URL"]}), "serve"); code != 1 || !strings.Contains(stderr, "this role may not read it") {
		t.Errorf("serve as relay_emitter: exit code %d: %s", code, stderr)
	}
	empty := &site{t: t, pool: testenv.Pool(t, testenv.EmptyPostgres(t)), vars: map[string]string{}}
	empty.vars["DATABASE_URL"] = empty.pool.Config().ConnString()
	migrator := empty.login("GRANT relay_migrator TO %s", "GRANT CREATE ON SCHEMA public TO %s", "DO $$ BEGIN EXECUTE format('GRANT CREATE ON DATABASE %%I TO %[1]s', current_database()); END $$")
	for range 2 {
		if code, stdout, stderr := call(t, map[string]string{"DATABASE_URL": migrator}, "migrate", "up"); code != 0 || !strings.Contains(stdout, "schema version") {
			t.Errorf("migrate up as a member of relay_migrator: exit code %d: %s", code, stderr)
		}
	}
	var owner string
	if err := empty.pool.QueryRow(context.Background(), "SELECT relowner::regrole::text FROM pg_class WHERE oid = 'relay.outbox'::regclass").Scan(&owner); err != nil || owner != "relay_migrator" {
		t.Errorf("relay.outbox belongs to %q (%v)", owner, err)
	}
}
