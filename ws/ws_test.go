package ws_test

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/outboxrelay/outboxrelay/ws"
)

func TestEventsReachMembersOnly(t *testing.T) {
	t.Parallel()
	s := newStack(t)
	s.user("u1", "p1", "p2")
	s.user("u2", "p2")
	s.relay()
	s.settled()
	n := s.node(nil)
	a, b := n.connect("u1"), n.connect("u2", `"batch":true`)
	ready := a.next()
	if ready.Type != "ready" || ready.UserID != "u1" || ready.Role != "member" || !slices.Equal(ready.Programs, []string{"p1", "p2"}) ||
		time.Until(ready.TokenExpiresAt) < 59*time.Minute {
		t.Errorf("first frame %+v", ready)
	}
	live := a.next()
	if live.Type != "live" || live.position() <= 0 {
		t.Errorf("second frame %+v, want live with a position", live)
	}
	b.expect("ready", "live")
	s.emit("p1", 1, 3)
	s.emit("p2", 4, 2)
	b.expect("p2:4", "p2:5")
	var of1, of2 []string
	for range 5 { // across programs any order
		if f := a.next(); f.ProgramID == "p1" {
			of1 = append(of1, f.String())
		} else {
			of2 = append(of2, f.String())
		}
	}
	if !slices.Equal(of1, events("p1", 1, 3)) || !slices.Equal(of2, events("p2", 4, 2)) {
		t.Errorf("got %v and %v", of1, of2)
	}
}

func TestUserWithoutProgramsIsLiveAtOnce(t *testing.T) {
	t.Parallel()
	s := newStack(t)
	s.user("u1")
	s.relay()
	s.emit("p1", 1, 1)
	tick := s.settled()
	got := s.node(nil).connect("u1").expect("ready", "live")
	if got[1].position() != tick {
		t.Errorf("live at %s, want the tick %d", got[1].Position, tick)
	}
}

func TestResume(t *testing.T) {
	t.Parallel()
	s := newRelayed(t, "p1", "p2")
	n := s.node(nil)
	c := n.connect("u1")
	c.expect("ready", "live")
	s.emit("p1", 1, 1)
	first := c.expect("p1:1")[0]
	c.close()
	s.emit("p1", 2, 3)
	s.emit("p2", 10, 2)
	tick := s.settled()

	all := fmt.Sprintf(`"since":{"*":%q}`, first.Position)
	for name, extra := range map[string]string{
		"checkpoint": fmt.Sprintf(`"since":%q`, first.Position),
		"star":       all,
		"batch":      all + `,"batch":true`,
		"timestamp":  fmt.Sprintf(`"lastEventTimestamp":%q`, first.Timestamp),
	} {
		c := n.connect("u1", extra)
		got := c.until("live")
		var of1, of2 []string
		for _, f := range got {
			switch f.ProgramID {
			case "p1":
				of1 = append(of1, f.String())
			case "p2":
				of2 = append(of2, f.String())
			}
		}
		if name == "timestamp" && of1[0] == "p1:1" { // an exact repeat is allowed
			of1 = of1[1:]
		}
		if got[0].Type != "ready" || !slices.Equal(of1, events("p1", 2, 3)) || !slices.Equal(of2, events("p2", 10, 2)) {
			t.Errorf("%s: got %v", name, got)
		}
		if live := got[len(got)-1]; live.position() != tick {
			t.Errorf("%s: live at %s, want %d", name, live.Position, tick)
		}
	}
	n.connect("u1", fmt.Sprintf(`"since":{"p1":%q}`, first.Position)).expect("ready", "p1:2", "p1:3", "p1:4", "live")
	n.connect("u1", all, `"programs":["p2","px"]`).expect("ready", "p2:10", "p2:11", "live")
	n.connect("u1", fmt.Sprintf(`"since":%q`, "1"), `"programs":["p1"]`).expect("ready", "p1:1", "p1:2", "p1:3", "p1:4", "live")
	n.connect("u1", `"lastEventTimestamp":99999999999999`).expect("ready", "live")

	h, _ := n.connectHeader(n.token("u1"), "?programs=p1&since=p1:"+first.Position)
	h.expect("ready", "p1:2", "p1:3", "p1:4", "live")
}

func TestCatchUpLimit(t *testing.T) {
	t.Parallel()
	const most = 20
	s := newRelayed(t, "p1")
	n := s.node(func(c *ws.Config) { c.MaxCatchup = most })
	c := n.connect("u1")
	c.expect("ready", "live")
	s.emit("p1", 1, most+2)
	got := c.expect(events("p1", 1, most+2)...)
	s.settled()
	for _, missed := range []int{most - 1, most, most + 1} {
		since := got[len(got)-1-missed]
		want := append(append([]string{"ready"}, events("p1", most+3-min(missed, most), min(missed, most))...), "live")
		if missed > most {
			want = slices.Insert(want, 1, "gap p1 limit")
		}
		for _, buffered := range []bool{true, false} {
			to := n
			if !buffered { // a node that has no buffer yet
				to = s.node(func(c *ws.Config) { c.MaxCatchup = most })
			}
			frames := to.connect("u1", fmt.Sprintf(`"since":{"p1":%q}`, since.Position)).expect(want...)
			if g := frames[1]; missed > most && (g.After != since.Position || g.Before != frames[2].Position) {
				t.Errorf("gap %+v, want from %s to %s", g, since.Position, frames[2].Position)
			}
		}
	}
}

func TestGapReasons(t *testing.T) {
	t.Parallel()
	s := newRelayed(t, "p1")
	n := s.node(nil)
	c := n.connect("u1")
	c.expect("ready", "live")
	var got []frame
	for i := range 4 { // a tick each
		s.emit("p1", 1+i, 1)
		got = append(got, c.expect(events("p1", 1+i, 1)...)...)
	}
	tick := s.settled()
	since := func(position string) string { return fmt.Sprintf(`"since":{"p1":%q}`, position) }

	frames := n.connect("u1", since("8999999999999999")).expect("ready", "gap p1 unknown_position", "live")
	if g := frames[1]; g.After != "" || number(g.Before) != tick+1 {
		t.Errorf("gap %+v, want before %d and no after", g, tick+1)
	}
	n.connect("u1", since("99999999999999999999")).expect("ready", "gap p1 unknown_position", "live")

	// The second event's tick is where history begins from now on.
	s.exec("DELETE FROM relay.ticks WHERE position < $1", got[1].position())
	s.exec("DELETE FROM relay.outbox WHERE id <= $1", got[1].ID)
	frames = n.connect("u1", since("5")).expect("ready", "gap p1 expired", "p1:3", "p1:4", "live")
	if g := frames[1]; g.After != "5" || g.Before != got[2].Position {
		t.Errorf("gap %+v", g)
	}
	n.connect("u1", since(got[1].Position)).expect("ready", "p1:3", "p1:4", "live")

	// The third tick is the first after a failover that lost what came behind the second.
	s.exec("UPDATE relay.ticks SET rebased_from = $2 WHERE position = $1", got[2].position(), got[1].position())
	n.connect("u1", since(got[1].Position)).expect("ready", "p1:3", "p1:4", "live")
	frames = n.connect("u1", since(fmt.Sprint(got[1].position()+1))).expect("ready", "gap p1 reset", "p1:3", "p1:4", "live")
	if g := frames[1]; g.Before != got[2].Position {
		t.Errorf("gap %+v", g)
	}
}

func TestPositionFrames(t *testing.T) {
	t.Parallel()
	s := newRelayed(t, "p1", "p2")
	n := s.node(func(c *ws.Config) { c.PingInterval, c.WakeInterval = 50*time.Millisecond, 50*time.Millisecond })
	c := n.connect("u1")
	c.expect("ready", "live")
	s.emit("p1", 1, 1)
	event := c.until("p1:1")
	at := event[len(event)-1].position()
	for f := c.next(); ; f = c.next() {
		if f.Type != "position" {
			t.Fatalf("got %v", f)
		}
		if f.position() >= at {
			break
		}
	}
}
