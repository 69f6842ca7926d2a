package relay_test

import (
	"fmt"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/outboxrelay/outboxrelay/internal/testenv"
	"github.com/outboxrelay/outboxrelay/outbox"
)

// says waits until the relay gives a reason that matches, and returns it.
func (r *running) says(t *testing.T, pattern string) (found []string) {
	t.Helper()
	testenv.Eventually(t, 20*time.Second, func() error {
		reasons := strings.Join(r.Ready(), "\n")
		if found = regexp.MustCompile(pattern).FindStringSubmatch(reasons); found == nil {
			return fmt.Errorf("it says: %s", reasons)
		}
		return nil
	})
	return found
}

// published has a relay publish an event and its head, and stops it.
func (s *stack) published() (id int64, newest outbox.Tick) {
	s.t.Helper()
	r := s.relay(nil)
	id = s.emit("p0", nil)
	s.eventuallyLog("p0", id)
	testenv.Eventually(s.t, 10*time.Second, func() error {
		if head := s.redis.Get(s.t.Context(), "socket:events:head").Val(); !strings.HasSuffix(head, fmt.Sprint(s.newest())) {
			return fmt.Errorf("the head is %s", head)
		}
		return nil
	})
	r.stop()
	s.left()
	newest, err := outbox.NewestTick(s.t.Context(), s.pool)
	if err != nil {
		s.t.Fatal(err)
	}
	return id, newest
}

// Who empties the outbox by hand, as tests do between one another, took the newest tick's rows with it, and no relay started again.
func TestTheOutboxIsEmptiedByHand(t *testing.T) {
	t.Parallel()
	s := newStack(t)
	first, _ := s.published()
	if _, err := s.pool.Exec(t.Context(), "TRUNCATE relay.outbox"); err != nil {
		t.Fatal(err)
	}
	s.relay(nil)
	s.eventuallyLog("p0", first, s.emit("p0", nil))
}

// Rows that nobody has relayed yet are gone although their tick was committed: what is left has no place before somebody says that this is meant, and the
// relay says how.
func TestRowsOfAnUnpublishedTickAreDeletedByHand(t *testing.T) {
	t.Parallel()
	s := newStack(t)
	first, newest := s.published()
	lost, left := s.emit("p0", nil), s.emit("p0", nil)
	if tick, _, err := outbox.Next(t.Context(), testenv.Conn(t, s.url), newest, newest.Cluster, 10); err != nil || tick.Events != 2 {
		t.Fatalf("tick %v (%v)", tick, err)
	}
	if _, err := s.pool.Exec(t.Context(), "DELETE FROM relay.outbox WHERE id = $1", lost); err != nil {
		t.Fatal(err)
	}
	r := s.relay(nil)
	remedy := r.says(t, `if that is meant, run: (UPDATE relay\.ticks [^\n;]*)`)
	if _, err := s.pool.Exec(t.Context(), remedy[1], pgx.QueryExecModeSimpleProtocol); err != nil {
		t.Fatalf("%s: %v", remedy[1], err)
	}
	s.eventuallyLog("p0", first, left, s.emit("p0", nil))
}

// The timeline that Redis knows is gone for good, because an older backup was restored beside it. No relay can tell that from an old primary that goes on: it
// says what to do.
func TestTheNewerTimelineIsGone(t *testing.T) {
	t.Parallel()
	s := newStack(t)
	first, newest := s.published()
	seen := newest.Position + 1000
	s.redis.Set(t.Context(), "socket:events:head", fmt.Sprintf("%d:%d:%d", newest.Cluster.SystemID, newest.Cluster.Timeline+1, seen), 0)
	r := s.relay(nil)
	remedy := r.says(t, `gone for good, run in Redis: SET (\S+) (\S+)`)
	s.redis.Set(t.Context(), remedy[1], remedy[2], 0)
	s.newHistory(seen, newest.Position)
	s.eventuallyLog("p0", first, s.emit("p0", nil))
}
