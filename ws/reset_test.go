package ws_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/outboxrelay/outboxrelay/internal/testenv"
	"github.com/outboxrelay/outboxrelay/outbox"
	"github.com/outboxrelay/outboxrelay/ws"
)

// failover leaves what one to a standby does that lacked what was relayed after the tick at survived: that is gone, and the newest tick is of
// another timeline. It returns when a relay has begun the new history, with its position.
func (s *stack) failover(survived int64) (base int64) {
	s.t.Helper()
	s.exec("DELETE FROM relay.outbox o USING relay.ticks t WHERE t.position = $1 AND NOT pg_visible_in_snapshot(o.xid, t.snapshot)", survived)
	s.exec("DELETE FROM relay.ticks WHERE position > $1", survived)
	s.exec("UPDATE relay.ticks SET timeline = timeline - 1")
	newest, err := outbox.NewestTick(context.Background(), s.pool)
	if err != nil {
		s.t.Fatal(err)
	}
	head := fmt.Sprintf("%d:%d:%d", newest.Cluster.SystemID, newest.Cluster.Timeline, newest.Position)
	if err := s.redis.Set(context.Background(), "socket:events:head", head, 0).Err(); err != nil {
		s.t.Fatal(err)
	}
	s.relay()
	testenv.Eventually(s.t, 10*time.Second, func() error {
		if base = s.settled(); base == survived {
			return errors.New("no new history yet")
		}
		return nil
	})
	return base
}

// Only who came back with a cursor in what had been replaced was told of it. Whoever had stayed connected kept events that no longer
// existed, went on in the new history, and was never told.
func TestConnectedClientsAreToldOfANewHistory(t *testing.T) {
	t.Parallel()
	s := newStack(t)
	s.user("u1", "p1", "p2")
	stop := s.relay()
	survived := s.settled()
	n := s.node(func(c *ws.Config) { c.Recheck = 200 * time.Millisecond })
	c := n.connect("u1", `"programs":["p1"]`)
	c.expect("ready", "live")
	s.emit("p1", 1, 1)
	lost := c.expect("p1:1")[0]
	s.settled()
	stop()
	base := s.failover(survived)
	g := c.expect("gap p1 reset")[0]
	if number(g.After) >= lost.position() || number(g.Before) <= lost.position() {
		t.Errorf("gap from %s to %s, the lost event was at %s", g.After, g.Before, lost.Position)
	}
	s.emit("p1", 2, 1)
	c.expect("p1:2")

	n.connect("u1", fmt.Sprintf(`"since":%q`, lost.Position), `"programs":["p1"]`).expect("ready", "gap p1 reset", "p1:2", "live")
	// The new history's first position is a checkpoint of the new one, and was told to be one of the old.
	n.connect("u1", fmt.Sprintf(`"since":"%d"`, base), `"programs":["p1"]`).expect("ready", "p1:2", "live")
}
