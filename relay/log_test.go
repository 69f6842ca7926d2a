package relay

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"pgregory.net/rapid"

	"github.com/outboxrelay/outboxrelay/internal/testenv"
)

// model is a relay and its outbox without Postgres: the program's true log, and how much of it has been published. What it drives is
// the real append script on a real Redis.
type model struct {
	redis  *redis.Client
	log    *Log
	truth  []int64 // positions, ascending: all ticks so far
	tick   int     // truth[:tick] were published before the newest tick
	saved  string  // a DUMP of the key at some earlier time, to be restored
	cursor int64   // of a reader that claims completeness
	read   []int64
	clock  int64
}

const (
	modelKey    = keyPrefix + "p1"
	modelWindow = time.Hour // nothing is trimmed by age here; by count it is
	modelMost   = 12
)

func newModelLog(client *redis.Client) *Log {
	return &Log{redis: client, window: modelWindow, most: modelMost, log: slog.New(slog.DiscardHandler), newest: map[string]int64{}}
}

func modelPart(positions []int64) part {
	p := part{program: "p1", positions: positions}
	for _, n := range positions {
		p.frames = append(p.frames, fmt.Appendf(nil, "event %d", n))
	}
	return p
}

// publish appends the newest tick, and refills like a session does when the log has lost its end.
func (m *model) publish(ctx context.Context, t *rapid.T, l *Log) {
	batch := m.truth[m.tick:]
	if len(batch) == 0 {
		return
	}
	behind, err := l.append(ctx, []part{modelPart(batch)})
	if err != nil {
		t.Fatalf("append: %v", err)
	}
	if len(behind) > 0 {
		delete(l.newest, "p1")
		if behind, err = l.append(ctx, []part{modelPart(m.truth)}); err != nil || len(behind) > 0 {
			t.Fatalf("refill: behind %v, %v", behind, err)
		}
	}
	m.tick = len(m.truth)
}

// commit adds a tick; the one before has been published completely.
func (m *model) commit(n int) {
	for range n {
		m.clock++
		m.truth = append(m.truth, m.clock)
	}
}

// newSession is what a new leader knows: everything through the tick before the newest, from Postgres.
func (m *model) newSession() *Log {
	l := newModelLog(m.redis)
	if m.tick > 0 {
		l.newest["p1"] = m.truth[m.tick-1]
	}
	return l
}

// check reads forward from the cursor as a room does. If Redis vouches for the cursor, what it gives must be a piece of the truth without a
// hole that begins right after the cursor.
func (m *model) check(ctx context.Context, t *rapid.T) {
	found, err := m.redis.ZRangeByScoreWithScores(ctx, modelKey, &redis.ZRangeBy{Min: fmt.Sprintf("(%d", m.cursor), Max: "+inf"}).Result()
	if err != nil {
		t.Fatal(err)
	}
	count := m.redis.ZCard(ctx, modelKey).Val()
	first := m.redis.ZRangeWithScores(ctx, modelKey, 0, 0).Val()
	if len(first) > 0 && count >= modelMost && int64(first[0].Score) > m.cursor {
		m.cursor = 0 // trimmed by count: a reader asks Postgres, and begins anew here
		m.read = nil
		if n := len(m.truth[:m.tick]); n > 0 {
			m.cursor = m.truth[n-1]
			m.read = slices.Clone(m.truth[:n])
		}
		return
	}
	for _, z := range found {
		m.read = append(m.read, int64(z.Score))
		m.cursor = int64(z.Score)
	}
	if !slices.Equal(m.read, m.truth[:len(m.read)]) {
		t.Fatalf("a reader got %v, the truth is %v", m.read, m.truth)
	}
}

// Whatever happens to the relay and to Redis, no reader that Redis vouches for ever meets a hole, and once the relay has had its way the log
// is whole. (With a script that adds without looking at the predecessor this fails within a few runs.)
func TestAppendNeverWritesOverAHole(t *testing.T) {
	client := modelRedis(t)
	ctx := t.Context()
	rapid.Check(t, func(rt *rapid.T) {
		if err := client.FlushAll(ctx).Err(); err != nil {
			rt.Fatal(err)
		}
		m := &model{redis: client, log: newModelLog(client)}
		if err := m.log.load(ctx); err != nil {
			rt.Fatal(err)
		}
		var zombie *Log // a former leader …
		var late []int64
		rt.Repeat(map[string]func(*rapid.T){
			"": func(rt *rapid.T) { m.check(ctx, rt) },
			"tick": func(rt *rapid.T) {
				m.publish(ctx, rt, m.log)
				m.commit(rapid.IntRange(1, 5).Draw(rt, "events"))
				m.publish(ctx, rt, m.log)
			},
			"crash between COMMIT and the appends": func(rt *rapid.T) {
				m.publish(ctx, rt, m.log)
				m.commit(rapid.IntRange(1, 5).Draw(rt, "events"))
				zombie, late = m.log, slices.Clone(m.truth[m.tick:]) // … that still holds its last batch
				m.log = m.newSession()
			},
			"crash in the middle of the appends": func(rt *rapid.T) {
				m.publish(ctx, rt, m.log)
				m.commit(rapid.IntRange(2, 5).Draw(rt, "events"))
				some := m.truth[m.tick : len(m.truth)-1]
				if _, err := m.log.append(ctx, []part{modelPart(some)}); err != nil {
					rt.Fatal(err)
				}
				m.log = m.newSession()
			},
			"the zombie's batch": func(rt *rapid.T) {
				if zombie == nil {
					rt.Skip()
				}
				_, _ = zombie.append(ctx, []part{modelPart(late)}) // refused or repeated, as it may be
				zombie = nil
			},
			"flush": func(rt *rapid.T) {
				if err := client.FlushDB(ctx).Err(); err != nil {
					rt.Fatal(err)
				}
			},
			"save": func(*rapid.T) { m.saved = client.Dump(ctx, modelKey).Val() },
			"an older state comes back": func(rt *rapid.T) {
				if m.saved == "" {
					rt.Skip()
				}
				if err := client.RestoreReplace(ctx, modelKey, 0, m.saved).Err(); err != nil {
					rt.Fatal(err)
				}
			},
		})
		m.publish(ctx, rt, m.log)
		m.commit(1)
		m.publish(ctx, rt, m.log)
		m.check(ctx, rt)
		if len(m.read) != len(m.truth) {
			rt.Fatalf("in the end a reader has %d of %d events", len(m.read), len(m.truth))
		}
	})
}

func modelRedis(t *testing.T) *redis.Client {
	t.Helper()
	client, err := OpenRedis(testenv.Redis(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close() })
	return client.(*redis.Client)
}
