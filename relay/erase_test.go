package relay_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/outboxrelay/outboxrelay/internal/testenv"
	"github.com/outboxrelay/outboxrelay/outbox"
	"github.com/outboxrelay/outboxrelay/relay"
)

// An erased event is blank wherever it is read from, at the place that it had, and nothing else has moved.
func TestAnErasedEventIsBlankInPostgresAndRedis(t *testing.T) {
	t.Parallel()
	s := newStack(t)
	s.relay(nil)
	secret := map[string]string{"name": "a secret"}
	before, id, after := s.emit("p0", secret), s.emit("p0", secret), s.emit("p0", secret)
	s.eventuallyLog("p0", before, id, after)
	was := s.log("p0")
	position, err := relay.Erase(testenv.Context(t, 20*time.Second), s.pool, s.redis, id)
	if err != nil {
		t.Fatal(err)
	}
	is := s.log("p0")
	if len(is) != 3 || is[1].Position != was[1].Position || is[1].ID != was[1].ID || string(is[1].Data) != "{}" || string(is[0].Data) != string(was[0].Data) {
		t.Errorf("the log was %v and is %v", was, is)
	}
	for source, ttl := range map[string]time.Duration{"Redis": time.Hour, "Postgres": time.Nanosecond} {
		h := relay.NewHistory(relay.HistoryConfig{Redis: s.redis, Pool: s.pool, RecentTTL: ttl})
		page, err := h.After(t.Context(), "p0", position-1, 1)
		if err != nil || len(page.Entries) != 1 || page.Entries[0].Position != position {
			t.Fatalf("%s: %v, %v", source, page, err)
		}
		if frame := string(page.Entries[0].Frame); !strings.Contains(frame, `"data":{}`) || strings.Contains(frame, "secret") {
			t.Errorf("%s has %s", source, frame)
		}
	}
	if _, err := relay.Erase(testenv.Context(t, 20*time.Second), s.pool, s.redis, id); err != nil {
		t.Errorf("a second time: %v", err)
	}
}

// An event that waits for Redis is blank when it comes, and the command says that it isn't done.
func TestAnEventIsErasedBeforeItIsPublished(t *testing.T) {
	t.Parallel()
	s := newStack(t)
	id := s.emit("p0", map[string]string{"name": "a secret"})
	if _, err := relay.Erase(testenv.Context(t, 600*time.Millisecond), s.pool, s.redis, id); !errors.Is(err, relay.ErrUnpublished) {
		t.Errorf("got %v, want ErrUnpublished", err)
	}
	s.relay(nil)
	if _, err := relay.Erase(testenv.Context(t, 20*time.Second), s.pool, s.redis, id); err != nil {
		t.Fatal(err)
	}
	s.eventuallyLog("p0", id)
	if got := string(s.log("p0")[0].Data); got != "{}" {
		t.Errorf("data %s", got)
	}
}

func TestOnlyErasureMayChangeAnEvent(t *testing.T) {
	t.Parallel()
	s := newStack(t)
	id := s.emit("p0", map[string]int{"n": 1})
	if _, err := relay.Erase(t.Context(), s.pool, s.redis, id+1); !errors.Is(err, outbox.ErrNoEvent) {
		t.Errorf("an event that isn't there: %v", err)
	}
	for _, refused := range []string{
		`UPDATE relay.outbox SET data = '{"n":2}'`,
		`UPDATE relay.outbox SET data = '{}', event = 'a:b'`,
		`UPDATE relay.outbox SET data = '{}', xid = pg_current_xact_id()`,
		`SET ROLE relay_relay; UPDATE relay.outbox SET data = '{"n":2}'`,
		`SET ROLE relay_emitter; UPDATE relay.outbox SET data = '{}'`,
	} {
		conn := testenv.Conn(t, s.url)
		if _, err := conn.Exec(context.Background(), refused); err == nil {
			t.Errorf("%s: done", refused)
		}
	}
	conn := testenv.Conn(t, s.url)
	if _, err := conn.Exec(t.Context(), "SET ROLE relay_relay"); err != nil {
		t.Fatal(err)
	}
	if err := outbox.Erase(t.Context(), conn, id); err != nil {
		t.Errorf("as relay_relay: %v", err)
	}
}
