package scenario_test

import (
	"context"
	"fmt"
	"os/exec"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/outboxrelay/outboxrelay/internal/devstack"
	"github.com/outboxrelay/outboxrelay/internal/scenario"
	"github.com/outboxrelay/outboxrelay/internal/testenv"
)

var postgresFaults = []fault{
	{"postgres/restarted", "steady", postgresRestarted},
	{"postgres/stopped-immediately", "async", postgresStoppedImmediately},
	{"postgres/sessions-terminated", "steady", sessionsTerminated},
	{"postgres/failover-lost-the-tail", "steady", failoverLostTheTail},
	{"postgres/older-copy-brought-back", "steady", olderCopyBroughtBack},
	{"postgres/two-primaries", "steady", twoPrimaries},
	{"postgres/dumped-and-restored", "steady", dumpedAndRestored},
	{"postgres/standby-refused", "steady", standbyRefused},
	{"postgres/notify-queue-full", "steady", notifyQueueFull},
	{"postgres/timeouts", "steady", shortTimeouts},
	{"postgres/disk-full-on-the-tick", "steady", diskFullOnTheTick},
	{"postgres/prepared-transactions", "prepared", preparedTransactions},
}

// do fails the trial if a step of the harm itself fails.
func (t *trial) do(what string, err error) {
	t.Helper()
	if err != nil {
		t.Fatalf("%s: %v", what, err)
	}
}

// Postgres is shut down in order, with all sessions cut, and started again.
func postgresRestarted(t *trial) {
	t.services(devstack.PostgresConfig{})
	t.audience(t.node(), t.node())
	t.mix.Tolerate = true
	t.load(func() {
		for range 2 {
			t.do("stop Postgres", t.pg.Stop(testenv.Context(t.T, 30*time.Second)))
			t.degraded(t.nodes[0], 10*time.Second)
			t.do("start Postgres", t.pg.Start(testenv.Context(t.T, 60*time.Second)))
			t.recovered()
			t.more(50)
		}
	})
}

// Postgres crashes, with commits that it may take back: it may not take back what a client has got.
func postgresStoppedImmediately(t *trial) {
	t.services(devstack.PostgresConfig{Settings: map[string]string{"wal_writer_delay": "500ms"}})
	t.audience(t.node(), t.node())
	t.mix.Tolerate = true
	t.load(func() {
		for range 3 {
			t.do("stop Postgres", t.pg.StopImmediate(testenv.Context(t.T, 30*time.Second)))
			t.do("start Postgres", t.pg.Start(testenv.Context(t.T, 60*time.Second)))
			t.journal.Forgive() // what was committed asynchronously may be gone
			t.recovered()
			t.more(50)
		}
	})
}

// All sessions of all nodes are terminated, again and again.
func sessionsTerminated(t *trial) {
	t.services(devstack.PostgresConfig{})
	t.audience(t.node(), t.node())
	t.load(func() {
		for range 20 {
			t.terminateSessions()
			t.pass(250 * time.Millisecond)
		}
	})
}

func (t *trial) terminateSessions() {
	t.Helper()
	t.exec("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE 'outbox-relay%'")
}

// standby makes a standby that streams through a proxy.
func (t *trial) standby() (*devstack.Postgres, *testenv.TCPProxy) {
	t.Helper()
	if t.pg.Rung == "npm" {
		t.Skip("this PostgreSQL has no pg_basebackup")
	}
	link := testenv.Proxy(t.T, postgresAddr(t.pg))
	s, err := t.pg.Standby(testenv.Context(t.T, time.Minute), link.Addr())
	t.do("make a standby", err)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		if err := s.Close(ctx); err != nil {
			t.Errorf("close the standby: %v", err)
		}
	})
	return s, link
}

// follows waits until the standby has what the primary holds now.
func (t *trial) follows(standby *devstack.Postgres) {
	t.Helper()
	var lsn string
	ctx := testenv.Context(t.T, 20*time.Second)
	t.do("ask the primary", t.world.Pool.QueryRow(ctx, "SELECT pg_current_wal_lsn()::text").Scan(&lsn))
	conn := testenv.Conn(t.T, standby.URL())
	t.within(20*time.Second, func() error {
		var there bool
		if err := conn.QueryRow(ctx, "SELECT pg_last_wal_replay_lsn() >= $1::text::pg_lsn", lsn).Scan(&there); err != nil || !there {
			return fmt.Errorf("the standby hasn't replayed %s (%w)", lsn, err)
		}
		return nil
	})
	t.do("leave the standby", conn.Close(ctx))
}

// The primary dies, and the asynchronous standby that takes its place has never seen the last transactions, although clients have got their
// events: they are told by a gap. Everybody finds the new primary by a URL with both hosts.
func failoverLostTheTail(t *trial) {
	t.pg = testenv.OwnPostgres(t.T, devstack.PostgresConfig{})
	standby, link := t.standby()
	url := fmt.Sprintf("postgres://postgres@127.0.0.1:%d,127.0.0.1:%d/postgres?sslmode=disable&target_session_attrs=read-write&connect_timeout=5", t.pg.Port, standby.Port)
	t.on(url, testenv.OwnRedis(t.T))
	t.audience(t.node(), t.node())
	t.mix.Tolerate, t.gaps = true, true
	t.load(func() {
		t.follows(standby)
		link.Blackhole()
		t.more(200) // sent to clients, and about to be lost
		t.do("stop the primary", t.pg.StopImmediate(testenv.Context(t.T, 30*time.Second)))
		t.do("promote", standby.Promote(testenv.Context(t.T, 60*time.Second)))
		t.journal.Forgive() // the new primary says what has survived
		t.recovered()
		t.toldOfNewHistory()
	})
}

// The database's volume is put back to a snapshot of a while ago: the system and its timeline are those that they were, and only Redis can
// say that there has been more.
func olderCopyBroughtBack(t *trial) {
	t.services(devstack.PostgresConfig{})
	t.audience(t.node(), t.node())
	t.mix.Tolerate, t.gaps = true, true
	snapshot := t.pg.DataDir + ".snapshot"
	t.load(func() {
		t.more(50)
		t.offline("cp", "-a", t.pg.DataDir, snapshot)
		t.recovered()
		t.more(200) // sent to clients, and about to be lost
		t.offline("sh", "-c", `rm -r "$1" && mv "$2" "$1"`, "sh", t.pg.DataDir, snapshot)
		t.journal.Forgive() // the snapshot says what has survived
		t.recovered()
		t.toldOfNewHistory()
	})
}

// offline runs a command while Postgres lies as a crash has left it.
func (t *trial) offline(name string, args ...string) {
	t.Helper()
	ctx := testenv.Context(t.T, 60*time.Second)
	t.do("stop Postgres", t.pg.StopImmediate(ctx))
	if out, err := exec.CommandContext(ctx, name, args...).CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", name, err, out)
	}
	t.do("start Postgres", t.pg.Start(ctx))
}

// toldOfNewHistory checks that every client was told that what it had been sent is no more, and that nothing of the two histories can be
// mistaken for each other.
func (t *trial) toldOfNewHistory() {
	t.Helper()
	for _, c := range t.clients {
		if err := c.Until(testenv.Context(t.T, 5*time.Second), func(c *scenario.Client) bool { return c.Told("reset") > 0 }); err != nil {
			t.Errorf("nobody told %s of the new history: %v", c.User, err)
		}
	}
	t.more(50)
	apart, alike := t.clients[0].SharedIDs()
	t.note("ids handed out twice %d", apart+alike)
	if apart == 0 || alike > 0 {
		t.Errorf("ids that were handed out twice: %d can be told apart, want some; %d can't, want none", apart, alike)
	}
}

// The standby is promoted while the old primary lives on, and its relay with it: that one stops and says so.
func twoPrimaries(t *trial) {
	t.pg = testenv.OwnPostgres(t.T, devstack.PostgresConfig{})
	standby, _ := t.standby()
	front := testenv.Proxy(t.T, postgresAddr(t.pg))
	t.on(front.URL(t.pg.URL()), testenv.OwnRedis(t.T))
	old := t.world.Node("ROLE=relay", "DATABASE_URL="+t.pg.URL())
	t.leader(old)
	node := t.node()
	t.audience(node)
	t.mix.Tolerate, t.gaps = true, true
	left := testenv.Conn(t.T, t.pg.URL())
	t.load(func() {
		t.follows(standby)
		t.do("promote", standby.Promote(testenv.Context(t.T, 60*time.Second)))
		front.SetTarget(postgresAddr(standby))
		t.journal.Forgive()
		t.leader(node)
		t.more(50)
		for n := range 10 { // nobody may see these
			_, err := left.Exec(t.Context(), "SELECT relay.emit('p0', 'scenario:happened', json_build_object('key', $1::text))", fmt.Sprintf("split-%d", n))
			t.do("write to the old primary", err)
		}
		t.says(old, 20*time.Second, "newer timeline")
	})
}

// A dump is restored into a new cluster, where transaction ids start over: what had been relayed isn't again, what hadn't is, once. Of the tick that Redis
// hadn't got the relay's own clients may have been told: they get exact repeats.
func dumpedAndRestored(t *trial) {
	t.services(devstack.PostgresConfig{})
	front := testenv.Proxy(t.T, postgresAddr(t.pg))
	redis := t.redis
	t.world.Pool.Close()
	t.world = scenario.Adopt(t.T, front.URL(t.pg.URL()), redis.URL())
	fresh := t.empty()
	node := t.node()
	t.audience(node)
	t.mix.Tolerate = true
	t.gaps = true // who went on in the new history before he learned of it can't be told from who had been sent what is no more
	told := 0
	t.load(func() {
		node.Kill()
		told = len(t.clients) * t.unpublished()
		t.pass(time.Second) // nobody relays these
		front.Down()
		t.do("remember what was committed", t.journal.Remember(t.Context(), t.restore(fresh)))
		front.SetTarget(postgresAddr(fresh))
		front.Resume()
		node.Start()
	})
	if t.report.Repeats > told {
		t.Errorf("%d events were relayed again, want at most the %d that Redis hadn't got", t.report.Repeats, told)
	}
}

// unpublished returns how many events the ticks hold that Redis hasn't got as a whole.
func (t *trial) unpublished() (events int) {
	t.Helper()
	head, err := openRedis(t.T, t.redis.URL()).Get(t.Context(), "socket:events:head").Result()
	t.do("read the head", err)
	position, err := strconv.ParseInt(head[strings.LastIndexByte(head, ':')+1:], 10, 64)
	t.do("read the head's position", err)
	err = t.world.Pool.QueryRow(t.Context(), "SELECT coalesce(sum(events), 0) FROM relay.ticks WHERE position > $1", position).Scan(&events)
	t.do("count what is unpublished", err)
	return events
}

// empty starts a cluster of another identity, with the roles and nothing else.
func (t *trial) empty() *devstack.Postgres {
	t.Helper()
	p, err := devstack.StartPostgres(testenv.Context(t.T, 2*time.Minute), devstack.PostgresConfig{FreshIdentity: true})
	t.do("start another Postgres", err)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		if err := p.Close(ctx); err != nil {
			t.Errorf("close the other Postgres: %v", err)
		}
	})
	conn := testenv.Conn(t.T, p.URL())
	for _, role := range []string{"relay_emitter", "relay_relay", "relay_migrator"} {
		_, err := conn.Exec(t.Context(), "CREATE ROLE "+role+" NOLOGIN")
		t.do("create "+role, err)
	}
	return p
}

// restore carries the database over by pg_dump and psql, once its last transaction has ended.
func (t *trial) restore(to *devstack.Postgres) (old *pgx.Conn) {
	t.Helper()
	conn := testenv.Conn(t.T, t.pg.URL())
	t.within(20*time.Second, func() error {
		var n int
		err := conn.QueryRow(t.Context(), "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()").Scan(&n)
		if err == nil && n > 0 {
			err = fmt.Errorf("%d sessions are left", n)
		}
		return err
	})
	path := t.pg.DataDir + ".sql"
	_, err := t.pg.Tool(testenv.Context(t.T, time.Minute), "pg_dump", "-f", path)
	t.do("dump", err)
	_, err = to.Tool(testenv.Context(t.T, time.Minute), "psql", "-q", "-v", "ON_ERROR_STOP=1", "-f", path)
	t.do("restore", err)
	return conn
}

// A relay that is pointed at a standby never leads, and says why: a standby's snapshots lack open transactions.
func standbyRefused(t *trial) {
	t.services(devstack.PostgresConfig{})
	standby, _ := t.standby()
	node := t.node()
	t.audience(node)
	t.load(func() {
		t.leader(node).Kill() // so that somebody is wanted
		wrong := t.world.Node("ROLE=relay", "DATABASE_URL="+standby.URL())
		t.says(wrong, 20*time.Second, "the database is a standby")
		if wrong.Leading() {
			t.Error("the relay on the standby leads")
		}
		node.Start()
	})
}

// Somebody else's stuck listener lets the NOTIFY queue of the whole cluster fill up; full, it would make every COMMIT with a NOTIFY fail. Writers stop
// notifying when it is half full, although the relay sleeps: it finds their events by itself, says so, and is notified again when there is room.
func notifyQueueFull(t *trial) {
	t.services(devstack.PostgresConfig{})
	t.mix.Pause = 400 * time.Millisecond // so little that the relay sleeps
	node := t.node()
	t.audience(node)
	t.exec("CREATE DATABASE elsewhere")
	elsewhere := strings.Replace(t.pg.URL(), "/postgres?", "/elsewhere?", 1)
	stuck, filler, ear := testenv.Conn(t.T, elsewhere), testenv.Conn(t.T, elsewhere), testenv.Conn(t.T, t.pg.URL())
	for _, statement := range []string{"LISTEN x", "BEGIN", "SELECT 1"} {
		_, err := stuck.Exec(t.Context(), statement)
		t.do(statement, err)
	}
	_, err := ear.Exec(t.Context(), "LISTEN relay_outbox")
	t.do("listen", err)
	t.load(func() {
		if t.wakeUps(ear) == 0 {
			t.Error("nobody notified while the queue was empty: this run shows nothing")
		}
		for usage := 0.0; usage < 0.5; {
			_, err := filler.Exec(t.Context(), "SELECT pg_notify('x', repeat('x', 7990) || n) FROM generate_series(1, 10000) n")
			t.do("fill the queue", err)
			t.do("look at the queue", filler.QueryRow(t.Context(), "SELECT pg_notification_queue_usage()").Scan(&usage))
		}
		t.within(20*time.Second, func() error {
			page, err := node.Get("/readyz")
			if err == nil && !strings.Contains(page, "polling: Postgres' queue of notifications is more than half full") {
				err = fmt.Errorf("/readyz doesn't say that nobody notifies: %s", page)
			}
			return err
		})
		t.within(10*time.Second, func() error { return t.asleep(node) })
		t.wakeUps(ear)
		before := t.metric(node, "outbox_relay_fallback_reads_total")
		t.more(200)
		t.do("look whether the relay sleeps", t.asleep(node))
		found, heard := t.metric(node, "outbox_relay_fallback_reads_total")-before, t.wakeUps(ear)
		t.note("found by polling %.0f times, notified %d times", found, heard)
		if heard > 0 || found == 0 {
			t.Error("writers notified although the queue is half full")
		}
		_, err = stuck.Exec(t.Context(), "ROLLBACK")
		t.do("let go", err)
		t.within(30*time.Second, func() error {
			if t.wakeUps(ear) == 0 {
				return fmt.Errorf("nobody notifies although the queue is empty again")
			}
			return nil
		})
	})
}

// wakeUps counts what writers have sent to a listener since it was asked last.
func (t *trial) wakeUps(ear *pgx.Conn) (n int) {
	t.Helper()
	t.do("ping", ear.Ping(t.Context())) // brings in what has been sent
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	for {
		notification, err := ear.WaitForNotification(ended)
		if err != nil {
			return n
		}
		if notification.Payload == "" { // else the relay's own canary
			n++
		}
	}
}

func (t *trial) metric(n *scenario.Node, name string) float64 {
	t.Helper()
	value, err := n.Metric(name)
	t.do("read the metric", err)
	return value
}

func (t *trial) asleep(n *scenario.Node) error {
	t.Helper()
	if t.metric(n, "outbox_relay_asleep") != 1 {
		return fmt.Errorf("the relay is awake")
	}
	return nil
}

// The database's own limits on statements, locks and idle transactions are short. They don't concern the leader's session, and writers who have them
// don't notify: who waited for the lock that a NOTIFY takes would fail at COMMIT.
func shortTimeouts(t *trial) {
	t.services(devstack.PostgresConfig{})
	t.mix.Pause = 400 * time.Millisecond // so little that the relay sleeps
	for _, setting := range []string{"statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout"} {
		t.exec("ALTER DATABASE postgres SET " + setting + " = '900ms'")
	}
	t.world.Pool.Reset() // the writers' sessions have them too
	ear, holder := testenv.Conn(t.T, t.pg.URL()), testenv.Conn(t.T, t.pg.URL())
	_, err := ear.Exec(t.Context(), "LISTEN relay_outbox")
	t.do("listen", err)
	t.audience(t.node(), t.node())
	t.load(func() {
		leader := t.leader(t.nodes...)
		t.within(10*time.Second, func() error { return t.asleep(leader) })
		ended := t.metric(leader, "outbox_relay_sessions_ended_total")
		t.wakeUps(ear)
		for _, statement := range []string{"BEGIN", "SET LOCAL idle_in_transaction_session_timeout = 0", "LOCK TABLE relay.ticks IN EXCLUSIVE MODE"} {
			_, err := holder.Exec(t.Context(), statement)
			t.do(statement, err)
		}
		t.pass(1500 * time.Millisecond) // no tick can be committed
		_, err := holder.Exec(t.Context(), "ROLLBACK")
		t.do("let go", err)
		t.more(100)
		if n := t.metric(leader, "outbox_relay_sessions_ended_total") - ended; n > 0 {
			t.Errorf("the leader lost %.0f sessions to a wait of 1.5 s", n)
		}
		if n := t.wakeUps(ear); n > 0 {
			t.Errorf("writers notified %d times although their COMMIT may wait for less than a second", n)
		}
		for range 3 {
			t.terminateSessions()
			t.pass(1500 * time.Millisecond)
		}
	})
}

// Two-phase commits: the events come with COMMIT PREPARED, whether the relay sleeps or not.
func preparedTransactions(t *trial) {
	t.services(devstack.PostgresConfig{MaxPrepared: 20})
	t.audience(t.node(), t.node())
	t.load(func() {
		t.leader(t.nodes...).Kill()
		t.more(50)
		for _, n := range t.nodes {
			if _, ended := n.Exited(time.Millisecond); ended {
				n.Start()
			}
		}
	})
}
