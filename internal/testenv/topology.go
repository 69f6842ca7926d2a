package testenv

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/outboxrelay/outboxrelay/internal/devstack"
)

// RedisCluster is a Redis Cluster of real processes. Its masters share the slots in equal parts.
type RedisCluster struct {
	Nodes []*devstack.Redis // the masters, then a replica of each, if wanted
	URL   string
}

const clusterSlots = 16384

// Cluster starts a Redis Cluster of so many masters, with a replica each if replicas is true, and further arguments of redis-server. It ends with the test.
func Cluster(t testing.TB, masters int, replicas bool, args ...string) *RedisCluster {
	t.Helper()
	c := &RedisCluster{}
	count := masters
	if replicas {
		count *= 2
	}
	var hosts []string
	for range count {
		node := OwnRedis(t, append([]string{
			"--cluster-enabled", "yes", "--cluster-node-timeout", "1000", "--cluster-replica-validity-factor", "0",
		}, args...)...)
		c.Nodes = append(c.Nodes, node)
		hosts = append(hosts, node.Addr)
	}
	c.URL = "redis://" + strings.Join(hosts, ",")
	host, port, _ := strings.Cut(hosts[0], ":")
	for i, node := range c.Nodes {
		Do(t, node, "CLUSTER", "SET-CONFIG-EPOCH", i+1)
		if i < masters {
			Do(t, node, "CLUSTER", "ADDSLOTSRANGE", i*clusterSlots/masters, (i+1)*clusterSlots/masters-1)
		}
		if i > 0 {
			Do(t, node, "CLUSTER", "MEET", host, port)
		}
	}
	c.settled(t, count)
	for i := masters; i < count; i++ {
		Do(t, c.Nodes[i], "CLUSTER", "REPLICATE", Do(t, c.Nodes[i-masters], "CLUSTER", "MYID"))
	}
	for i := masters; i < count; i++ {
		Eventually(t, 20*time.Second, func() error {
			if info := fmt.Sprint(Do(t, c.Nodes[i], "INFO", "replication")); !strings.Contains(info, "master_link_status:up") {
				return errors.New(info)
			}
			return nil
		})
	}
	return c
}

// settled waits until each node knows all others and all slots.
func (c *RedisCluster) settled(t testing.TB, count int) {
	t.Helper()
	for _, node := range c.Nodes {
		Eventually(t, 20*time.Second, func() error {
			info := fmt.Sprint(Do(t, node, "CLUSTER", "INFO"))
			if !strings.Contains(info, "cluster_state:ok") || !strings.Contains(info, fmt.Sprintf("cluster_known_nodes:%d\r", count)) {
				return errors.New(info)
			}
			return nil
		})
	}
}

// MoveSlot migrates a slot with its keys from one master to another, key by key, while clients use it.
func (c *RedisCluster) MoveSlot(t testing.TB, slot int, from, to *devstack.Redis) {
	t.Helper()
	fromID, toID := Do(t, from, "CLUSTER", "MYID"), Do(t, to, "CLUSTER", "MYID")
	Do(t, to, "CLUSTER", "SETSLOT", slot, "IMPORTING", fromID)
	Do(t, from, "CLUSTER", "SETSLOT", slot, "MIGRATING", toID)
	host, port, _ := strings.Cut(to.Addr, ":")
	for {
		keys, _ := Do(t, from, "CLUSTER", "GETKEYSINSLOT", slot, 10).([]any)
		if len(keys) == 0 {
			break
		}
		for _, key := range keys {
			Do(t, from, "MIGRATE", host, port, key, 0, 5000)
		}
	}
	Do(t, to, "CLUSTER", "SETSLOT", slot, "NODE", toID)
	Do(t, from, "CLUSTER", "SETSLOT", slot, "NODE", toID) // the others hear of it
}

// RedisSentinel is a master with a replica, watched by three Sentinels, all of them real processes. The master's name is "relay".
type RedisSentinel struct {
	Master, Replica *devstack.Redis
	URL             string
}

// Sentinel starts one. The password, if it isn't empty, is that of the servers, and reversed that of the Sentinels. It ends with the test.
func Sentinel(t testing.TB, password string) *RedisSentinel {
	t.Helper()
	s := &RedisSentinel{Master: ownRedis(t, devstack.RedisConfig{Password: password})}
	masterHost, masterPort, _ := strings.Cut(s.Master.Addr, ":")
	s.Replica = ownRedis(t, devstack.RedisConfig{Password: password, Args: []string{"--replicaof", masterHost + " " + masterPort}})
	config := fmt.Sprintf("sentinel monitor relay %s %s 2\nsentinel down-after-milliseconds relay 1000\nsentinel failover-timeout relay 3000",
		masterHost, masterPort)
	user, query, own := "", "", []byte(password)
	if password != "" {
		slices.Reverse(own)
		config += fmt.Sprintf("\nsentinel auth-pass relay %s\nsentinel sentinel-pass %s", password, own)
		user, query = ":"+password+"@", "?sentinel_password="+string(own)
	}
	var sentinels []*devstack.Redis
	var hosts []string
	for range 3 {
		node := ownRedis(t, devstack.RedisConfig{Password: string(own), Sentinel: config})
		sentinels, hosts = append(sentinels, node), append(hosts, node.Addr)
	}
	for _, node := range sentinels {
		Eventually(t, 20*time.Second, func() error {
			if info := fmt.Sprint(Do(t, node, "INFO", "sentinel")); !strings.Contains(info, "slaves=1,sentinels=3") {
				return errors.New(info)
			}
			return nil
		})
	}
	s.URL = "redis+sentinel://" + user + strings.Join(hosts, ",") + "/relay" + query
	return s
}

// Do sends one command to one server; the test fails with its error.
func Do(t testing.TB, server *devstack.Redis, args ...any) any {
	t.Helper()
	client := redis.NewClient(&redis.Options{Addr: server.Addr, Password: server.Password, DisableIdentity: true})
	defer client.Close()
	reply, err := client.Do(context.Background(), args...).Result()
	if err != nil {
		t.Fatalf("%v at %s: %v", args, server.Addr, err)
	}
	return reply
}
