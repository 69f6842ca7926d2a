package relay

import (
	"context"
	"fmt"
	"sync"

	"github.com/redis/go-redis/v9"
)

const scanned = 1000 // keys looked at in one step, whosever they are

// clear removes every log and the head, for a new history. Meanwhile the head is nobody's: whatever dies, the logs must be cleared again, and no
// reader takes one that is gone for complete.
func (s *session) clear(ctx context.Context) error {
	err := s.withRedis(ctx, func(ctx context.Context) error { return s.log.redis.Set(ctx, headKey, "0:0:0", 0).Err() })
	if err != nil {
		return fmt.Errorf("set %s: %w", headKey, err)
	}
	for c := (clearing{log: s.log}); !c.done; {
		if err := s.withRedis(ctx, c.step); err != nil {
			return err
		}
		if err := s.keepAlive(ctx); err != nil {
			return err
		}
	}
	err = s.withRedis(ctx, func(ctx context.Context) error {
		if err := s.log.redis.Del(ctx, headKey).Err(); err != nil {
			return fmt.Errorf("delete %s: %w", headKey, err)
		}
		return nil
	})
	s.log.newest, s.log.head = map[string]int64{}, ""
	return err
}

// clearing removes the logs in steps, each of which has a deadline of its own: a Redis may hold any number of other keys. A step that fails begins
// anew, with the masters of then: a cursor means nothing to another server.
type clearing struct {
	log     *logWriter
	masters []redis.UniversalClient // the first is being scanned
	cursor  uint64
	begun   bool
	done    bool
}

func (c *clearing) step(ctx context.Context) (err error) {
	defer func() {
		if err != nil {
			*c = clearing{log: c.log}
			err = fmt.Errorf("clear the logs in Redis: %w", err)
		}
	}()
	if !c.begun {
		if c.masters, err = masters(ctx, c.log.redis); err != nil {
			return err
		}
		c.begun = true
	}
	if len(c.masters) == 0 {
		c.done = true
		return nil
	}
	keys, next, err := c.masters[0].Scan(ctx, c.cursor, keyPrefix+"*", scanned).Result()
	if err != nil {
		return err
	}
	if len(keys) > 0 {
		pipe := c.log.redis.Pipeline()
		for _, key := range keys {
			pipe.Del(ctx, key)
		}
		if _, err := pipe.Exec(ctx); err != nil {
			return err
		}
	}
	if c.cursor = next; next == 0 {
		c.masters = c.masters[1:]
	}
	return nil
}

// masters lists the server, or every master of a Cluster.
func masters(ctx context.Context, client redis.UniversalClient) (list []redis.UniversalClient, err error) {
	var mu sync.Mutex
	err = eachMaster(ctx, client, func(_ context.Context, node redis.UniversalClient) error {
		mu.Lock()
		defer mu.Unlock()
		list = append(list, node)
		return nil
	})
	return list, err
}
