package relay

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/outboxrelay/outboxrelay/internal/testenv"
	"github.com/outboxrelay/outboxrelay/outbox"
)

// A leader that was stopped for a while, and isn't one any more, found entries in Redis that it didn't know: its successor's. It took
// them for foreign and deleted the log; only then did it meet its dead Postgres session. Readers were told too little until the successor
// compared, and could be given a checkpoint above what they hadn't been sent.
func TestAFormerLeaderDeletesNoLog(t *testing.T) {
	t.Parallel()
	pool, url := testenv.DB(t)
	client, err := OpenRedis(testenv.Redis(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close() })
	r, err := New(Config{DatabaseURL: url, Redis: client, Logger: testenv.Logger(t)})
	if err != nil {
		t.Fatal(err)
	}
	conn, err := connect(t.Context(), url, "former leader")
	if err != nil {
		t.Fatal(err)
	}
	server, err := outbox.ReadServer(t.Context(), conn)
	if err != nil {
		t.Fatal(err)
	}
	at := server.Now.UnixMicro()
	s := &session{
		Relay: r, conn: conn, cluster: server.Cluster, used: time.Now(), clockAt: server.Now, clockRead: time.Now(),
		log: newLogWriter(r.config),
	}
	s.log.newest["p1"] = at
	for _, position := range []int64{at, at + 1} { // the second is the successor's
		if err := client.ZAdd(t.Context(), keyPrefix+"p1", redis.Z{Score: float64(position), Member: position}).Err(); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := pool.Exec(t.Context(), "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'former leader' AND datname = current_database()"); err != nil {
		t.Fatal(err)
	}
	if err := s.compare(t.Context(), false); err == nil {
		t.Error("compare ended well without a Postgres session")
	}
	if n := client.ZCard(t.Context(), keyPrefix+"p1").Val(); n != 2 {
		t.Errorf("%d entries are left in the log, want 2", n)
	}
}

// What the logs lack was trimmed by limits that somebody else has set, or nobody knows: the session ends, and the next one fills them again. Where all
// is lost, nothing was trimmed.
func TestLimitsOfSomebodyElse(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name string
		harm func(ctx context.Context, db redis.UniversalClient) error
		want error
	}{
		{"changed", func(ctx context.Context, db redis.UniversalClient) error {
			return db.Set(ctx, limitsKey, "1:1", 0).Err()
		}, errLimits},
		{"deleted", func(ctx context.Context, db redis.UniversalClient) error { return db.Del(ctx, limitsKey).Err() }, errLimits},
		{"all is lost", func(ctx context.Context, db redis.UniversalClient) error { return db.FlushDB(ctx).Err() }, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			s, pool, _ := led(t)
			ctx := testenv.Context(t, 20*time.Second)
			if err := s.openLog(ctx); err != nil {
				t.Fatal(err)
			}
			if _, err := pool.Exec(ctx, "SELECT relay.emit('p1', 'a:b')"); err != nil {
				t.Fatal(err)
			}
			if _, err := s.step(ctx); err != nil {
				t.Fatal(err)
			}
			if err := c.harm(ctx, s.log.redis); err != nil {
				t.Fatal(err)
			}
			s.suspect = true
			if err := s.publishHead(ctx); !errors.Is(err, c.want) {
				t.Fatalf("got %v, want %v", err, c.want)
			}
			if c.want != nil {
				if err := s.openLog(ctx); err != nil {
					t.Fatal(err)
				}
			}
			if held, err := readLimits(ctx, s.log.redis); held != s.log.limits {
				t.Errorf("limits %v, want %v (%v)", held, s.log.limits, err)
			}
			if n := s.log.redis.ZCard(ctx, keyPrefix+"p1").Val(); (n == 0) != (c.want != nil) {
				t.Errorf("%d entries in the log", n)
			}
		})
	}
}

// To see where the logs end, their newest entries were fetched, all at once: 800 programs of 150 KB each were too much for a link of 20 MB/s, and nothing
// was relayed any more.
func TestComparingFetchesNoEntries(t *testing.T) {
	t.Parallel()
	s, pool, _ := led(t)
	ctx := testenv.Context(t, 30*time.Second)
	if err := s.openLog(ctx); err != nil {
		t.Fatal(err)
	}
	if _, err := pool.Exec(ctx, "SELECT relay.emit('p' || n, 'a:b', json_build_object('x', repeat('x', 200000))) FROM generate_series(1, 10) n"); err != nil {
		t.Fatal(err)
	}
	if n, err := s.step(ctx); n != 10 || err != nil {
		t.Fatalf("%d events (%v)", n, err)
	}
	var bytes int
	s.log.redis.AddHook(replies(func(n int) { bytes += n }))
	s.suspect = true
	if err := s.publishHead(ctx); err != nil {
		t.Fatal(err)
	}
	if bytes == 0 || bytes > 50_000 {
		t.Errorf("%d bytes were read from Redis", bytes)
	}
}

// replies tells the bytes of each reply, with those of its command.
type replies func(bytes int)

func (r replies) DialHook(next redis.DialHook) redis.DialHook { return next }

func (r replies) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		err := next(ctx, cmd)
		r(len(cmd.String()))
		return err
	}
}

func (r replies) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		err := next(ctx, cmds)
		for _, cmd := range cmds {
			r(len(cmd.String()))
		}
		return err
	}
}
