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
// another timeline; queries do what else differs. It returns when a relay has begun the new history, with its position.
func (s *stack) failover(survived int64, queries ...string) (base int64) {
	s.t.Helper()
	s.exec("DELETE FROM relay.outbox o USING relay.ticks t WHERE t.position = $1 AND NOT pg_visible_in_snapshot(o.xid, t.snapshot)", survived)
	s.exec("DELETE FROM relay.ticks WHERE position > $1", survived)
	s.exec("UPDATE relay.ticks SET timeline = timeline - 1")
	for _, query := range queries {
		s.exec(query)
	}
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

// A membership that was given in what a failover lost went on in the new history: no entry of its log took it away. Of one that had been taken away
// there, nothing was sent and nothing told.
func TestMembershipsThatDidNotSurvive(t *testing.T) {
	t.Parallel()
	s := newStack(t)
	s.user("u1", "p2")
	stop := s.relay()
	survived := s.settled()
	n := s.node(nil)
	gained, lost := n.connect("u1", `"programs":["p1"]`), n.connect("u1", `"programs":["p2"]`)
	gained.expect("ready", "live")
	lost.expect("ready", "live")
	s.join("u1", "p1")
	gained.expect("joined p1")
	s.kick("u1", "p2")
	lost.expect("left p2")
	s.emit("p1", 1, 1)
	gained.expect("p1:1")
	s.settled()
	stop()
	s.exec("ALTER TABLE relay.users RENAME TO away") // memberships can't be read for a while
	s.failover(survived, `ALTER TABLE relay.program_members DISABLE TRIGGER USER;
		DELETE FROM relay.program_members; DELETE FROM relay.effective_members;
		INSERT INTO relay.program_members VALUES ('u1', 'p2'); INSERT INTO relay.effective_members VALUES ('u1', 'p2');
		ALTER TABLE relay.program_members ENABLE TRIGGER USER`,
		`SELECT relay.emit('p1', 'request:created', '{"n": 100}')`)
	s.emit("p1", 101, 1)
	s.settled()
	gained.send(`{"type":"ping"}`)
	gained.expect("pong")
	s.exec("ALTER TABLE relay.away RENAME TO users")
	gained.expect("gap p1 reset", "left p1")
	lost.expect("joined p2", "gap p2 reset")
	s.emit("p1", 102, 1)
	s.emit("p2", 102, 1)
	lost.expect("p2:102")
	gained.send(`{"type":"ping"}`)
	gained.expect("pong")
}

// A socket that was there before its node was told of a new history, and sent its token after, would wait for the next look at its memberships.
func TestANewHistoryBeforeTheToken(t *testing.T) {
	t.Parallel()
	s := newStack(t)
	s.user("u1", "p1")
	s.relay()
	s.emit("p1", 1, 1)
	position := s.settled()
	n := s.node(func(c *ws.Config) { c.Recheck = time.Hour })
	n.connect("u1").expect("ready", "live") // the node is there
	c := n.dial()
	if err := s.redis.Publish(t.Context(), "socket:events:nodes", position).Err(); err != nil {
		t.Fatal(err)
	}
	testenv.Eventually(t, 10*time.Second, func() error { // the first has read again: the node has been told
		if reads := n.metric("membership_reads_total", ""); reads < 3 {
			return fmt.Errorf("%v reads", reads)
		}
		return nil
	})
	c.send(authFrame(n.token("u1")))
	c.expect("ready", "live")
	s.emit("p1", 2, 1)
	c.expect("p1:2")
}
