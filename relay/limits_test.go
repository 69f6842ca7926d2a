package relay_test

import (
	"errors"
	"testing"
	"time"

	"github.com/outboxrelay/outboxrelay/internal/testenv"
	"github.com/outboxrelay/outboxrelay/relay"
)

// A reader whose limits were above those that a log had been trimmed by took it for complete: after LOG_LIMIT or RECENT_EVENTS_TTL had been
// raised, who came back missed what was no longer there, and wasn't told.
func TestLimitsThatAreRaised(t *testing.T) {
	t.Parallel()
	for name, set := range map[string]func(*relay.Config){
		"entries": func(c *relay.Config) { c.LogLimit = 3 },
		"age":     func(c *relay.Config) { c.RecentTTL = time.Second },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newStack(t)
			reader := relay.NewHistory(relay.HistoryConfig{Redis: s.redis, Pool: s.pool, RecentTTL: time.Hour, LogLimit: 1000})
			r := s.relay(set)
			var ids []int64
			testenv.Eventually(t, 20*time.Second, func() error { // until the first has been trimmed
				ids = append(ids, s.emit("p1", nil))
				if log := s.log("p1"); len(log) == 0 || log[0].ID == strs(ids)[0] {
					return errors.New("nothing was trimmed")
				}
				return nil
			})
			check := func(when string) {
				t.Helper()
				for _, backwards := range []bool{false, true} {
					if got, _ := pages(t, reader, time.Now().Add(-time.Minute).UnixMicro(), 1000, backwards); len(got) != len(ids) {
						t.Errorf("%s, backwards %v: %d entries of %d", when, backwards, len(got), len(ids))
					}
				}
			}
			testenv.Eventually(t, 10*time.Second, func() error {
				if log := s.log("p1"); len(log) == 0 || log[len(log)-1].ID != strs(ids)[len(ids)-1] {
					return errors.New("the newest isn't there")
				}
				return nil
			})
			check("by less than what the reader was told")
			r.stop()
			check("without a relay")
			s.relay(func(c *relay.Config) { c.RecentTTL, c.LogLimit = time.Hour, 1000 })
			s.eventuallyLog("p1", ids...) // in Redis
			check("raised")
			ids = append(ids, s.emit("p1", nil))
			s.eventuallyLog("p1", ids...)
			check("later")
		})
	}
}

// Nothing says how a log was trimmed: a reader doesn't rely on it.
func TestLimitsThatAreMissing(t *testing.T) {
	t.Parallel()
	s := newStack(t)
	r := s.relay(nil)
	ids := []int64{s.emit("p1", nil), s.emit("p1", nil)}
	s.eventuallyLog("p1", ids...)
	r.stop()
	s.redis.ZRemRangeByRank(t.Context(), "socket:events:program:p1", 0, 0) // as if by limits that are unknown
	if n := s.redis.Del(t.Context(), "socket:events:limits").Val(); n != 1 {
		t.Fatalf("%d keys deleted", n)
	}
	reader := relay.NewHistory(relay.HistoryConfig{Redis: s.redis, Pool: s.pool})
	if got, _ := pages(t, reader, 0, 10, false); len(got) != 2 {
		t.Errorf("%d entries of 2", len(got))
	}
	s.relay(nil)
	s.eventuallyLog("p1", ids...)
	if got := s.redis.Get(t.Context(), "socket:events:limits").Val(); got != "300000000:10000" {
		t.Errorf("the limits are %q", got)
	}
}
