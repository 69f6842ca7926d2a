package relay

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"
)

const inspectEvery = 30 * time.Second // what Redis is like may be changed at any time

// traits are what matters of the servers behind a client.
type traits struct {
	evicts  string // why entries may vanish before their time; empty: they don't
	sharded bool   // a Cluster, and every master has sharded pub/sub
}

// Sharded reports whether messages go by the sharded pub/sub of a Redis Cluster: they do where every master has it (Redis 7).
func Sharded(ctx context.Context, client redis.UniversalClient) (bool, error) {
	found, err := inspect(ctx, client)
	return found.sharded, err
}

// inspect asks the server, on a Cluster every master, what it is like. A server that knows no such question (an in-process one) evicts nothing.
func inspect(ctx context.Context, client redis.UniversalClient) (traits, error) {
	var (
		mu  sync.Mutex
		all traits
	)
	_, cluster := client.(*redis.ClusterClient)
	all.sharded = cluster
	err := eachMaster(ctx, client, func(ctx context.Context, node redis.UniversalClient) error {
		info, err := node.Info(ctx, "memory").Result()
		var reply redis.Error
		if err != nil && !errors.As(err, &reply) {
			return fmt.Errorf("ask Redis for its eviction policy: %w", err)
		}
		sharded := cluster
		if cluster {
			known, err := node.Do(ctx, "COMMAND", "INFO", "spublish").Slice()
			if err != nil {
				return fmt.Errorf("ask Redis for sharded pub/sub (COMMAND INFO): %w", err)
			}
			sharded = len(known) == 1 && known[0] != nil
		}
		mu.Lock()
		defer mu.Unlock()
		all.sharded = all.sharded && sharded
		if why := evicts(info, err); why != "" {
			all.evicts = why
		}
		return nil
	})
	return all, err
}

// evicts says why a server whose INFO memory is this, or was refused with err, may drop keys. Every policy but noeviction may: the logs have a time to live.
func evicts(info string, err error) string {
	if err != nil && strings.HasPrefix(err.Error(), "NOPERM") {
		return "Redis' eviction policy is unknown, because its user may not run INFO: allow it (ACL: +info)"
	}
	for line := range strings.Lines(info) {
		if policy, ok := strings.CutPrefix(strings.TrimSpace(line), "maxmemory_policy:"); ok && policy != "noeviction" {
			return "Redis may evict logs (maxmemory-policy " + policy + "): set it to noeviction"
		}
	}
	return ""
}

// eachMaster calls do for the server, or for every master of a Cluster; there, at the same time.
func eachMaster(ctx context.Context, client redis.UniversalClient, do func(context.Context, redis.UniversalClient) error) error {
	if cluster, ok := client.(*redis.ClusterClient); ok {
		return cluster.ForEachMaster(ctx, func(ctx context.Context, node *redis.Client) error { return do(ctx, node) })
	}
	return do(ctx, client)
}
