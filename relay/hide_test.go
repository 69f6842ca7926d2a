package relay

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/outboxrelay/outboxrelay/internal/testenv"
)

// afterCommands looks at Redis after every command that deletes or appends.
type afterCommands struct{ look func(cmd string) }

func (a afterCommands) DialHook(next redis.DialHook) redis.DialHook { return next }

func (a afterCommands) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		err := next(ctx, cmd)
		if cmd.Name() == "del" && cmd.Args()[1] != headKey {
			a.look(cmd.String())
		}
		return err
	}
}

func (a afterCommands) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		err := next(ctx, cmds)
		for _, cmd := range cmds {
			if cmd.Err() == nil && (cmd.Name() == "del" || cmd.Name() == "evalsha") {
				a.look(cmd.String())
			}
		}
		return err
	}
}

// A reader takes a log that is missing for complete up to the head. While the relay itself had deleted one, or had not refilled it yet, clients got a
// checkpoint above events that they had never been sent.
func TestNoHeadIsAboveALogThatIsGone(t *testing.T) {
	t.Parallel()
	key := keyPrefix + "p1"
	for name, harm := range map[string]func(ctx context.Context, db *redis.Client, s *session) error{
		"not a log": func(ctx context.Context, db *redis.Client, _ *session) error {
			return db.Set(ctx, key, "somebody's", 0).Err()
		},
		"foreign": func(ctx context.Context, db *redis.Client, s *session) error {
			return db.ZAdd(ctx, key, redis.Z{Score: float64(s.last.Position + 10_000_000), Member: "{}"}).Err()
		},
		"lost": func(ctx context.Context, db *redis.Client, _ *session) error { return db.Del(ctx, key).Err() },
		"another history": func(ctx context.Context, db *redis.Client, s *session) error {
			return db.Set(ctx, headKey, fmt.Sprintf("%d:1:%d", s.cluster.SystemID+1, s.last.Position), 0).Err()
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, pool, _ := led(t)
			ctx := testenv.Context(t, 20*time.Second)
			if err := s.openLog(ctx); err != nil {
				t.Fatal(err)
			}
			event := func() {
				t.Helper()
				if _, err := pool.Exec(ctx, "INSERT INTO relay.outbox (program_id, event, data) VALUES ('p1', 'a:b', '{}')"); err != nil {
					t.Fatal(err)
				}
				if n, err := s.step(ctx); n != 1 || err != nil {
					t.Fatalf("%d events (%v)", n, err)
				}
			}
			event()
			event()
			other := redis.NewClient(s.log.redis.(*redis.Client).Options())
			defer other.Close()
			if err := harm(ctx, other, s); err != nil {
				t.Fatal(err)
			}
			var looks int
			s.log.redis.AddHook(afterCommands{func(cmd string) {
				looks++
				n := other.ZCard(ctx, key).Val()
				if head := other.Get(ctx, headKey).Val(); n < 2 && headPosition(head) != 0 {
					t.Errorf("after %.80s: the head is %s, and the log has %d entries of 2", cmd, head, n)
				}
			}})
			switch name {
			case "another history":
				if err := s.openLog(ctx); err != nil {
					t.Fatal(err)
				}
				if n := other.Exists(ctx, key, headKey).Val(); n != 0 {
					t.Errorf("%d keys are left", n)
				}
				return
			case "not a log": // which an append meets
				event()
			default:
				s.suspect = true
				if err := s.publishHead(ctx); err != nil {
					t.Fatal(err)
				}
				event()
			}
			head := fmt.Sprintf("%d:%d:%d", s.cluster.SystemID, s.cluster.Timeline, s.last.Position)
			if n, at := other.ZCard(ctx, key).Val(), other.Get(ctx, headKey).Val(); n != 3 || at != head {
				t.Errorf("%d entries, head %q, want 3 and %q", n, at, head)
			}
			if looks == 0 {
				t.Error("nothing was deleted or appended: this test shows nothing")
			}
		})
	}
}

// once does something after the first pipeline with a command of that name.
type once struct {
	command string
	do      func()
	done    bool
}

func (o *once) DialHook(next redis.DialHook) redis.DialHook          { return next }
func (o *once) ProcessHook(next redis.ProcessHook) redis.ProcessHook { return next }

func (o *once) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		err := next(ctx, cmds)
		if !o.done && cmds[0].Name() == o.command {
			o.done = true
			o.do()
		}
		return err
	}
}

// The first log to be missed was refilled, and the head set as if no other could be gone.
func TestNoHeadBeforeAllLogsAreThereAgain(t *testing.T) {
	t.Parallel()
	for name, lose := range map[string]func(t *testing.T, s *session, flush func()){
		"between appends": func(_ *testing.T, _ *session, flush func()) { flush() },
		"while they are compared": func(t *testing.T, s *session, flush func()) {
			if err := s.log.redis.Del(t.Context(), keyPrefix+"p1").Err(); err != nil {
				t.Fatal(err)
			}
			s.suspect = true
			s.log.redis.AddHook(&once{command: "zcount", do: flush})
			if err := s.publishHead(t.Context()); err != nil {
				t.Fatal(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, pool, _ := led(t)
			ctx := testenv.Context(t, 20*time.Second)
			if err := s.openLog(ctx); err != nil {
				t.Fatal(err)
			}
			event := func(program string) {
				t.Helper()
				if _, err := pool.Exec(ctx, "INSERT INTO relay.outbox (program_id, event, data) VALUES ($1, 'a:b', '{}')", program); err != nil {
					t.Fatal(err)
				}
				if n, err := s.step(ctx); n != 1 || err != nil {
					t.Fatalf("%d events (%v)", n, err)
				}
			}
			event("p1")
			event("p2")
			other := redis.NewClient(s.log.redis.(*redis.Client).Options())
			defer other.Close()
			lose(t, s, func() { // which keeps the scripts: nothing fails
				if err := other.FlushDB(ctx).Err(); err != nil {
					t.Error(err)
				}
			})
			event("p1")
			for program, want := range map[string]int64{"p1": 2, "p2": 1} {
				if n := other.ZCard(ctx, keyPrefix+program).Val(); n != want {
					t.Errorf("the head is %s, and the log of %s has %d entries of %d", other.Get(ctx, headKey).Val(), program, n, want)
				}
			}
		})
	}
}
