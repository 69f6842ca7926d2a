package ws_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/outboxrelay/outboxrelay/internal/testenv"
	"github.com/outboxrelay/outboxrelay/ws"
)

func TestMembershipWhileConnected(t *testing.T) {
	t.Parallel()
	s := newRelayed(t, "p1", "p2")
	n := s.node(nil)
	c, other := n.connect("u1"), n.connect("u1", `"programs":["p1"]`)
	c.expect("ready", "live")
	other.expect("ready", "live")
	s.emit("p1", 1, 1)
	c.expect("p1:1")
	other.expect("p1:1")

	s.kick("u1", "p1")
	s.emit("p1", 2, 2)
	left := c.expect("left p1")[0]
	other.expect("left p1")
	s.emit("p2", 10, 1)
	c.expect("p2:10")

	s.join("u1", "p1")
	s.emit("p1", 4, 2)
	got := c.expect("joined p1", "p1:4", "p1:5")
	other.expect("joined p1", "p1:4", "p1:5")
	if joined := got[0].position(); joined <= left.position() || joined >= got[1].position() {
		t.Errorf("left at %s, joined at %s, then an event at %s", left.Position, got[0].Position, got[1].Position)
	}

	s.join("u1", "p3") // not among other's programs
	s.emit("p3", 20, 1)
	c.expect("joined p3", "p3:20")
	s.emit("p1", 6, 1)
	c.expect("p1:6")
	other.expect("p1:6")

	s.exec("UPDATE relay.users SET is_active = false WHERE id = 'u1'")
	s.emit("p1", 7, 1)
	for _, f := range []*client{c, other} {
		f.expectClose("user_inactive", 4503)
	}
}

func TestMembershipWithoutTheMessage(t *testing.T) { // the periodic recheck alone
	t.Parallel()
	s := newRelayed(t, "p1")
	n := s.node(func(c *ws.Config) {
		c.Log = deafToUsers{c.Log}
		c.Recheck = 300 * time.Millisecond
	})
	c := n.connect("u1")
	c.expect("ready", "live")
	s.join("u1", "p2")
	s.emit("p2", 1, 3)
	c.expect("joined p2", "p2:1", "p2:2", "p2:3")
	// Behind the triggers' back: nothing in the log says so.
	s.exec("ALTER TABLE relay.program_members DISABLE TRIGGER USER")
	s.kick("u1", "p2")
	s.emit("p1", 5, 1)
	c.until("left p2")
	s.join("u1", "p2")
	s.emit("p1", 6, 1)
	c.until("joined p2")
}

// deafToUsers never hears that a user's memberships changed.
type deafToUsers struct{ ws.Log }

func (l deafToUsers) Watch(ctx context.Context, wake func(string, ws.News)) error {
	return l.Log.Watch(ctx, func(topic string, news ws.News) {
		if topic != ws.UserTopic("u1") {
			wake(topic, news)
		}
	})
}

// flip takes a program from a user and gives it back in one transaction, with an event in between and one after.
func (s *stack) flip(user, program string, first int) {
	s.t.Helper()
	err := pgx.BeginFunc(context.Background(), s.pool, func(tx pgx.Tx) error {
		for i, active := range []bool{false, true} {
			if _, err := tx.Exec(context.Background(), "UPDATE relay.program_members SET is_active = $3 WHERE user_id = $1 AND program_id = $2",
				user, program, active); err != nil {
				return err
			}
			if _, err := tx.Exec(context.Background(), "SELECT relay.emit($1, 'request:created', json_build_object('n', $2::int))",
				program, first+i); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		s.t.Fatal(err)
	}
}

func TestOutAndInInOneBatch(t *testing.T) {
	t.Parallel()
	s := newRelayed(t, "p1")
	n := s.node(nil)
	c := n.connect("u1")
	c.expect("ready", "live")
	s.emit("p1", 1, 1)
	first := c.expect("p1:1")[0]
	s.flip("u1", "p1", 2)
	tick := s.settled()
	s.emit("p1", 4, 1)
	got := c.expect("gap p1 membership", "p1:4")
	if g := got[0]; number(g.After) < first.position() || number(g.Before) <= tick {
		t.Errorf("gap %+v must span the batch up to %d", g, tick)
	}
	since := fmt.Sprintf(`"since":{"p1":%q}`, first.Position)
	for range 2 { // from a node's buffer, and from one that has none
		n.connect("u1", since).expect("ready", "gap p1 membership", "p1:4", "live")
		inside := fmt.Sprintf(`"since":{"p1":"%d"}`, tick-1) // a cursor of one's own making shows no more
		n.connect("u1", inside).expect("ready", "gap p1 membership", "p1:4", "live")
		n = s.node(nil)
	}
	s.flip("u1", "p1", 5)
	s.settled()
	s.emit("p1", 7, 1)
	s.settled()
	n.connect("u1", since).expect("ready", "gap p1 membership", "p1:7", "live") // one gap over both
}

// A batch that took a membership away, gave it back and took it away for good was told as a gap, although none of its events is the
// user's; with another such batch behind it a client that came back got two gaps.
func TestOutInAndOutInOneBatch(t *testing.T) {
	t.Parallel()
	s := newRelayed(t, "p1")
	n := s.node(nil)
	c := n.connect("u1")
	c.expect("ready", "live")
	s.emit("p1", 1, 1)
	first := c.expect("p1:1")[0]
	s.exec(`DO $$ BEGIN
		UPDATE relay.program_members SET is_active = false WHERE user_id = 'u1';
		UPDATE relay.program_members SET is_active = true WHERE user_id = 'u1';
		PERFORM relay.emit('p1', 'request:created', '{"n":2}');
		UPDATE relay.program_members SET is_active = false WHERE user_id = 'u1';
	END $$`)
	c.until("left p1")
	s.settled()
	s.exec("UPDATE relay.program_members SET is_active = true WHERE user_id = 'u1'")
	s.emit("p1", 3, 1)
	for _, f := range c.until("p1:3") {
		if f.Type == "gap" || f.String() == "p1:2" {
			t.Errorf("live: got %v", f)
		}
	}
	s.settled()
	n.connect("u1", fmt.Sprintf(`"since":{"p1":%q}`, first.Position)).expect("ready", "p1:3", "live")
}

// What lies between a removal and a return isn't the user's, even in the batch of the return: its control row stands before events that
// had been committed before it, and those used to be sent.
func TestInAfterEventsOfItsBatch(t *testing.T) {
	t.Parallel()
	s := newStack(t)
	s.user("u1", "p1")
	stop := s.relay()
	s.settled()
	n := s.node(nil)
	c := n.connect("u1")
	start := c.expect("ready", "live")[1]
	s.kick("u1", "p1")
	c.expect("left p1")
	stop()
	s.emit("p1", 1, 2)
	s.join("u1", "p1")
	s.emit("p1", 3, 2)
	s.relay() // all of it is one batch
	s.settled()
	c.expect("joined p1", "p1:3", "p1:4")
	for range 2 { // from the node's buffer, and from one that has none
		n.connect("u1", fmt.Sprintf(`"since":%q`, start.Position)).expect("ready", "p1:3", "p1:4", "live")
		n = s.node(nil)
	}
}

func TestCatchUpAcrossMemberships(t *testing.T) {
	t.Parallel()
	s := newStack(t)
	s.user("u1", "p1")
	s.user("watcher", "p1")
	s.relay()
	s.settled()
	n := s.node(nil)
	w := n.connect("watcher")
	w.expect("ready", "live")
	s.emit("p1", 1, 2)
	start := w.expect("p1:1", "p1:2")[0]
	s.kick("u1", "p1")
	s.emit("p1", 3, 2)
	w.expect("p1:3", "p1:4")
	s.join("u1", "p1")
	s.emit("p1", 5, 2)
	middle := w.expect("p1:5", "p1:6")
	s.settled()
	n.connect("u1", fmt.Sprintf(`"since":{"p1":%q}`, start.Position)).expect("ready", "p1:2", "p1:5", "p1:6", "live")
	s.node(nil).connect("u1", `"since":"1"`).expect("ready", "p1:1", "p1:2", "p1:5", "p1:6", "live")
	s.node(func(c *ws.Config) { c.MaxCatchup = 2 }).connect("u1", `"since":"1"`).expect("ready", "gap p1 limit", "p1:5", "p1:6", "live")
	s.kick("u1", "p1")
	s.settled()
	s.join("u1", "p1")
	s.settled()
	n.connect("u1", fmt.Sprintf(`"since":{"p1":%q}`, middle[0].Position)).expect("ready", "p1:6", "live")
}

func TestTokenEndsAndIsRenewed(t *testing.T) {
	t.Parallel()
	s := newStack(t)
	s.user("u1")
	s.user("u2")
	n := s.node(nil)
	short, renewed, foreign, bad := n.dial(), n.dial(), n.dial(), n.dial()
	renewed.send(authFrame(mint(t, secret, "u1", 2*time.Second)))
	renewed.send(authFrame(mint(t, secret, "u1", time.Hour))) // at once: on a busy machine the first one doesn't last for long
	renewed.expect("ready", "live")
	short.send(authFrame(mint(t, secret, "u1", 2*time.Second)))
	short.expect("ready", "live")
	for _, c := range []*client{foreign, bad} {
		c.send(authFrame(mint(t, secret, "u1", time.Hour)))
		c.expect("ready", "live")
	}
	foreign.send(authFrame(mint(t, secret, "u2", time.Hour)))
	bad.send(`{"type":"auth","token":"x"}`)
	foreign.expectClose("invalid_token", 4500)
	bad.expectClose("invalid_token", 4500)
	short.expectClose("token_expired", 4001)
	renewed.send(`{"type":"ping"}`)
	renewed.expect("pong")
}

// Clients that drop and resume at random, while one user's membership comes and goes: everybody gets every event that is theirs
// exactly once and in order, and nothing else.
func TestDropAndResume(t *testing.T) {
	t.Parallel()
	clients, total := 40, 400
	if testenv.Long() {
		clients, total = 1000, 500
	}
	s := newStack(t)
	s.exec("INSERT INTO relay.users (id) SELECT 'u' || n FROM generate_series(1, $1) n", clients)
	s.exec("INSERT INTO relay.program_members SELECT 'u' || n, 'p1' FROM generate_series(1, $1) n", clients)
	s.relay()
	start := s.settled()
	nodes := []*node{s.node(resumeConfig), s.node(resumeConfig)}
	var wg sync.WaitGroup
	got := make([][]frame, clients)
	for i := range clients {
		wg.Go(func() { got[i] = nodes[i%2].follow(fmt.Sprintf("u%d", i+1), start, total) })
	}
	s.emit("p1", 1, total)
	wg.Wait()
	for i, list := range got {
		for k, f := range list {
			if f.Data.N != k+1 || f.Position != got[0][k].Position {
				t.Fatalf("client %d got %v at place %d", i, f, k)
			}
		}
	}
}

func resumeConfig(c *ws.Config) { c.MaxCatchup, c.MaxPerUser = 100_000, -1 }

// follow receives the events behind start until the one with the number last, dropping the connection at random and resuming from the last position.
func (n *node) follow(user string, start int64, last int) []frame {
	var got []frame
	since := fmt.Sprintf(`"since":"%d"`, start)
	for {
		c := n.connect(user, since)
		for left := 1 + rand.IntN(60); left > 0; {
			f := c.next()
			if f.Type == "gap" || f.Type == "error" {
				n.t.Errorf("%s got %+v", user, f)
				return got
			}
			if f.Type != "event" {
				continue
			}
			left--
			got = append(got, f)
			if f.Data.N == last {
				c.close()
				return got
			}
			since = fmt.Sprintf(`"since":{"p1":%q}`, f.Position)
		}
		_ = c.conn.CloseNow()
	}
}

// A user whose membership comes and goes, connected or resuming, gets exactly the events that the log's order makes the user's.
func TestComingAndGoing(t *testing.T) {
	t.Parallel()
	s := newRelayed(t, "p1")
	n := s.node(resumeConfig)
	c := n.connect("u1")
	start := c.expect("ready", "live")[1]
	member := true
	for i := 1; i <= 200; i++ {
		s.emit("p1", i, 1)
		if rand.IntN(5) == 0 {
			if member = !member; member {
				s.join("u1", "p1")
			} else {
				s.kick("u1", "p1")
			}
		}
		if rand.IntN(4) == 0 {
			s.settled()
		}
	}
	if !member {
		s.join("u1", "p1")
	}
	s.settled()
	s.emit("p1", 201, 1)
	tick := s.settled()
	want := s.visible("u1", "p1", start.position())
	s.checkSeen("live", c.until("p1:201"), want)
	for range 6 {
		since := start.position() + rand.Int64N(tick-start.position()) // anywhere, in the middle of batches too
		s.checkSeen("resumed", n.connect("u1", fmt.Sprintf(`"since":"%d"`, since)).until("live"), after(want, since))
		s.checkSeen("resumed elsewhere", s.node(resumeConfig).connect("u1", fmt.Sprintf(`"since":"%d"`, since)).until("live"), after(want, since))
	}
}

// visible returns the positions of a member's events behind start, by the order of the log: batch by batch, changes first. A batch that
// takes the membership away shows nothing; one that gives it shows what was inserted after that.
func (s *stack) visible(user, program string, start int64) []int64 {
	s.t.Helper()
	rows, err := s.pool.Query(context.Background(), `
		SELECT position, tick, control, coalesce(change = 'in', false), mine, id FROM (
			SELECT o.id, o.program_id, o.control, o.data ->> 'change' AS change, t.position AS tick, o.performed_by_id IS NOT DISTINCT FROM $1 AS mine,
			       t.position - t.events + row_number() OVER (PARTITION BY t.position ORDER BY o.control DESC, o.id) AS position
			FROM relay.outbox o, LATERAL (SELECT * FROM relay.ticks k WHERE pg_visible_in_snapshot(o.xid, k.snapshot)
			                              ORDER BY k.position LIMIT 1) t) r
		WHERE program_id = $2 AND position > $3 ORDER BY position`, user, program, start)
	if err != nil {
		s.t.Fatal(err)
	}
	var list []int64
	var position, tick, lost, id, gained, since int64
	var control, in, mine bool
	member := true
	_, err = pgx.ForEachRow(rows, []any{&position, &tick, &control, &in, &mine, &id}, func() error {
		switch {
		case control && mine:
			if !member && in {
				gained, since = tick, id
			}
			if member = in; !in {
				lost = tick
			}
		case !control && member && tick != lost && (tick != gained || id > since):
			list = append(list, position)
		}
		return nil
	})
	if err != nil {
		s.t.Fatal(err)
	}
	return list
}

// around lists the frames that were sent near a position.
func around(frames []frame, p int64) string {
	var list []string
	for _, f := range frames {
		if at := max(f.position(), number(f.Before)); at > p-200_000 && at < p+200_000 {
			list = append(list, fmt.Sprintf("%v at %s, from %s to %s", f, f.Position, f.After, f.Before))
		}
	}
	return strings.Join(list, "\n")
}

func after(positions []int64, since int64) []int64 {
	return slices.DeleteFunc(slices.Clone(positions), func(p int64) bool { return p <= since })
}

// checkSeen fails if the frames hold an event that isn't wanted, one out of order, or lack one that no gap tells of.
func (s *stack) checkSeen(how string, frames []frame, want []int64) {
	s.t.Helper()
	var got []int64
	var gaps []frame
	for _, f := range frames {
		switch f.Type {
		case "event":
			got = append(got, f.position())
		case "gap":
			gaps = append(gaps, f)
		}
	}
	if !slices.IsSorted(got) {
		s.t.Errorf("%s: events out of order: %v", how, got)
	}
	for _, p := range got {
		if !slices.Contains(want, p) {
			s.t.Errorf("%s: the event at %d isn't the user's", how, p)
		}
	}
	for _, p := range want {
		told := slices.ContainsFunc(gaps, func(g frame) bool { return number(g.After) < p && p < number(g.Before) })
		if !slices.Contains(got, p) && !told {
			s.t.Errorf("%s: the event at %d is missing, and the gaps don't say so:\n%s", how, p, around(frames, p))
		}
	}
	if how != "live" && len(gaps) > 1 {
		s.t.Errorf("%s: %d gaps, want at most one", how, len(gaps))
	}
}
