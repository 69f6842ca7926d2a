package relay

import (
	"errors"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/outboxrelay/outboxrelay/internal/testenv"
)

// All keys had to be looked at within one attempt's three seconds, and the next one began at the first key: with many keys of others, or a slow
// way to Redis, a new history never began.
func TestALogIsClearedAmongManyKeys(t *testing.T) {
	t.Parallel()
	s, _, _ := led(t)
	options := s.config.Redis.(*redis.Client).Options()
	direct, slow := s.config.Redis, testenv.Proxy(t, options.Addr)
	fill := redis.NewScript(`for n = 1, 100000 do redis.call('SET', 'other:' .. n, '') end
		for n = 1, 2000 do redis.call('ZADD', ARGV[1] .. 'p' .. n, 1, 'x') end`)
	if err := fill.Run(t.Context(), direct, nil, keyPrefix).Err(); err != nil && !errors.Is(err, redis.Nil) {
		t.Fatal(err)
	}
	if err := direct.Set(t.Context(), headKey, "1:1:1", 0).Err(); err != nil {
		t.Fatal(err)
	}
	client, err := OpenRedis("redis://" + slow.Addr())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close() })
	s.log.redis = client
	slow.Latency(20 * time.Millisecond) // a hundred steps, 40 ms each
	began := time.Now()
	if err := s.openLog(testenv.Context(t, 30*time.Second)); err != nil {
		t.Fatalf("after %v: %v", time.Since(began), err)
	}
	if took := time.Since(began); took < redisTimeout {
		t.Errorf("it took %v only: this test shows nothing", took)
	}
	if why := s.health.problems(); len(why) > 0 {
		t.Errorf("not ready: %v", why)
	}
	left, err := direct.Keys(t.Context(), "socket:events:*").Result()
	if others := direct.DBSize(t.Context()).Val() - int64(len(left)); err != nil || len(left) != 1 || left[0] != limitsKey || others != 100_000 {
		t.Errorf("%v are left and %d others, want %s and 100000 (%v)", left, others, limitsKey, err)
	}
}
