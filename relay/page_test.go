package relay_test

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/outboxrelay/outboxrelay/outbox"
	"github.com/outboxrelay/outboxrelay/relay"
)

// end lies above every position.
const end = int64(1) << 53

// pages reads all of a program behind after, forwards or backwards, and returns it in the order of the log and the bytes of the largest page.
func pages(t *testing.T, h *relay.History, after int64, limit int, backwards bool) (all []relay.Entry, largest int) {
	t.Helper()
	before := end
	for {
		var page relay.Page
		var err error
		if backwards {
			page, err = h.Before(t.Context(), "p1", before, after, limit)
		} else {
			page, err = h.After(t.Context(), "p1", after, limit)
		}
		if err != nil {
			t.Fatal(err)
		}
		bytes := 0
		for _, e := range page.Entries {
			bytes += len(e.Frame)
			before = e.Position
		}
		largest, after = max(largest, bytes), max(after, page.Through)
		if all = append(all, page.Entries...); !page.More {
			break
		}
		if len(page.Entries) == 0 || len(page.Entries) > limit {
			t.Fatalf("a page of %d entries, with more to come", len(page.Entries))
		}
	}
	if backwards {
		slices.Reverse(all)
	}
	return all, largest
}

// A page was bounded by its entries alone: of the largest events, a catch-up of ten thousand was 2.6 GB.
func TestAPageHasAboutAMiB(t *testing.T) {
	t.Parallel()
	s := newStack(t)
	s.relay(nil)
	var ids []int64
	for n := range 150 {
		size := 10
		if n%100 < 30 {
			size = 250_000
		}
		ids = append(ids, s.emit("p1", json.RawMessage(fmt.Sprintf(`{"n":%d,"x":%q}`, n, strings.Repeat("x", size)))))
	}
	s.eventuallyLog("p1", ids...)
	want, _ := pages(t, relay.NewHistory(relay.HistoryConfig{Redis: s.redis, Pool: s.pool}), 0, 1, false)
	if len(want) != len(ids) {
		t.Fatalf("%d entries of %d", len(want), len(ids))
	}
	for name, window := range map[string]time.Duration{"Redis": time.Hour, "Postgres": time.Nanosecond} {
		h := relay.NewHistory(relay.HistoryConfig{Redis: s.redis, Pool: s.pool, RecentTTL: window})
		for _, backwards := range []bool{false, true} {
			got, largest := pages(t, h, 0, 10_000, backwards)
			if text(got) != text(want) {
				t.Errorf("from %s, backwards %v: %d entries, want %d, or others", name, backwards, len(got), len(want))
			}
			if largest > 1<<20+outbox.MaxDataBytes {
				t.Errorf("from %s, backwards %v: a page of %d bytes", name, backwards, largest)
			}
		}
	}
}

// A page is read from Redis in steps. Between two of them a log may be lost and come back in part, from its oldest entry on: what lies between isn't there.
func TestALogIsLostBetweenTheStepsOfAPage(t *testing.T) {
	t.Parallel()
	s := newStack(t)
	r := s.relay(nil)
	var ids []int64
	for range 60 {
		ids = append(ids, s.emit("p1", nil))
	}
	s.eventuallyLog("p1", ids...)
	r.stop()
	h := relay.NewHistory(relay.HistoryConfig{Redis: s.redis, Pool: s.pool})
	want, _ := pages(t, h, 0, 100, true)
	s.redis.AddHook(&afterFirst{do: func() { s.redis.ZRemRangeByRank(t.Context(), "socket:events:program:p1", 20, -1) }})
	got, err := h.Before(t.Context(), "p1", end, want[0].Position-1, 100)
	if err != nil {
		t.Fatal(err)
	}
	slices.Reverse(got.Entries)
	if n := len(got.Entries); n == 0 || text(got.Entries) != text(want[len(want)-n:]) {
		t.Errorf("%d entries, not the newest without a hole", n)
	}
}

// afterFirst does something after the first pipeline.
type afterFirst struct {
	once sync.Once
	do   func()
}

func (a *afterFirst) DialHook(next redis.DialHook) redis.DialHook          { return next }
func (a *afterFirst) ProcessHook(next redis.ProcessHook) redis.ProcessHook { return next }

func (a *afterFirst) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		err := next(ctx, cmds)
		a.once.Do(a.do)
		return err
	}
}
