package scenario_test

import (
	"fmt"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/outboxrelay/outboxrelay/internal/devstack"
	"github.com/outboxrelay/outboxrelay/internal/testenv"
)

var redisFaults = []fault{
	{"redis/stopped", "steady", redisStopped},
	{"redis/frozen", "steady", redisFrozen},
	{"redis/killed-without-persistence", "steady", redisKilled},
	{"redis/flushed", "steady", redisFlushed},
	{"redis/keys-deleted", "steady", redisKeysDeleted},
	{"redis/evicting", "steady", redisEvicting},
	{"redis/out-of-memory", "steady", redisOutOfMemory},
	{"redis/failover-to-stale-replica", "steady", redisFailover},
	{"redis/subscribers-killed", "steady", redisSubscribersKilled},
	{"redis/output-buffer-overrun", "steady", redisOverrun},
}

// simple is the world of most trials: two nodes on a Postgres and a Redis.
func (t *trial) simple() redis.UniversalClient {
	t.Helper()
	t.services(devstack.PostgresConfig{})
	t.audience(t.node(), t.node())
	return openRedis(t.T, t.redis.URL())
}

// Redis is away for a while: ticks wait, every node says so.
func redisStopped(t *trial) {
	t.simple()
	t.load(func() {
		defer t.newcomer()
		t.do("stop Redis", t.redis.Stop(testenv.Context(t.T, 10*time.Second)))
		for _, n := range t.nodes {
			t.degraded(n, 10*time.Second)
		}
		t.pass(5 * time.Second)
		t.do("start Redis", t.redis.Start(testenv.Context(t.T, 10*time.Second)))
	})
	for _, n := range t.nodes {
		for line := range strings.Lines(n.Log()) {
			if !strings.HasPrefix(line, "time=") {
				t.Errorf("a node wrote what is no line of its log: %s", line)
			}
		}
	}
}

// Redis holds its connections and answers nothing.
func redisFrozen(t *trial) {
	t.simple()
	t.load(func() {
		leader := t.leader(t.nodes...)
		t.do("pause Redis", t.redis.Pause())
		t.says(leader, 15*time.Second, "relay: redis: ") // its subscription notices too
		t.pass(3 * time.Second)
		t.do("continue Redis", t.redis.Continue())
	})
}

// Redis comes back empty, again and again.
func redisKilled(t *trial) {
	t.simple()
	t.load(func() {
		defer t.newcomer()
		for range 4 {
			t.do("kill Redis", t.redis.Kill(testenv.Context(t.T, 10*time.Second)))
			t.do("start Redis", t.redis.Start(testenv.Context(t.T, 10*time.Second)))
			t.more(50)
		}
	})
}

func redisFlushed(t *trial) {
	db := t.simple()
	t.load(func() {
		defer t.newcomer()
		for range 10 {
			t.do("flush", db.FlushAll(t.Context()).Err())
			t.more(20)
		}
	})
}

// Single logs, the head and the loaded scripts vanish.
func redisKeysDeleted(t *trial) {
	db := t.simple()
	t.load(func() {
		defer t.newcomer()
		for n := range 15 {
			t.do("delete a log", db.Del(t.Context(), fmt.Sprintf("socket:events:program:p%d", n%5)).Err())
			if n%3 == 0 {
				t.do("delete the head", db.Del(t.Context(), "socket:events:head").Err())
				t.do("forget the scripts", db.ScriptFlush(t.Context()).Err())
			}
			t.more(10)
		}
	})
}

// Redis has too little memory and makes room by deleting what the nodes rely on: it is refilled, and /readyz says what is wrong.
func redisEvicting(t *trial) {
	db := t.simple()
	t.load(func() {
		t.do("set the policy", db.ConfigSet(t.Context(), "maxmemory-policy", "allkeys-lru").Err())
		t.do("limit the memory", db.ConfigSet(t.Context(), "maxmemory", fmt.Sprint(t.used(db)+50_000)).Err())
		t.within(20*time.Second, func() error {
			if n := t.info(db, "stats", "evicted_keys"); n == "0" {
				return fmt.Errorf("nothing is evicted")
			}
			return nil
		})
		t.within(40*time.Second, func() error {
			said := false
			for _, n := range t.nodes {
				page, err := n.Get("/readyz")
				said = said || strings.Contains(fmt.Sprint(page, err), "allkeys-lru") // what is being refilled makes it red
			}
			if !said {
				return fmt.Errorf("no /readyz says that Redis evicts")
			}
			return nil
		})
		t.note("evicted keys %s", t.info(db, "stats", "evicted_keys"))
		t.do("lift the limit", db.ConfigSet(t.Context(), "maxmemory", "0").Err())
	})
}

func (t *trial) used(db redis.UniversalClient) (bytes int) {
	t.Helper()
	_, err := fmt.Sscan(t.info(db, "memory", "used_memory"), &bytes)
	t.do("read used_memory", err)
	return bytes
}

func (t *trial) info(db redis.UniversalClient, section, field string) string {
	t.Helper()
	text, err := db.Info(t.Context(), section).Result()
	t.do("ask Redis", err)
	for line := range strings.Lines(text) {
		if name, value, _ := strings.Cut(strings.TrimSpace(line), ":"); name == field {
			return value
		}
	}
	t.Fatalf("INFO %s has no %s", section, field)
	return ""
}

// Redis refuses every write for want of memory: ticks wait.
func redisOutOfMemory(t *trial) {
	db := t.simple()
	t.load(func() {
		t.do("limit the memory", db.ConfigSet(t.Context(), "maxmemory", "100000").Err())
		t.says(t.leader(t.nodes...), 10*time.Second, "OOM")
		t.pass(3 * time.Second)
		t.do("lift the limit", db.ConfigSet(t.Context(), "maxmemory", "0").Err())
	})
}

// Redis fails over to a replica that has missed the last appends.
func redisFailover(t *trial) {
	t.pg = testenv.OwnPostgres(t.T, devstack.PostgresConfig{})
	primary := testenv.OwnRedis(t.T)
	replica := testenv.OwnRedis(t.T, "--replicaof", strings.Replace(primary.Addr, ":", " ", 1))
	front := testenv.Proxy(t.T, primary.Addr)
	t.on(t.pg.URL(), primary)
	url := "REDIS_URL=" + front.URL(primary.URL())
	t.audience(t.node(url), t.node(url))
	stale := openRedis(t.T, replica.URL())
	t.load(func() {
		defer t.newcomer(url)
		t.within(10*time.Second, func() error {
			if stale.ZCard(t.Context(), "socket:events:program:p0").Val() == 0 {
				return fmt.Errorf("the replica is empty")
			}
			return nil
		})
		t.do("pause the replica", replica.Pause()) // it misses everything from here on
		t.more(100)
		t.do("kill the primary", primary.Kill(testenv.Context(t.T, 10*time.Second)))
		t.do("continue the replica", replica.Continue())
		t.do("promote the replica", stale.Do(t.Context(), "REPLICAOF", "NO", "ONE").Err())
		front.SetTarget(replica.Addr)
	})
}

// The nodes' subscriptions are cut again and again.
func redisSubscribersKilled(t *trial) {
	db := t.simple()
	t.load(func() {
		killed := int64(0)
		for range 20 {
			n, err := db.ClientKillByFilter(t.Context(), "TYPE", "pubsub").Result()
			t.do("kill the subscribers", err)
			killed += n
			t.pass(200 * time.Millisecond)
		}
		t.note("killed %d", killed)
		if killed < 5 {
			t.Errorf("only %d subscribers were killed", killed)
		}
	})
}

// Somebody floods the nodes' subscriptions until Redis closes them because their output buffers overrun.
func redisOverrun(t *trial) {
	db := t.simple()
	t.load(func() {
		t.do("limit the buffers", db.ConfigSet(t.Context(), "client-output-buffer-limit", "pubsub 100kb 50kb 1").Err())
		flood := strings.Repeat("x", 8<<20)
		before := t.info(db, "stats", "total_connections_received")
		for range 10 {
			t.do("flood", db.Publish(t.Context(), "socket:events:program:p0", flood).Err())
			t.pass(200 * time.Millisecond)
		}
		t.note("connections before %s, after %s", before, t.info(db, "stats", "total_connections_received"))
		if before == t.info(db, "stats", "total_connections_received") {
			t.Error("no subscription was closed")
		}
	})
}
