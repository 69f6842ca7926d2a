package scenario_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/outboxrelay/outboxrelay/internal/scenario"
	"github.com/outboxrelay/outboxrelay/internal/testenv"
)

// more waits until the client has n further events.
func more(t *testing.T, c *scenario.Client, n int) {
	t.Helper()
	before := c.Received()
	if err := c.Until(testenv.Context(t, 30*time.Second), func(c *scenario.Client) bool { return c.Count() > before+n }); err != nil {
		t.Fatal(err)
	}
}

// live waits until the clients are connected. On a Cluster nobody gets a checkpoint: crowd would wait for ever.
func live(t *testing.T, clients ...*scenario.Client) {
	t.Helper()
	for _, c := range clients {
		if err := c.Live(testenv.Context(t, 30*time.Second), 1); err != nil {
			t.Fatal(err)
		}
	}
}

// A Cluster of three masters with replicas: slots move under load, and a master is killed and its replica promoted. A relay and a node apart.
func TestARedisClusterMovesSlotsAndFailsOver(t *testing.T) {
	t.Parallel()
	cluster := testenv.Cluster(t, 3, true)
	w := scenario.New(t, testenv.Postgres(t), cluster.URL, 6, 2)
	front := w.Node("ROLE=ws", "MAX_CATCHUP_EVENTS=10000")
	w.Node("ROLE=relay")
	steady, restless := scenario.NewClient("u0", front), scenario.NewClient("u1", front)
	run(t, steady, restless)
	live(t, steady, restless)
	client := openRedis(t, cluster.URL).(*redis.ClusterClient)
	j := w.NewJournal(6)
	during(t, j, scenario.Mix{Writers: 4, Pause: 10 * time.Millisecond}, size(time.Second, 20*time.Second), func() {
		more(t, restless, 50) // it needs a position of each program to resume with: there is no checkpoint
		for n := range size(2, 6) {
			slot := client.ClusterKeySlot(t.Context(), fmt.Sprintf("socket:events:program:p%d", n)).Val()
			from := owner(t, cluster, client, int(slot))
			cluster.MoveSlot(t, int(slot), cluster.Nodes[from], cluster.Nodes[(from+1)%3])
			restless.Drop()
			more(t, steady, 20)
		}
		if err := cluster.Nodes[1].Kill(t.Context()); err != nil {
			t.Fatal(err)
		}
		restless.Drop()
		testenv.Eventually(t, 20*time.Second, func() error {
			if role := fmt.Sprint(testenv.Do(t, cluster.Nodes[4], "ROLE")); role[:7] != "[master" {
				return fmt.Errorf("the replica isn't promoted: %s", role)
			}
			return nil
		})
		more(t, steady, 50)
	})
	verdict(t, j, steady, restless)
	front.Ready()
}

// owner is the index of the master that has a slot.
func owner(t *testing.T, cluster *testenv.RedisCluster, client *redis.ClusterClient, slot int) int {
	t.Helper()
	shards, err := client.ClusterShards(t.Context()).Result()
	if err != nil {
		t.Fatal(err)
	}
	for _, shard := range shards {
		has := slices.ContainsFunc(shard.Slots, func(r redis.SlotRange) bool { return int(r.Start) <= slot && slot <= int(r.End) })
		for i, node := range cluster.Nodes {
			if has && slices.ContainsFunc(shard.Nodes, func(n redis.Node) bool {
				return n.Role == "master" && strings.HasSuffix(node.Addr, fmt.Sprintf(":%d", n.Port))
			}) {
				return i
			}
		}
	}
	t.Fatalf("nobody has slot %d: %v", slot, shards)
	return 0
}

// Sentinel promotes the replica of a master that was killed under load.
func TestSentinelFailsOverUnderLoad(t *testing.T) {
	t.Parallel()
	sentinel := testenv.Sentinel(t)
	w := scenario.New(t, testenv.Postgres(t), sentinel.URL, 3, 2)
	node := w.Node("MAX_CATCHUP_EVENTS=10000")
	steady, restless := scenario.NewClient("u0", node), scenario.NewClient("u1", node)
	crowd(t, steady, restless)
	j := w.NewJournal(3)
	during(t, j, scenario.Mix{Writers: 4, Pause: 10 * time.Millisecond}, size(time.Second, 20*time.Second), func() {
		more(t, steady, 50)
		if err := sentinel.Master.Kill(t.Context()); err != nil {
			t.Fatal(err)
		}
		restless.Drop()
		more(t, steady, 200)
	})
	report := verdict(t, j, steady, restless)
	if len(report.WriterError) != 0 || report.SlowestTx > 5*time.Second {
		t.Errorf("the writers noticed: slowest COMMIT %v", report.SlowestTx)
	}
	node.Ready()
	if role := fmt.Sprint(testenv.Do(t, sentinel.Replica, "ROLE")); role[:7] != "[master" {
		t.Errorf("the replica is %s", role)
	}
}
