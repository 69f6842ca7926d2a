package main

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/redis/go-redis/v9"

	"github.com/outboxrelay/outboxrelay/relay"
)

// The key and the channel that the check touches are those of the protocol that hold no event.
const (
	redisHead  = "socket:events:head"
	redisNodes = "socket:events:nodes"
)

// redis checks the server as the user in REDIS_URL.
func (d *doctor) redis(ctx context.Context) {
	client, err := relay.OpenRedis(d.config.redisURL)
	if err != nil {
		return // the setting has been found bad
	}
	defer func() { _ = client.Close() }()
	reachable := d.check(ctx, "redis", "reachable, and "+redisHead+" can be read", func(ctx context.Context) error {
		if err := client.Get(ctx, redisHead).Err(); err != nil && !errors.Is(err, redis.Nil) {
			return fmt.Errorf("GET %s: %w: start it, or correct REDIS_URL and the user's rights (docs/SECURITY.md)", redisHead, err)
		}
		return nil
	})
	if !reachable {
		return
	}
	d.check(ctx, "redis", "maxmemory-policy is noeviction", func(ctx context.Context) error { return neverEvicts(ctx, client) })
	d.check(ctx, "redis", "a subscription works", func(ctx context.Context) error { return d.subscribe(ctx, client) })
}

// neverEvicts asks each master by INFO: managed services often forbid CONFIG.
func neverEvicts(ctx context.Context, client redis.UniversalClient) error {
	ask := func(ctx context.Context, one redis.Cmdable) error {
		info, err := one.Info(ctx, "memory").Result()
		if err != nil {
			return fmt.Errorf("INFO memory: %w: allow it to this user (docs/SECURITY.md), or see yourself that maxmemory-policy is noeviction", err)
		}
		for line := range strings.Lines(info) {
			if policy, ok := strings.CutPrefix(strings.TrimSpace(line), "maxmemory_policy:"); ok && policy != "noeviction" {
				return fmt.Errorf("maxmemory-policy is %s, so that logs may vanish: CONFIG SET maxmemory-policy noeviction", policy)
			}
		}
		return nil
	}
	if cluster, ok := client.(*redis.ClusterClient); ok {
		return cluster.ForEachMaster(ctx, func(ctx context.Context, one *redis.Client) error { return ask(ctx, one) })
	}
	return ask(ctx, client)
}

// subscribe waits for the confirmation of a subscription and, where this role publishes, for a message. Nodes take no notice of it.
func (d *doctor) subscribe(ctx context.Context, client redis.UniversalClient) error {
	kind, subscribe, publish := "", client.Subscribe, client.Publish
	sharded, err := relay.Sharded(ctx, client)
	if err != nil {
		return fmt.Errorf("%w: allow it to this user (docs/SECURITY.md)", err)
	}
	if sharded {
		kind, subscribe, publish = "S", client.SSubscribe, client.SPublish
	}
	send := func() error {
		if err := publish(ctx, redisNodes, "").Err(); err != nil {
			return fmt.Errorf("%sPUBLISH %s: %w: allow it to this user (docs/SECURITY.md)", kind, redisNodes, err)
		}
		return nil
	}
	if !d.config.serves() {
		return send()
	}
	pubsub := subscribe(ctx, redisNodes)
	defer func() { _ = pubsub.Close() }()
	if _, err := pubsub.ReceiveTimeout(ctx, connectTimeout); err != nil {
		return fmt.Errorf("%sSUBSCRIBE %s: %w: allow it to this user (docs/SECURITY.md)", kind, redisNodes, err)
	}
	if !d.config.relays() {
		return nil
	}
	if err := send(); err != nil {
		return err
	}
	if _, err := pubsub.ReceiveTimeout(ctx, connectTimeout); err != nil {
		return fmt.Errorf("a message on %s never arrived: %w", redisNodes, err)
	}
	return nil
}
