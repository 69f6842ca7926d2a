package relay

import (
	"context"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/outboxrelay/outboxrelay/internal/testenv"
	"github.com/outboxrelay/outboxrelay/outbox"
)

// afterEach does something after each pipeline.
type afterEach struct{ do func(n int32) }

func (a afterEach) DialHook(next redis.DialHook) redis.DialHook          { return next }
func (a afterEach) ProcessHook(next redis.ProcessHook) redis.ProcessHook { return next }

func (a afterEach) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	var n atomic.Int32
	return func(ctx context.Context, cmds []redis.Cmder) error {
		err := next(ctx, cmds)
		a.do(n.Add(1))
		return err
	}
}

// A log of several pages that was lost between two of them was sent the second one again and again: no program got anything until the session ended.
func TestALogThatIsLostWhileItIsRefilled(t *testing.T) {
	t.Parallel()
	const rows = 50 // of 200 KB, on pages of 8 MiB
	for name, deletions := range map[string]int32{"once": 1, "again and again": 1000} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, pool, _ := led(t)
			if _, err := pool.Exec(t.Context(), `INSERT INTO relay.outbox (program_id, event, data)
				SELECT 'p1', 'a:b', json_build_object('a', repeat('x', 200000)) FROM generate_series(1, $1)`, rows); err != nil {
				t.Fatal(err)
			}
			ctx := testenv.Context(t, 20*time.Second)
			var err error
			if s.last, err = outbox.CommitLarge(ctx, s.conn, outbox.Tick{Snapshot: outbox.Genesis}, s.cluster); err != nil {
				t.Fatal(err)
			}
			if err := s.log.load(ctx); err != nil {
				t.Fatal(err)
			}
			options := s.log.redis.(*redis.Client).Options()
			other := redis.NewClient(options)
			defer other.Close()
			s.log.redis.AddHook(afterEach{func(n int32) {
				if n <= deletions {
					other.Del(ctx, keyPrefix+"p1")
				}
			}})
			err = s.refill(ctx, "p1")
			if deletions > maxRefills {
				if err == nil || ctx.Err() != nil || !strings.Contains(err.Error(), "does something delete or evict it?") {
					t.Errorf("refill: %v, want it to give up", err)
				}
				return
			}
			if n := other.ZCard(ctx, keyPrefix+"p1").Val(); err != nil || n != rows {
				t.Errorf("%d entries, want %d (%v)", n, rows, err)
			}
		})
	}
}
