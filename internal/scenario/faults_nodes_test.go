package scenario_test

import (
	"errors"
	"fmt"
	"slices"
	"syscall"
	"time"

	"github.com/coder/websocket"

	"github.com/outboxrelay/outboxrelay/internal/devstack"
	"github.com/outboxrelay/outboxrelay/internal/scenario"
	"github.com/outboxrelay/outboxrelay/internal/testenv"
)

var nodeFaults = []fault{
	{"nodes/leader-killed", "steady", leaderKilled},
	{"nodes/leader-black-holed", "steady", leaderBlackHoled},
	{"nodes/leader-paused", "steady", leaderPaused},
	{"nodes/roles-apart", "steady", rolesApart},
	{"nodes/rolling-restart", "steady", rollingRestart},
	{"nodes/second-signal", "steady", secondSignal},
}

const (
	takeover          = 5 * time.Second  // after a crash
	takeoverBlackHole = 15 * time.Second // after a connection that says nothing any more
)

// others are the nodes without one.
func others(nodes []*scenario.Node, without *scenario.Node) []*scenario.Node {
	return slices.DeleteFunc(slices.Clone(nodes), func(n *scenario.Node) bool { return n == without })
}

// The leader dies, and the next one, and so on: another leads within 5 s, and clients resume on whichever node answers.
func leaderKilled(t *trial) {
	t.services(devstack.PostgresConfig{})
	t.audience(t.node(), t.node(), t.node())
	t.load(func() {
		var worst time.Duration
		for range 3 {
			leader := t.leader(t.nodes...)
			leader.Kill()
			began := time.Now()
			t.leader(others(t.nodes, leader)...)
			worst = max(worst, time.Since(began))
			leader.Start()
		}
		t.took("takeover", worst, takeover)
	})
}

// took notes a time and fails the trial if it is longer than allowed.
func (t *trial) took(what string, d, most time.Duration) {
	t.Helper()
	t.note("%s %.1fs", what, d.Seconds())
	if d > most {
		t.Errorf("%s took %v, want at most %v", what, d, most)
	}
}

// The leader's connections to Postgres say nothing any more, and aren't closed.
func leaderBlackHoled(t *trial) {
	t.services(devstack.PostgresConfig{})
	proxy := testenv.Proxy(t.T, postgresAddr(t.pg))
	cut := t.node("DATABASE_URL=" + proxy.URL(t.pg.URL()))
	t.leader(cut)
	other := t.node()
	t.audience(other, cut)
	t.load(func() {
		proxy.Blackhole()
		began := time.Now()
		t.leader(other)
		t.took("takeover", time.Since(began), takeoverBlackHole)
		t.degraded(cut, 10*time.Second)
		t.more(100)
		proxy.Resume()
	})
}

func postgresAddr(pg *devstack.Postgres) string { return fmt.Sprintf("127.0.0.1:%d", pg.Port) }

// The leader stands still for longer than it takes another to lead, wakes up in the middle of what it did, and may only repeat what is there.
func leaderPaused(t *trial) {
	t.services(devstack.PostgresConfig{})
	t.audience(t.node(), t.node())
	t.load(func() {
		var worst time.Duration
		for range 2 {
			leader := t.leader(t.nodes...)
			leader.Pause()
			began := time.Now()
			t.leader(others(t.nodes, leader)...)
			worst = max(worst, time.Since(began))
			t.more(100)
			leader.Resume()
			t.more(100)
			t.recovered()
		}
		t.took("takeover", worst, takeoverBlackHole)
	})
}

// Two relays and two WebSocket nodes as processes of their own; one of each dies at a time. The way from the relays to Redis is slow, so that a leader
// dies between the commit of a tick and the answer to its last append.
func rolesApart(t *trial) {
	t.services(devstack.PostgresConfig{})
	slow := testenv.Proxy(t.T, t.redis.Addr)
	slow.Latency(50 * time.Millisecond)
	behind := "REDIS_URL=" + slow.URL(t.redis.URL())
	relays := []*scenario.Node{t.node("ROLE=relay", behind), t.node("ROLE=relay", behind)}
	fronts := []*scenario.Node{t.node("ROLE=ws"), t.node("ROLE=ws")}
	t.audience(fronts...)
	t.load(func() {
		for n := range 4 {
			front, relay := fronts[n%2], t.leader(relays...)
			front.Kill()
			relay.Kill()
			t.more(50)
			front.Start()
			relay.Start()
		}
	})
}

const rollingGrace = 2 * time.Second

// Three nodes are restarted one after the other: red before the first client is sent away, clients sent away one by one, exit code 0.
func rollingRestart(t *trial) {
	t.services(devstack.PostgresConfig{})
	grace := "SHUTDOWN_GRACE=" + rollingGrace.String()
	nodes := []*scenario.Node{t.node(grace), t.node(grace), t.node(grace)}
	t.audience(nodes...)
	var many []*scenario.Client
	for range 30 {
		many = append(many, scenario.NewClient("u1", nodes...))
	}
	crowd(t.T, many...)
	t.clients = append(t.clients, many...)
	t.load(func() {
		for _, n := range nodes {
			t.restart(n)
		}
	})
}

// restart stops a node, looks at how its clients were sent away, and starts it again.
func (t *trial) restart(n *scenario.Node) {
	t.Helper()
	began := time.Now()
	n.Signal(syscall.SIGTERM)
	t.degraded(n, 5*time.Second)
	red := time.Now()
	if code, ended := n.Exited(rollingGrace + 10*time.Second); !ended || code != 0 {
		t.Fatalf("the node ended %v with exit code %d, want 0:\n%s", ended, code, n.Log())
	}
	var closes []time.Time
	for _, c := range t.clients {
		for _, closure := range c.Closures() {
			if closure.At.Before(began) {
				continue
			}
			if closure.Code != websocket.StatusServiceRestart {
				t.Errorf("a client was closed with %d, want 1012", closure.Code)
			}
			closes = append(closes, closure.At)
		}
	}
	slices.SortFunc(closes, time.Time.Compare)
	if len(closes) < 4 {
		t.Fatalf("only %d of %d clients were told to go", len(closes), len(t.clients))
	}
	if red.After(closes[1]) {
		t.Errorf("/readyz was red %v after the signal, when two clients had been sent away (%v)", red.Sub(began), closes[1].Sub(began))
	}
	if spread := closes[len(closes)-1].Sub(closes[0]); spread < rollingGrace/2 {
		t.Errorf("%d clients were sent away within %v, want them spread over %v", len(closes), spread, rollingGrace)
	}
	n.Start()
	n.Ready()
}

// A node that is told twice to end doesn't take its time.
func secondSignal(t *trial) {
	t.services(devstack.PostgresConfig{})
	hasty, other := t.node("SHUTDOWN_GRACE=60s"), t.node()
	t.audience(hasty, other)
	crowd(t.T, scenario.NewClient("u0", hasty), scenario.NewClient("u1", hasty)) // of whom one is closed at once
	t.load(func() {
		hasty.Signal(syscall.SIGTERM)
		t.degraded(hasty, 5*time.Second)
		if _, ended := hasty.Exited(100 * time.Millisecond); ended {
			t.Error(errors.New("the node ended at the first signal although clients are connected"))
		}
		began := time.Now()
		hasty.Signal(syscall.SIGTERM)
		if _, ended := hasty.Exited(time.Second); !ended {
			t.Errorf("the node still runs %v after the second signal", time.Since(began))
		}
		hasty.Kill()
		hasty.Start()
	})
}
