package relay

import (
	"context"
	"errors"
	"fmt"
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
	redis *redis.Client
	log   *logWriter
	truth []int64 // positions, ascending: all ticks so far
	tick  int     // truth[:tick] were published before the newest tick
	saved string  // a DUMP of the key at some earlier time, to be restored
	clock int64
}

const (
	modelKey    = keyPrefix + "p1"
	modelWindow = time.Hour // nothing is trimmed by age here; by count it is
	modelMost   = 12
)

func newModelLog(client *redis.Client) *logWriter {
	l := newLogWriter(Config{Redis: client, RecentTTL: modelWindow, LogLimit: modelMost})
	l.now = func() int64 { return 0 }
	return l
}

func modelPart(positions []int64) part {
	p := part{program: "p1", positions: positions}
	for _, n := range positions {
		p.frames = append(p.frames, fmt.Appendf(nil, "event %d", n))
	}
	return p
}

// publish appends the newest tick, and refills like a session does when the log has lost its end.
func (m *model) publish(ctx context.Context, t *rapid.T, l *logWriter) {
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
func (m *model) newSession() *logWriter {
	l := newModelLog(m.redis)
	if m.tick > 0 {
		l.newest["p1"] = m.truth[m.tick-1]
	}
	return l
}

// check reads forward from a cursor as a room does. If Redis vouches for the cursor, what it gives must be a piece of the truth without
// a hole that begins right after the cursor. It returns how much of the truth the reader has then.
func (m *model) check(ctx context.Context, t *rapid.T, have int) int {
	cursor := int64(0)
	if have > 0 {
		cursor = m.truth[have-1]
	}
	found, err := m.redis.ZRangeByScoreWithScores(ctx, modelKey, &redis.ZRangeBy{Min: fmt.Sprintf("(%d", cursor), Max: "+inf"}).Result()
	if err != nil {
		t.Fatal(err)
	}
	first := m.redis.ZRangeWithScores(ctx, modelKey, 0, 0).Val()
	if len(first) > 0 && m.redis.ZCard(ctx, modelKey).Val() >= modelMost && int64(first[0].Score) > cursor {
		return have // trimmed by count: Redis doesn't vouch, and the reader asks Postgres
	}
	for _, z := range found {
		if have == len(m.truth) || int64(z.Score) != m.truth[have] {
			t.Fatalf("after %d a reader met %v, the truth is %v", cursor, found, m.truth)
		}
		cursor = int64(z.Score)
		have++
	}
	return have
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
		var zombie *logWriter // a former leader …
		var late []int64
		rt.Repeat(map[string]func(*rapid.T){
			"readers come back": func(rt *rapid.T) {
				for have := range len(m.truth) + 1 {
					m.check(ctx, rt, have)
				}
			},
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
		for have := max(0, len(m.truth)-modelMost+1); have < len(m.truth); have++ {
			if got := m.check(ctx, rt, have); got != len(m.truth) {
				rt.Fatalf("in the end a reader has %d of %d events", got, len(m.truth))
			}
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

// An entry below the newest that isn't there, or an append that doesn't fit what is there, means that somebody else writes to this log.
func TestAppendRefusesWhatItsHistoryDoesNotExplain(t *testing.T) {
	client := modelRedis(t)
	l := newModelLog(client)
	if err := l.load(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := l.append(t.Context(), []part{modelPart([]int64{10, 50})}); err != nil {
		t.Fatal(err)
	}
	other := newModelLog(client)
	other.newest["p1"] = 10
	for _, positions := range [][]int64{{30}, {10, 30}, {60}} {
		if _, err := other.append(t.Context(), []part{modelPart(positions)}); !errors.Is(err, errLate) {
			t.Errorf("append of %v after 10 to a log of 10, 50: error %v, want errLate", positions, err)
		}
	}
	if _, err := other.append(t.Context(), []part{modelPart([]int64{10, 50})}); err != nil {
		t.Errorf("a repeated append: %v", err)
	}
	if n := client.ZCard(t.Context(), modelKey).Val(); n != 2 {
		t.Errorf("%d entries, want the first two", n)
	}
}
