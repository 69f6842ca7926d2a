package scenario_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/outboxrelay/outboxrelay/internal/scenario"
	"github.com/outboxrelay/outboxrelay/internal/testenv"
)

// Who is connected to the relay's own process gets an event as soon as it is durable: Redis stands still, and it arrives. Who is connected elsewhere gets it when
// Redis goes on, and everybody gets it once.
func TestTheRelaysOwnRoomsDontWaitForRedis(t *testing.T) {
	t.Parallel()
	redis := testenv.OwnRedis(t)
	w := scenario.New(t, testenv.Postgres(t), redis.URL(), 1, 2)
	near, far := w.Node(), w.Node("ROLE=ws")
	clients := []*scenario.Client{scenario.NewClient("u0", near), scenario.NewClient("u1", far)}
	crowd(t, clients...)
	j := w.NewJournal(1)
	emit := func() (key string) {
		t.Helper()
		key, err := j.Emit(t.Context(), "p0", 0)
		if err != nil {
			t.Fatal(err)
		}
		return key
	}
	arrived := func(key string, clients ...*scenario.Client) {
		t.Helper()
		for _, c := range clients {
			if err := c.Until(testenv.Context(t, 20*time.Second), func(c *scenario.Client) bool { return c.Has(key) }); err != nil {
				t.Fatalf("event %s: %v", key, err)
			}
		}
	}
	db := openRedis(t, redis.URL())
	arrived(emit(), clients...)
	testenv.Eventually(t, 10*time.Second, func() error { // its tick is published, and the head is fresh
		var newest int64
		if err := w.Pool.QueryRow(t.Context(), "SELECT max(position) FROM relay.ticks").Scan(&newest); err != nil {
			return err
		}
		var system, timeline, head int64
		if _, err := fmt.Sscanf(db.Get(t.Context(), "socket:events:head").Val(), "%d:%d:%d", &system, &timeline, &head); err != nil || head != newest {
			return fmt.Errorf("the head is %d, the newest tick %d (%w)", head, newest, err)
		}
		return nil
	})
	if err := redis.Pause(); err != nil {
		t.Fatal(err)
	}
	key := emit()
	arrived(key, clients[0])
	if err := redis.Continue(); err != nil {
		t.Fatal(err)
	}
	arrived(key, clients[1])
	arrived(emit(), clients...)
	verdict(t, j, clients...)
}
