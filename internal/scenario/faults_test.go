package scenario_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/outboxrelay/outboxrelay/internal/devstack"
	"github.com/outboxrelay/outboxrelay/internal/scenario"
	"github.com/outboxrelay/outboxrelay/internal/testenv"
)

// The workloads. Each is run once without a fault; its scenarios' commit times are told relative to that.
var workloads = map[string]scenario.Mix{
	"steady":   {Writers: 4, Pause: 40 * time.Millisecond, Sleep: 50 * time.Millisecond},
	"async":    {Writers: 4, Pause: 40 * time.Millisecond, Sleep: 50 * time.Millisecond, Async: true},
	"prepared": {Writers: 4, Pause: 40 * time.Millisecond, Sleep: 50 * time.Millisecond, Prepare: true},
}

// fault is one scenario: what is done to a system while writers write and clients listen.
type fault struct {
	name     string
	workload string
	run      func(*trial) // starts what it needs and calls load once
}

// TestFaults is the fault suite: `make faults`. FAULTS_SEED repeats a run's workloads; SOAK (a duration) runs it with other seeds until that has
// passed or a scenario fails.
func TestFaults(t *testing.T) {
	if os.Getenv("OUTBOX_RELAY_FAULTS") != "1" {
		t.Skip("the fault suite takes a quarter of an hour: run `make faults`")
	}
	seed := rand.Uint64()
	if text := os.Getenv("FAULTS_SEED"); text != "" {
		var err error
		if seed, err = strconv.ParseUint(text, 10, 64); err != nil {
			t.Fatalf("FAULTS_SEED=%q: want a number", text)
		}
	}
	var soak time.Duration
	if text := os.Getenv("SOAK"); text != "" {
		var err error
		if soak, err = time.ParseDuration(text); err != nil {
			t.Fatalf("SOAK=%q: want a duration, such as 1h", text)
		}
	}
	for began := time.Now(); ; seed = rand.Uint64() {
		everything(t, seed)
		if time.Since(began) >= soak || t.Failed() {
			return
		}
	}
}

// everything runs all scenarios once.
func everything(t *testing.T, seed uint64) {
	fmt.Printf("FAULTS_SEED=%d\n%s\n", seed, heading)
	references := map[string]time.Duration{} // by workload: the 99th percentile of COMMIT
	for _, list := range [][]fault{nodeFaults, postgresFaults, redisFaults, networkFaults, historyFaults} {
		for _, f := range list {
			t.Run(f.name, func(t *testing.T) {
				if references[f.workload] == 0 {
					r := &trial{T: t, name: "reference/" + f.workload, seed: seed, mix: workloads[f.workload]}
					r.undisturbed()
					references[f.workload] = r.report.LateCommit
				}
				f.run(&trial{T: t, name: f.name, seed: seed, mix: workloads[f.workload], reference: references[f.workload]})
			})
		}
	}
}

// trial is one run of a scenario.
type trial struct {
	*testing.T
	name      string
	seed      uint64
	mix       scenario.Mix
	reference time.Duration // of the workload's 99th percentile of COMMIT; 0: this is the reference

	pg      *devstack.Postgres
	redis   *devstack.Redis
	world   *scenario.World
	nodes   []*scenario.Node // that must be ready when all is well
	clients []*scenario.Client
	journal *scenario.Journal
	began   int64         // the load: a position
	gaps    bool          // clients are right to be told of gaps
	whole   time.Duration // the longest that it took to be whole again
	report  scenario.Report
	notes   string
}

// services starts a Postgres and a Redis for this trial alone.
func (t *trial) services(c devstack.PostgresConfig) {
	t.Helper()
	t.pg = testenv.OwnPostgres(t.T, c)
	t.on(t.pg.URL(), testenv.OwnRedis(t.T))
}

// on makes the world: five programs, of which a guest is a member of one.
func (t *trial) on(databaseURL string, redis *devstack.Redis) {
	t.Helper()
	t.redis = redis
	t.world = scenario.New(t.T, databaseURL, redis.URL(), 5, 2)
	t.exec("INSERT INTO relay.users (id) VALUES ('guest')")
	t.exec("INSERT INTO relay.program_members (user_id, program_id) VALUES ('guest', 'p0')")
}

func (t *trial) exec(query string) {
	t.Helper()
	if _, err := t.world.Pool.Exec(testenv.Context(t.T, 20*time.Second), query); err != nil {
		t.Fatalf("%s: %v", query, err)
	}
}

// node starts a node that must be ready when all is well.
func (t *trial) node(env ...string) *scenario.Node {
	t.Helper()
	n := t.world.Node(append([]string{"MAX_CATCHUP_EVENTS=10000"}, env...)...)
	t.nodes = append(t.nodes, n)
	return n
}

// audience connects the clients to the nodes: a steady one, one that drops its connection again and again, and one that is a guest.
func (t *trial) audience(nodes ...*scenario.Node) {
	t.Helper()
	t.clients = []*scenario.Client{scenario.NewClient("u0", nodes...), scenario.NewClient("u1", nodes...), scenario.NewClient("guest", nodes...)}
	t.clients[2].Programs = []string{"p0"}
	for _, c := range t.clients {
		c.Patience = 3 * time.Second
	}
	crowd(t.T, t.clients...)
}

// undisturbed is a reference run.
func (t *trial) undisturbed() {
	t.services(devstack.PostgresConfig{MaxPrepared: 20})
	t.audience(t.node())
	t.load(func() { t.pass(5 * time.Second) })
}

// pass lets the load go on for a while.
func (t *trial) pass(d time.Duration) {
	t.Helper()
	select {
	case <-time.After(d):
	case <-t.Context().Done():
		t.Fatal(t.Context().Err())
	}
}

// load runs the writers while act does its harm, judges, and prints the scenario's line.
func (t *trial) load(act func()) {
	t.Helper()
	t.began = time.Now().UnixMicro()
	t.journal = t.world.NewJournal(5)
	t.mix.Seed = t.seed
	ctx, cancel := context.WithCancel(t.Context())
	var group sync.WaitGroup
	group.Go(func() { t.journal.Write(ctx, t.mix) })
	second := t.clients[1]
	group.Go(func() { t.restless(ctx, second) })
	stop := sync.OnceFunc(func() {
		cancel()
		group.Wait()
	})
	defer stop()
	t.more(50)
	act()
	t.recovered()
	t.more(50)
	stop()
	t.judge()
}

// restless drops a client's connection again and again.
func (t *trial) restless(ctx context.Context, c *scenario.Client) {
	rng := rand.New(rand.NewPCG(t.seed, 1))
	for {
		select {
		case <-time.After(time.Duration(100+rng.IntN(400)) * time.Millisecond):
			c.Drop()
		case <-ctx.Done():
			return
		}
	}
}

// more waits until the first client has got n more events.
func (t *trial) more(n int) {
	t.Helper()
	before := t.clients[0].Received()
	if err := t.clients[0].Until(testenv.Context(t.T, 30*time.Second), func(c *scenario.Client) bool { return c.Count() >= before+n }); err != nil {
		t.Fatal(err)
	}
}

// recovered waits until every node is ready and every client has all that was committed up to now. The longest such wait is reported.
func (t *trial) recovered() {
	t.Helper()
	began := time.Now()
	keys := t.journal.Keys()
	for _, n := range t.nodes {
		n.Ready()
	}
	if err := scenario.Caught(testenv.Context(t.T, 60*time.Second), keys, t.clients...); err != nil {
		t.Fatal(err)
	}
	t.whole = max(t.whole, time.Since(began))
}

// newcomer makes one more client ask for everything since the load began, on a node that has been told of nothing: what the others don't show, because
// they and their nodes hold what they have been sent.
func (t *trial) newcomer(env ...string) {
	t.Helper()
	c := scenario.NewClient("u0", t.node(env...))
	c.Since, c.Patience = t.began, 3*time.Second
	t.clients = append(t.clients, c)
	run(t.T, c)
	if err := c.Live(testenv.Context(t.T, 20*time.Second), 1); err != nil {
		t.Error(err)
	}
}

const heading = "scenario                            events missing phantoms order inexact trespass errors outages repeats gaps    p99  (ref) whole"

// judge waits for the last events and prints the line.
func (t *trial) judge() {
	t.Helper()
	if err := t.journal.Complete(testenv.Context(t.T, 60*time.Second), t.clients...); err != nil {
		t.Error(err)
	}
	r, err := t.journal.Check(t.Context(), t.clients...)
	if err != nil {
		t.Fatal(err)
	}
	t.report = r
	ratio := 1.0
	if t.reference > 0 {
		ratio = float64(r.LateCommit) / float64(t.reference)
	}
	fmt.Printf("%-35s %6d %7d %8d %5d %7d %8d %6d %7d %7d %4d %4dms %5.1f× %5.1fs %s\n", t.name, r.Committed, len(r.Missing), len(r.Phantoms), len(r.Disorder),
		len(r.Inexact), len(r.Trespass), len(r.WriterErrors), r.Outages, r.Repeats, r.Gaps, r.LateCommit.Milliseconds(), ratio, t.whole.Seconds(), t.notes)
	if err := r.Err(); err != nil {
		t.Error(err)
	}
	if r.Gaps > 0 && !t.gaps {
		t.Errorf("clients were told of %d gaps although nothing was lost", r.Gaps)
	}
}

// note adds a measured figure to the scenario's line.
func (t *trial) note(format string, args ...any) {
	t.notes += " " + fmt.Sprintf(format, args...)
}

// within waits until check is nil, for d at most.
func (t *trial) within(d time.Duration, check func() error) {
	t.Helper()
	testenv.Eventually(t.T, d, check)
}

// leader returns the node that leads.
func (t *trial) leader(nodes ...*scenario.Node) (leads *scenario.Node) {
	t.Helper()
	t.within(20*time.Second, func() error {
		for _, n := range nodes {
			if n.Leading() {
				leads = n
				return nil
			}
		}
		return fmt.Errorf("no node leads")
	})
	return leads
}

// says waits until a node's /readyz is red and gives a reason that holds the text.
func (t *trial) says(n *scenario.Node, d time.Duration, text string) {
	t.Helper()
	t.within(d, func() error {
		_, err := n.Get("/readyz")
		if err == nil || !strings.Contains(err.Error(), text) {
			return fmt.Errorf("want %q in /readyz, got %w", text, err)
		}
		return nil
	})
}

// degraded waits until a node's /readyz says so.
func (t *trial) degraded(n *scenario.Node, d time.Duration) (page string) {
	t.Helper()
	t.within(d, func() error {
		_, err := n.Get("/readyz")
		if err == nil {
			return fmt.Errorf("the node is ready")
		}
		page = err.Error()
		return nil
	})
	return page
}
