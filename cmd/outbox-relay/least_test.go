package main

import (
	"context"
	"fmt"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/outboxrelay/outboxrelay/internal/devstack"
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

// asUser puts a user into a URL, which may have several hosts.
func asUser(t *testing.T, rawURL, user string) string {
	t.Helper()
	scheme, rest, ok := strings.Cut(rawURL, "://")
	if !ok || strings.Contains(rest, "@") {
		t.Fatalf("%q: want a URL without a user", rawURL)
	}
	return scheme + "://" + user + ":topsecret@" + rest
}

// documentedMore is the rules that docs/SECURITY.md adds for a kind of Redis.
func documentedMore(t *testing.T, kind string) string {
	t.Helper()
	more := regexp.MustCompile(regexp.QuoteMeta(kind) + " also needs `([^`]*)`").FindStringSubmatch(readFile(t, "../../docs/SECURITY.md"))
	if more == nil {
		t.Fatalf("docs/SECURITY.md doesn't say what %s needs", kind)
	}
	return " " + strings.ReplaceAll(more[1], `\|`, "|")
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
// of a deleted log, of a foreign one and of a flushed Redis, the start of a new history, erase, explain and doctor. And nothing more is allowed.
func TestLeastRights(t *testing.T) {
	t.Parallel()
	newSite(t).leastRights("")
}

// The same in another database than 0.
func TestLeastRightsInAnotherDatabase(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.vars["REDIS_URL"] = strings.TrimSuffix(s.vars["REDIS_URL"], "/0") + "/3"
	s.leastRights(documentedMore(t, "A database other than 0"))
}

// The same on a Redis Cluster.
func TestLeastRightsOnACluster(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	cluster := testenv.Cluster(t, 3, false)
	s.vars["REDIS_URL"] = cluster.URL
	more := documentedMore(t, "Redis Cluster")
	s.leastRights(more, cluster.Nodes...)
	for without, finding := range map[string]string{"+command": "COMMAND INFO", "+ssubscribe": "SSUBSCRIBE", "+spublish": "SPUBLISH"} {
		for _, node := range cluster.Nodes {
			acl(t, aclClient(t, node.URL()), "less", documentedACL(t, "all")+strings.Replace(more, without, "", 1))
		}
		s.doctor(map[string]string{"REDIS_URL": asUser(t, s.vars["REDIS_URL"], "less")}, finding)
	}
	// What is being moved to another master is asked for there.
	const key = "socket:events:program:moving"
	slot, _ := testenv.Do(t, cluster.Nodes[0], "CLUSTER", "KEYSLOT", key).(int64)
	owner := int(slot) * len(cluster.Nodes) / 16384
	from, to := cluster.Nodes[owner], cluster.Nodes[(owner+1)%len(cluster.Nodes)]
	testenv.Do(t, to, "CLUSTER", "SETSLOT", slot, "IMPORTING", testenv.Do(t, from, "CLUSTER", "MYID"))
	testenv.Do(t, from, "CLUSTER", "SETSLOT", slot, "MIGRATING", testenv.Do(t, to, "CLUSTER", "MYID"))
	for _, role := range []string{"relay", "ws", "all"} {
		if err := aclClient(t, asUser(t, s.vars["REDIS_URL"], role)).ZCard(t.Context(), key).Err(); err != nil {
			t.Errorf("%s: %v", role, err)
		}
	}
}

// leastRights gives the users of all roles their documented rights and more, on the servers named or on the one that REDIS_URL names.
func (s *site) leastRights(more string, servers ...*devstack.Redis) {
	s.t.Helper()
	root := s.vars["REDIS_URL"]
	client := aclClient(s.t, root)
	roots := []redis.UniversalClient{client}
	if len(servers) > 0 {
		roots = nil
	}
	for _, server := range servers {
		roots = append(roots, aclClient(s.t, server.URL()))
	}
	for _, role := range []string{"relay", "ws", "all"} {
		for _, one := range roots {
			acl(s.t, one, role, documentedACL(s.t, role)+more)
		}
	}
	s.vars["DATABASE_URL"] = s.login("GRANT relay_relay TO %s")
	for _, role := range []string{"relay", "ws", "all"} {
		s.doctor(map[string]string{"ROLE": role, "REDIS_URL": asUser(s.t, root, role)})
	}
	s.live(client, root)
	for _, one := range roots {
		acl(s.t, one, "eraser", documentedACL(s.t, "relay")+more+documentedMore(s.t, "`outbox-relay erase`"))
	}
	var id string
	if err := s.pool.QueryRow(s.t.Context(), "SELECT max(id)::text FROM relay.outbox WHERE NOT control").Scan(&id); err != nil {
		s.t.Fatal(err)
	}
	if code, _, stderr := call(s.t, map[string]string{"DATABASE_URL": s.vars["DATABASE_URL"], "REDIS_URL": asUser(s.t, root, "eraser")}, "erase", "--event", id); code != 0 {
		s.t.Errorf("erase: exit code %d: %s", code, stderr)
	}
	if code, stdout, stderr := call(s.t, map[string]string{"DATABASE_URL": s.vars["DATABASE_URL"], "REDIS_URL": asUser(s.t, root, "ws")}, "explain", "--user", "u1", "--event", id); code != 0 || !strings.Contains(stdout, "u1 was a member then") {
		s.t.Errorf("explain: exit code %d: %s%s", code, stdout, stderr)
	}
	for _, one := range roots {
		if got := denials(s.t, one); got != "" {
			s.t.Errorf("Redis refused something: %s", got)
		}
	}
	s.nothingMore(root)
}

// live runs the two halves apart, then together, through all that they do with Redis.
func (s *site) live(client redis.UniversalClient, root string) {
	t := s.t
	relayVars := map[string]string{"ROLE": "relay", "JWT_ACCESS_SECRET": "", "ADMIN_ADDR": testenv.FreeAddr(t), "REDIS_URL": asUser(t, root, "relay")}
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
		if err := everywhere(t.Context(), client, harm); err != nil {
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

// everywhere sends a command to the server; one without a key to all masters of a Cluster.
func everywhere(ctx context.Context, client redis.UniversalClient, args []any) error {
	if cluster, ok := client.(*redis.ClusterClient); ok && (args[0] == "FLUSHALL" || args[0] == "SCRIPT") {
		return cluster.ForEachMaster(ctx, func(ctx context.Context, node *redis.Client) error { return node.Do(ctx, args...).Err() })
	}
	return client.Do(ctx, args...).Err()
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
