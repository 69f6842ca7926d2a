package relay

import (
	"context"
	"fmt"
	"math"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
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

// statements counts what a connection sends.
type statements struct{ atomic.Int32 }

func (s *statements) TraceQueryStart(ctx context.Context, _ *pgx.Conn, _ pgx.TraceQueryStartData) context.Context {
	s.Add(1)
	return ctx
}

func (*statements) TraceQueryEnd(context.Context, *pgx.Conn, pgx.TraceQueryEndData) {}

// counted gives the session a connection whose statements are counted.
func (s *session) counted(t *testing.T) *statements {
	t.Helper()
	config, err := ConnConfig(s.config.DatabaseURL)
	if err != nil {
		t.Fatal(err)
	}
	var sent statements
	config.Tracer = &sent
	if s.conn, err = pgx.ConnectConfig(t.Context(), config); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { closeConn(context.Background(), s.conn) })
	if _, err := s.conn.Exec(t.Context(), sessionLimits, pgx.QueryExecModeSimpleProtocol); err != nil {
		t.Fatal(err)
	}
	return &sent
}

// checkLogs compares each program's log with the newest of its rows in the outbox.
func checkLogs(ctx context.Context, t *testing.T, client *redis.Client, pool *pgxpool.Pool, programs, most int) {
	t.Helper()
	for n := range programs {
		program := fmt.Sprintf("p%d", n)
		rows, err := outbox.ReadHistoryBefore(ctx, pool, program, math.MaxInt64, 0, most, math.MaxInt32)
		if err != nil {
			t.Fatal(err)
		}
		var got, want []string
		for i := range rows {
			want = append(want, fmt.Sprintf("%d %s", rows[i].Position, appendEntry(nil, &rows[i])))
		}
		slices.Reverse(want)
		for _, z := range client.ZRangeWithScores(ctx, keyPrefix+program, 0, -1).Val() {
			got = append(got, fmt.Sprintf("%.0f %s", z.Score, z.Member))
		}
		if !slices.Equal(got, want) {
			t.Errorf("the log of %s has %d entries, want %d, or others", program, len(got), len(want))
		}
	}
}

// Each lost log was refilled by itself, and the batches that it shares with others were read again for each: after a FLUSHALL with 5,000 programs nothing
// new was relayed for minutes.
func TestLostLogsAreRefilledTogether(t *testing.T) {
	t.Parallel()
	const programs, ticks, each = 100, 20, 200 // each program has 42 rows, and p99 more than a chunk of data
	for name, test := range map[string]struct {
		most  int
		found bool                                           // by an append, not by a comparison
		again func(ctx context.Context, redis *redis.Client) // meanwhile, as soon as p99 is there
	}{
		"whole logs":                    {most: 1000},
		"trimmed logs":                  {most: 15},
		"an append misses them":         {most: 1000, found: true},
		"an append misses trimmed logs": {most: 15, found: true},
		"one is lost again":             {most: 1000, again: func(ctx context.Context, redis *redis.Client) { redis.Del(ctx, keyPrefix+"p99") }},
		"all are lost again":            {most: 15, again: func(ctx context.Context, redis *redis.Client) { redis.FlushDB(ctx) }},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, pool, _ := led(t)
			s.log.most = test.most
			sent := s.counted(t)
			ctx := testenv.Context(t, time.Minute)
			emit := func(db interface {
				Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error)
			}, events int,
			) {
				t.Helper()
				_, err := db.Exec(ctx, `INSERT INTO relay.outbox (program_id, event, data) SELECT 'p' || n % $2, 'a:b', json_build_object('x', repeat('x', CASE n % $2 WHEN 99 THEN 60000 ELSE n END))
					FROM generate_series(1, $1) n`, events, programs)
				if err != nil {
					t.Error(err)
				}
			}
			step := func() {
				t.Helper()
				if n, err := s.step(ctx); n == 0 || err != nil {
					t.Fatalf("%d events (%v)", n, err)
				}
			}
			if err := s.openLog(ctx); err != nil {
				t.Fatal(err)
			}
			long, err := pool.Begin(ctx)
			if err != nil {
				t.Fatal(err)
			}
			defer long.Rollback(ctx) //nolint:errcheck // after Commit there is nothing to roll back
			emit(long, each)
			for n := range ticks {
				if n == ticks/2 {
					if err := long.Commit(ctx); err != nil {
						t.Fatal(err)
					}
				}
				emit(pool, each)
				step()
			}
			checkLogs(ctx, t, s.log.redis.(*redis.Client), pool, programs, test.most)
			other := redis.NewClient(s.log.redis.(*redis.Client).Options())
			defer other.Close()
			if err := other.FlushDB(ctx).Err(); err != nil { // which keeps the scripts: nothing fails
				t.Fatal(err)
			}
			lost := false
			s.log.redis.AddHook(afterEach{func(int32) {
				emit(pool, 1) // writers go on
				if test.again != nil && !lost && other.Exists(ctx, keyPrefix+"p99").Val() > 0 {
					lost = true
					test.again(ctx, other)
				}
			}})
			s.suspect = !test.found
			sent.Store(0)
			if test.found {
				emit(pool, each)
				step()
			} else if err := s.publishHead(ctx); err != nil {
				t.Fatal(err)
			}
			if n := sent.Load(); n > programs {
				t.Errorf("%d statements to refill the logs of %d programs", n, programs)
			}
			step()
			checkLogs(ctx, t, other, pool, programs, test.most)
			if head := headPosition(other.Get(ctx, headKey).Val()); head != s.last.Position {
				t.Errorf("the head is %d, want %d", head, s.last.Position)
			}
		})
	}
}

// deletions notes which keys are deleted.
type deletions struct {
	mu   sync.Mutex
	keys []string
}

func (d *deletions) DialHook(next redis.DialHook) redis.DialHook { return next }

func (d *deletions) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		if cmd.Name() == "del" {
			d.mu.Lock()
			d.keys = append(d.keys, fmt.Sprint(cmd.Args()[1:]...))
			d.mu.Unlock()
		}
		return next(ctx, cmd)
	}
}

func (d *deletions) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return next
}

// A new leader publishes the newest tick again. Where a log had been lost, those that had got the tick already passed for somebody else's: each was deleted, with a
// warning, and built anew.
func TestALogIsLostAsALeaderTakesOver(t *testing.T) {
	t.Parallel()
	s, pool, _ := led(t)
	ctx := testenv.Context(t, 20*time.Second)
	if err := s.openLog(ctx); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		_, err := pool.Exec(ctx, "INSERT INTO relay.outbox (program_id, event) SELECT 'p' || n / 20, 'a:b' FROM generate_series(0, 59) n") // more than the first chunk
		if err != nil {
			t.Fatal(err)
		}
		if n, err := s.step(ctx); n != 60 || err != nil {
			t.Fatalf("%d events (%v)", n, err)
		}
	}
	other := redis.NewClient(s.log.redis.(*redis.Client).Options())
	defer other.Close()
	if err := other.Del(ctx, keyPrefix+"p0").Err(); err != nil {
		t.Fatal(err)
	}
	var deleted deletions
	s.log.redis.AddHook(&deleted)
	if err := s.begin(ctx); err != nil {
		t.Fatal(err)
	}
	if len(deleted.keys) > 0 {
		t.Errorf("deleted %q", deleted.keys)
	}
	checkLogs(ctx, t, other, pool, 3, 1000)
	if head := headPosition(other.Get(ctx, headKey).Val()); head != s.last.Position {
		t.Errorf("the head is %d, want %d", head, s.last.Position)
	}
}
