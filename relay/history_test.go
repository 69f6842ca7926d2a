package relay_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/outboxrelay/outboxrelay/internal/testenv"
	"github.com/outboxrelay/outboxrelay/outbox"
	"github.com/outboxrelay/outboxrelay/relay"
)

// Redis, Postgres and the two together give the same entries: the same positions and the same bytes.
func TestHistoryIsTheSameFromRedisAndFromPostgres(t *testing.T) {
	t.Parallel()
	s := newStack(t)
	s.relay(nil)
	if _, err := s.pool.Exec(t.Context(), "INSERT INTO relay.users (id) VALUES ('u1')"); err != nil {
		t.Fatal(err)
	}
	var ids []int64
	for n := range 60 {
		if n%20 == 10 {
			query := "INSERT INTO relay.program_members VALUES ('u1', 'p1')"
			if n > 20 {
				query = "UPDATE relay.program_members SET is_active = NOT is_active"
			}
			if _, err := s.pool.Exec(t.Context(), query); err != nil {
				t.Fatal(err)
			}
		}
		e := outbox.Event{Program: "p1", Name: outbox.CommentAdded, Data: json.RawMessage(fmt.Sprintf(` { "n" : %d, "z":"\u0000<é>" }`, n))}
		if n%2 == 0 {
			e.Request, e.By = "r\"1\\", outbox.Actor{UserID: "u1", Name: "Ann \u2028 Lee"}
		}
		got, err := outbox.Emit(t.Context(), s.pool, e)
		if err != nil {
			t.Fatal(err)
		}
		ids = append(ids, got...)
	}
	testenv.Eventually(t, 10*time.Second, func() error {
		if n := len(s.log("p1")); n != 63 {
			return fmt.Errorf("%d entries of 63", n)
		}
		return nil
	})
	recent := relay.NewHistory(relay.HistoryConfig{Redis: s.redis, Pool: s.pool})
	deep := relay.NewHistory(relay.HistoryConfig{Redis: openRedis(t, testenv.Redis(t)), Pool: s.pool, RecentTTL: time.Nanosecond}) // an empty Redis that vouches for nothing
	page, err := recent.After(t.Context(), "p1", 0, 1000)
	if err != nil || len(page.Entries) != 63 {
		t.Fatalf("%d entries (%v)", len(page.Entries), err)
	}
	events := 0
	for i, e := range page.Entries {
		if e.Control == nil {
			var f struct {
				ID, Timestamp string
				Data          struct{ N int }
			}
			if err := json.Unmarshal(e.Frame, &f); err != nil || f.ID != fmt.Sprint(ids[events]) || f.Data.N != events {
				t.Errorf("entry %d is %s (%v), want id %d", i, e.Frame, err, ids[events])
			}
			at, err := time.Parse("2006-01-02T15:04:05.000000Z", f.Timestamp)
			if err != nil || e.Position < at.UnixMicro() {
				t.Errorf("entry %d: position %d is below its timestamp %s (%v)", i, e.Position, f.Timestamp, err)
			}
			events++
		}
	}
	for i := -1; i < len(page.Entries); i += 5 {
		after, want := int64(0), page.Entries
		if i >= 0 {
			after, want = page.Entries[i].Position, page.Entries[i+1:]
		}
		for name, h := range map[string]*relay.History{"recent": recent, "deep": deep} {
			got, err := h.After(t.Context(), "p1", after, 10)
			if err != nil || text(got.Entries) != text(want[:min(10, len(want))]) {
				t.Errorf("%s after entry %d: %s\nwant %s (%v)", name, i, text(got.Entries), text(want), err)
			}
			before := page.Entries[len(page.Entries)-1].Position
			got, err = h.Before(t.Context(), "p1", before, after, 10)
			if err != nil {
				t.Error(err)
			}
			for k, e := range got.Entries {
				if at := len(page.Entries) - 2 - k; text([]relay.Entry{e}) != text(page.Entries[at:at+1]) {
					t.Errorf("%s before the last, %d-th: %s, want %s", name, k, text([]relay.Entry{e}), text(page.Entries[at:at+1]))
				}
			}
			if n := min(10, max(0, len(want)-1)); len(got.Entries) != n {
				t.Errorf("%s between entry %d and the last: %d entries, want %d", name, i, len(got.Entries), n)
			}
		}
	}
}

func text(entries []relay.Entry) (s string) {
	for _, e := range entries {
		s += fmt.Sprintf("%d %s %v\n", e.Position, e.Frame, e.Control)
	}
	return s
}

// While retention deletes, a reader that is far behind gets the very positions that were published, or is told that it came too late.
func TestDeepReadsWhileRetentionDeletes(t *testing.T) {
	t.Parallel()
	s := newStack(t)
	const retention = 2 * time.Second
	r := s.relay(func(c *relay.Config) { c.RecentTTL, c.Retention = time.Second, retention })
	stop := s.load()
	deep := relay.NewHistory(relay.HistoryConfig{Redis: s.redis, Pool: s.pool, RecentTTL: time.Nanosecond})
	type published struct {
		position int64
		text     string
	}
	var truth []published // what readers at the end of the log have seen
	cursor := int64(0)
	var expired, compared int
	for r.metric(t, "retention_rows_total") < float64(times(500, 20_000)) || compared < times(100, 1000) || expired == 0 {
		page, err := deep.After(t.Context(), "p0", cursor, 100)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range page.Entries {
			truth = append(truth, published{e.Position, text([]relay.Entry{e})})
			cursor = e.Position
		}
		if len(truth) < 10 {
			continue
		}
		from := compared % len(truth)
		old, err := deep.After(t.Context(), "p0", truth[from].position, 50)
		if errors.Is(err, outbox.ErrExpired) {
			if age := time.Since(time.UnixMicro(truth[from].position)); age < retention { // both by the same machine's clock
				t.Fatalf("a position %v old has expired, retention is %v", age, retention)
			}
			expired++
			truth = truth[from+1:]
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		for k, e := range old.Entries[:min(len(old.Entries), len(truth)-from-1)] {
			if want := truth[from+1+k]; text([]relay.Entry{e}) != want.text {
				t.Fatalf("%d after position %d: %s, want %s", k, truth[from].position, text([]relay.Entry{e}), want.text)
			}
		}
		compared++
	}
	stop()
}

// With no event anywhere for longer than the window every room asked Postgres every five seconds for what couldn't be there, and kept
// those waiting who had missed something.
func TestAQuietProgramIsNotReadFromPostgres(t *testing.T) {
	t.Parallel()
	s := newStack(t)
	s.relay(nil)
	s.emit("p1", nil)
	s.emit("p2", nil)
	newest := func() (position int64) {
		testenv.Eventually(t, 10*time.Second, func() error {
			err := s.pool.QueryRow(t.Context(), "SELECT position FROM relay.ticks ORDER BY position DESC LIMIT 1").Scan(&position)
			if head := s.redis.Get(t.Context(), "socket:events:head").Val(); err == nil && !strings.HasSuffix(head, fmt.Sprint(position)) {
				err = fmt.Errorf("the head is %q, the newest tick %d", head, position)
			}
			return err
		})
		return position
	}
	h := relay.NewHistory(relay.HistoryConfig{Redis: s.redis, Pool: s.pool, RecentTTL: time.Nanosecond})
	read := func(after int64) relay.Page {
		t.Helper()
		page, err := h.After(t.Context(), "p1", after, 10)
		if err != nil {
			t.Fatal(err)
		}
		return page
	}
	s.eventuallyLog("p2", 2)
	at := newest()
	if got := len(read(at - 1_000_000_000).Entries); got != 1 {
		t.Errorf("%d entries behind an old cursor, want 1", got)
	}
	before := s.pool.Stat().AcquireCount()
	if got := read(at); len(got.Entries) > 0 || got.Through != at {
		t.Errorf("behind the newest tick %d: %+v", at, got)
	}
	if got := s.pool.Stat().AcquireCount() - before; got > 0 {
		t.Errorf("Postgres was asked %d times", got)
	}
	s.eventuallyLog("p1", 1, s.emit("p1", nil))
	if got := read(at); len(got.Entries) != 1 {
		t.Errorf("behind the tick before: %+v", got)
	}
}
