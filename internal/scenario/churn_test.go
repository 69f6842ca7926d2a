package scenario_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"testing"
	"time"

	"github.com/outboxrelay/outboxrelay/internal/scenario"
	"github.com/outboxrelay/outboxrelay/internal/testenv"
)

// seed is that of the environment (SCENARIO_SEED), which a failed run has printed, or a new one.
func seed(t *testing.T) uint64 {
	t.Helper()
	n := rand.Uint64()
	if s := os.Getenv("SCENARIO_SEED"); s != "" {
		var err error
		if n, err = strconv.ParseUint(s, 10, 64); err != nil {
			t.Fatalf("SCENARIO_SEED: %v", err)
		}
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("again with SCENARIO_SEED=%d", n)
		}
	})
	return n
}

// churn lets memberships come and go under load, with clients of which every third drops and resumes, while fault does its part until its
// context ends; and judges what each client received.
func churn(t *testing.T, w *scenario.World, nodes []*scenario.Node, fault func(ctx context.Context)) {
	t.Helper()
	programs, users, lasts := size(12, 50), size(36, 200), size(6*time.Second, 40*time.Second)
	n := seed(t)
	c, err := w.NewChurn(t.Context(), n, programs, users)
	if err != nil {
		t.Fatal(err)
	}
	var clients []*scenario.Client
	for u := range users {
		at := u % len(nodes)
		clients = append(clients, scenario.NewClient(fmt.Sprintf("u%d", u), append(nodes[at:len(nodes):len(nodes)], nodes[:at]...)...))
	}
	crowd(t, clients...)
	outages := make([]int, users)
	for i, client := range clients {
		outages[i] = client.Outages() // a busy machine may have turned some away at first
	}
	j := w.NewJournal(programs)
	began := time.Now()
	mix := scenario.Mix{Writers: size(8, 24), Pause: size(110*time.Millisecond, 85*time.Millisecond), Sleep: 50 * time.Millisecond, Seed: n}
	during(t, j, mix, lasts, func() {
		ctx, cancel := context.WithTimeout(t.Context(), lasts)
		defer cancel()
		done := make(chan struct{}, 3)
		go func() { c.Run(ctx, 4, size(60*time.Millisecond, 30*time.Millisecond)); done <- struct{}{} }()
		go func() { drop(ctx, n, clients); done <- struct{}{} }()
		go func() { fault(ctx); done <- struct{}{} }()
		for range cap(done) {
			<-done
		}
	})
	took := time.Since(began)
	if err := c.Complete(testenv.Context(t, 60*time.Second), clients...); err != nil {
		t.Error(err)
	}
	verdict, err := c.Check(t.Context(), j, clients...)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("seed %d: %v; %.0f events/s", n, verdict, float64(verdict.Events)/took.Seconds())
	if err := verdict.Err(); err != nil {
		t.Error(err)
	}
	if least := int(took.Seconds()) * size(20, 500); verdict.Events < least || verdict.Changes < users/2 || verdict.Received < verdict.Events {
		t.Errorf("%v: the load was no load", verdict)
	}
	steady := c.Steady()
	for i, client := range clients {
		if ends := client.Ends(outages[i]); len(ends) > 0 && i%3 != 0 && steady[client.User] {
			t.Errorf("the connection of %s ended for no good reason, with what followed: %v", client.User, ends)
		}
	}
}

// drop cuts every third client's connection from time to time.
func drop(ctx context.Context, seed uint64, clients []*scenario.Client) {
	rng := rand.New(rand.NewPCG(seed, 2))
	tick := time.NewTicker(size(60*time.Millisecond, 20*time.Millisecond))
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			clients[rng.IntN((len(clients)+2)/3)*3].Drop()
		}
	}
}

// alone keeps two runs of the full size apart: each takes all of a small machine.
func alone(t *testing.T) {
	t.Helper()
	if !testenv.Long() {
		t.Parallel()
	}
}

func calm(ctx context.Context) { <-ctx.Done() }

// No event that was committed after a revocation reaches the one who was revoked, and each that was committed during a membership does:
// live, in catch-up, and over removal and return.
func TestMembershipsChurn(t *testing.T) {
	alone(t)
	w := scenario.Default(t, 0, size(36, 200))
	churn(t, w, []*scenario.Node{w.Node("MAX_CATCHUP_EVENTS=10000")}, calm)
}

// The same with two nodes, and clients that resume on either.
func TestMembershipsChurnOnTwoNodes(t *testing.T) {
	alone(t)
	w := scenario.Default(t, 0, size(36, 200))
	w.Node("ROLE=relay")
	churn(t, w, []*scenario.Node{w.Node("ROLE=ws", "MAX_CATCHUP_EVENTS=10000"), w.Node("ROLE=ws", "MAX_CATCHUP_EVENTS=10000")}, calm)
}

// The same while the nodes' subscriptions are cut and restored all the time, and one node's whole way to Redis now and then.
func TestMembershipsChurnWhileSubscriptionsAreCut(t *testing.T) {
	alone(t)
	redis := testenv.OwnRedis(t)
	proxy := testenv.Proxy(t, redis.Addr)
	w := scenario.New(t, testenv.Postgres(t), redis.URL(), 0, size(36, 200))
	w.Node("ROLE=relay")
	nodes := []*scenario.Node{w.Node("ROLE=ws", "MAX_CATCHUP_EVENTS=10000"), w.Node("ROLE=ws", "MAX_CATCHUP_EVENTS=10000", "REDIS_URL="+proxy.URL(redis.URL()))}
	killer := openRedis(t, redis.URL())
	churn(t, w, nodes, func(ctx context.Context) {
		tick := time.NewTicker(size(250*time.Millisecond, 500*time.Millisecond))
		defer tick.Stop()
		for n := 1; ; n++ {
			select {
			case <-ctx.Done():
				proxy.Resume()
				return
			case <-tick.C:
			}
			if err := killer.ClientKillByFilter(context.WithoutCancel(ctx), "TYPE", "pubsub").Err(); err != nil {
				t.Error(err)
			}
			switch n % 6 {
			case 2:
				proxy.Cut()
			case 4:
				proxy.Down()
			case 0:
				proxy.Resume()
			}
		}
	})
}
