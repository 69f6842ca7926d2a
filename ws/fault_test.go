package ws_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/outboxrelay/outboxrelay/auth"
	"github.com/outboxrelay/outboxrelay/internal/testenv"
	"github.com/outboxrelay/outboxrelay/relay"
	"github.com/outboxrelay/outboxrelay/ws"
)

// gate is a log of which nothing is heard or read while it is shut.
type gate struct {
	ws.Log
	shut atomic.Bool
}

func (g *gate) Watch(ctx context.Context, wake func(string, ws.News)) error {
	return g.Log.Watch(ctx, func(topic string, news ws.News) {
		if !g.shut.Load() {
			wake(topic, news)
		}
	})
}

var errShut = errors.New("the gate is shut")

func (g *gate) After(ctx context.Context, program string, after int64, limit int) (ws.Page, error) {
	if g.shut.Load() {
		return ws.Page{}, errShut
	}
	return g.Log.After(ctx, program, after, limit)
}

// valve is a log of which one program can't be read until it is opened.
type valve struct {
	ws.Log
	program string
	opened  chan struct{}
}

func (v *valve) After(ctx context.Context, program string, after int64, limit int) (ws.Page, error) {
	if program == v.program {
		select {
		case <-v.opened:
		case <-ctx.Done():
			return ws.Page{}, ctx.Err()
		}
	}
	return v.Log.After(ctx, program, after, limit)
}

// A socket whose memberships were read again before its room had read for the first time began at the newer position: what was committed
// between `ready` and there never arrived.
func TestMembershipsReadAgainBeforeTheRoomHasRead(t *testing.T) {
	t.Parallel()
	s := newRelayed(t, "p1")
	v := &valve{logs{relay.NewHistory(relay.HistoryConfig{Redis: s.redis, Pool: s.pool})}, "p1", make(chan struct{})}
	c := s.node(func(c *ws.Config) { c.Log = v }).connect("u1")
	c.expect("ready")
	s.emit("p1", 1, 2)
	s.join("u1", "p2")
	c.expect("joined p2") // so they have been read again
	close(v.opened)
	c.expect("p1:1", "p1:2", "live")
}

// A removal and a return in one batch hide what was committed in it after the return. Who met them when the next removal was known already was
// told `left`, `joined` and `left`, and nothing of the events in between.
func TestOutAndInBeforeALaterRemoval(t *testing.T) {
	t.Parallel()
	s := newStack(t)
	s.user("u1", "p1")
	stop := s.relay()
	s.settled()
	g := &gate{Log: logs{relay.NewHistory(relay.HistoryConfig{Redis: s.redis, Pool: s.pool})}}
	c := s.node(func(c *ws.Config) { c.Log, c.WakeInterval = g, 50*time.Millisecond }).connect("u1")
	c.expect("ready", "live")
	g.shut.Store(true)
	stop()
	s.flip("u1", "p1", 1)
	s.relay()
	hidden := s.settled()
	s.kick("u1", "p1")
	s.settled()
	g.shut.Store(false)
	got := c.expect("left p1", "joined p1", "gap p1 membership", "left p1")
	if gap := got[2]; number(gap.After) >= hidden || number(gap.Before) <= hidden {
		t.Errorf("gap %+v must span the batch up to %d", gap, hidden)
	}
}

// A room that couldn't read for longer than the retention restarts, and its clients are told.
func TestHistoryExpiresUnderALiveSocket(t *testing.T) {
	t.Parallel()
	s := newRelayed(t, "p1")
	g := &gate{Log: logs{relay.NewHistory(relay.HistoryConfig{Redis: s.redis, Pool: s.pool, RecentTTL: time.Millisecond})}}
	n := s.node(func(c *ws.Config) { c.Log, c.WakeInterval = g, 50*time.Millisecond })
	c := n.connect("u1")
	c.expect("ready", "live")
	s.emit("p1", 1, 1)
	first := c.expect("p1:1")[0]
	g.shut.Store(true)
	testenv.Eventually(t, 10*time.Second, func() error {
		if len(n.hub.Ready()) == 0 {
			return errors.New("ready, and can't read")
		}
		return nil
	})
	s.emit("p1", 2, 1)
	expired := s.settled()
	s.emit("p1", 3, 2)
	s.settled()
	s.exec("DELETE FROM relay.ticks WHERE position < $1", expired)
	s.exec("DELETE FROM relay.outbox WHERE data ->> 'n' IN ('1', '2')")
	g.shut.Store(false)
	got := c.expect("gap p1 expired", "p1:3", "p1:4")
	if g := got[0]; number(g.After) < first.position() || g.Before != got[1].Position {
		t.Errorf("gap %+v, want from %s to %s", g, first.Position, got[1].Position)
	}
	testenv.Eventually(t, 10*time.Second, func() error {
		if reasons := n.hub.Ready(); len(reasons) > 0 {
			return errors.New(reasons[0])
		}
		return nil
	})
	s.emit("p1", 5, 1)
	c.expect("p1:5")
}

// A socket whose cursor had expired went on as a member from the oldest position there is, even if the user's revocation had expired with what
// lay before: it was sent what the program's members got, up to the newest tick.
func TestARevocationExpiresUnderALiveSocket(t *testing.T) {
	t.Parallel()
	s := newRelayed(t, "p1", "p2")
	g := &gate{Log: logs{relay.NewHistory(relay.HistoryConfig{Redis: s.redis, Pool: s.pool, RecentTTL: time.Millisecond})}}
	n := s.node(func(c *ws.Config) { c.Log, c.WakeInterval = g, 50*time.Millisecond })
	c := n.connect("u1")
	c.expect("ready", "live")
	g.shut.Store(true)
	s.kick("u1", "p1")
	s.settled()
	s.emit("p1", 1, 1)
	expired := s.settled()
	s.emit("p1", 2, 3)
	s.settled()
	s.exec("DELETE FROM relay.ticks WHERE position < $1", expired)
	s.exec("DELETE FROM relay.outbox WHERE control OR data ->> 'n' = '1'")
	g.shut.Store(false)
	for _, f := range c.until("left p1") {
		if f.Type == "event" {
			t.Errorf("%v was sent after the revocation", f)
		}
	}
}

// A log that lost everything tells its readers too little, until the relay has repaired it. Nobody's cursor may move meanwhile.
func TestLostLogLeavesNoHole(t *testing.T) {
	t.Parallel()
	s := newRelayed(t, "p1", "p2")
	old := s.node(nil)
	live := old.connect("u1")
	start := live.expect("ready", "live")[1]
	s.emit("p1", 1, 3)
	live.expect("p1:1", "p1:2", "p1:3")
	s.settled()
	if err := s.redis.Del(context.Background(), "socket:events:program:p1").Err(); err != nil {
		t.Fatal(err)
	}
	since := fmt.Sprintf(`"since":%q`, start.Position)
	resumed := s.node(nil).connect("u1", since)
	resumed.expect("ready", "live") // told too little
	s.emit("p1", 4, 2)
	live.expect("p1:4", "p1:5")
	resumed.expect("p1:1", "p1:2", "p1:3", "p1:4", "p1:5")
}

// The same for everything at once, with clients that come and go.
func TestFlushUnderLoad(t *testing.T) {
	t.Parallel()
	const total = 300
	s := newStack(t)
	s.user("u1", "p1")
	s.user("u2", "p1")
	s.relay()
	s.settled()
	n := s.node(resumeConfig)
	live := n.connect("u1")
	live.expect("ready", "live")
	got := make(chan []frame, 1)
	go func() { got <- n.follow("u2", 1, total) }()
	for i := range total {
		s.emit("p1", 1+i, 1)
		if i%60 == 30 {
			if err := s.redis.FlushAll(context.Background()).Err(); err != nil {
				t.Error(err)
			}
		}
	}
	live.expect(events("p1", 1, total)...)
	for i, f := range <-got {
		if f.Data.N != i+1 {
			t.Fatalf("resuming: %v at place %d", f, i)
		}
	}
}

// A quiet room with many old cursors doesn't read the log once per socket and wake-up.
func TestQuietRoomReadsOnce(t *testing.T) {
	t.Parallel()
	const clients = 15
	s := newStack(t)
	s.user("u1", "p1", "busy")
	s.relay()
	first := s.settled()
	s.emit("busy", 1, 1)
	s.settled()
	n := s.node(func(c *ws.Config) { c.WakeInterval = 10 * time.Millisecond })
	for range clients {
		n.connect("u1", fmt.Sprintf(`"since":%q`, fmt.Sprint(first)), `"programs":["p1"]`).expect("ready", "live")
	}
	before := n.metric("older_reads_total", "")
	s.emit("busy", 2, 1)
	s.settled() // or it may come before live
	c := n.connect("u1", `"programs":["busy"]`)
	c.expect("ready", "live")
	for i := range 20 { // some wake-ups later
		s.emit("busy", 3+i, 1)
		c.expect(fmt.Sprintf("busy:%d", 3+i))
	}
	if got := n.metric("older_reads_total", "") - before; got > 1 {
		t.Errorf("%v further reads below the buffer", got)
	}
	s.emit("p1", 1, 1)
	s.settled() // or it may come behind live
	n.connect("u1", fmt.Sprintf(`"since":%q`, fmt.Sprint(first)), `"programs":["p1"]`).expect("ready", "p1:1", "live")
}

// tar is a log whose older entries are never read: a Postgres that takes questions and doesn't answer.
type tar struct{ ws.Log }

func (l tar) Before(ctx context.Context, _ string, _, _ int64, _ int) (ws.Page, error) {
	<-ctx.Done()
	return ws.Page{}, ctx.Err()
}

// Sockets that wait for their turn to read older entries couldn't be closed before they had had it. With a Postgres that didn't answer
// that took 10 seconds for each, one after the other, and the process outlived its grace by hours.
func TestShutdownDoesNotWaitForReads(t *testing.T) {
	t.Parallel()
	s := newStack(t)
	s.user("u1", "p1")
	s.relay()
	start := s.settled()
	s.emit("p1", 1, 1)
	s.settled()
	n := s.node(func(c *ws.Config) {
		c.Log = tar{logs{relay.NewHistory(relay.HistoryConfig{Redis: s.redis, Pool: s.pool})}}
	})
	const clients = 4
	for range clients {
		c := n.connect("u1", fmt.Sprintf(`"since":"%d"`, start))
		go func() { _, _ = c.read() }() // answers the close frame
	}
	testenv.Eventually(t, 10*time.Second, func() error { // each has read its memberships and their changes
		if n.metric("older_reads_total", "") == 0 || n.metric("membership_reads_total", "") < 2*clients {
			return errors.New("not everybody waits for older entries")
		}
		return nil
	})
	began := time.Now()
	n.stop()
	if d := time.Since(began); d > 9*time.Second {
		t.Errorf("stopped after %v", d)
	}
}

// A room whose newest entry Redis needn't hold any more took that for a log that had lost its end, and vouched for nothing: in a program that was
// quiet for longer than the window clients were given no checkpoint.
func TestAQuietRoomStillVouches(t *testing.T) {
	t.Parallel()
	s := newRelayed(t, "p1")
	n := s.node(func(c *ws.Config) {
		c.Log = logs{relay.NewHistory(relay.HistoryConfig{Redis: s.redis, Pool: s.pool, RecentTTL: time.Millisecond})}
	})
	c := n.connect("u1")
	c.expect("ready", "live")
	s.emit("p1", 1, 1)
	at := c.expect("p1:1")[0].position()
	s.settled()
	if live := n.connect("u1").expect("ready", "live")[1]; live.position() < at {
		t.Errorf("checkpoint %q, want at least %d", live.Position, at)
	}
}

// A client with a token in the header was given the memberships that had been read before the upgrade, and was told of changes after it. One in
// between went unnoticed for a minute, unless it was the user's first connection to the node.
func TestMembershipsChangeDuringTheUpgrade(t *testing.T) {
	t.Parallel()
	pool, url := testenv.DB(t)
	s := newStackOn(t, pool, url, testenv.Redis(t))
	s.user("u1", "p1")
	s.relay()
	s.settled()
	at, err := pgx.ParseConfig(url)
	if err != nil {
		t.Fatal(err)
	}
	proxy := testenv.Proxy(t, net.JoinHostPort(at.Host, fmt.Sprint(at.Port)))
	far := testenv.Pool(t, proxy.URL(url))
	n := s.node(func(c *ws.Config) { c.Store = auth.NewStore(far) })
	n.connect("u1").expect("ready", "live")
	warm, _ := n.connectHeader(n.token("u1"), "") // its statement is prepared from here on
	warm.expect("ready", "live")

	began := time.Now()
	proxy.Latency(time.Second)
	connected := make(chan *client, 1)
	go func() {
		c, _ := n.connectHeader(n.token("u1"), "")
		connected <- c
	}()
	testenv.Eventually(t, 10*time.Second, func() error { // the answer is on its way
		var answered int
		err := pool.QueryRow(t.Context(), `SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()
			AND query LIKE '%name: Memberships%' AND state = 'idle' AND query_start > $1 AND pid <> pg_backend_pid()`, began).Scan(&answered)
		if err == nil && answered == 0 {
			err = errors.New("the memberships haven't been read")
		}
		return err
	})
	s.join("u1", "p2")
	s.settled()
	proxy.Latency(0)
	c := <-connected
	c.expect("ready") // what was committed before is not what a live start sends
	s.emit("p2", 1, 1)
	c.until("p2:1")
}

// What a room has buffered of an erased event isn't sent any more.
func TestAnErasedEventIsForgottenByRooms(t *testing.T) {
	t.Parallel()
	s := newRelayed(t, "p1")
	n := s.node(nil)
	c := n.connect("u1")
	c.expect("ready", "live")
	s.emit("p1", 7, 2)
	got := c.expect("p1:7", "p1:8")
	id, err := strconv.ParseInt(got[0].ID, 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := relay.Erase(testenv.Context(t, 20*time.Second), s.pool, s.redis, id); err != nil {
		t.Fatal(err)
	}
	testenv.Eventually(t, 10*time.Second, func() error { // the node's subscription brings the news
		again := n.connect("u1", fmt.Sprintf(`"since":{"p1":"%d"}`, got[0].position()-1))
		defer again.close()
		frames := again.until("live")
		if f := frames[1]; f.Position != got[0].Position || f.Data.N != 0 {
			return fmt.Errorf("got %v at %s", f, f.Position)
		}
		return nil
	})
}

// A row of the application's that can't be read had the node taken out of service each time its user connected, while all others were served.
func TestOneUsersRowsCannotBeRead(t *testing.T) {
	t.Parallel()
	s := newStack(t)
	for _, user := range []string{"good", "bad-one", "bad-two"} {
		s.user(user, "p1")
	}
	s.relay()
	s.settled()
	s.exec("ALTER TABLE relay.program_members RENAME TO members")
	s.exec(`CREATE FUNCTION relay.judge(id text) RETURNS boolean LANGUAGE plpgsql AS
		$$ BEGIN IF id LIKE 'bad%' THEN RAISE 'a bad row'; END IF; RETURN true; END $$`)
	s.exec("CREATE VIEW relay.program_members AS SELECT user_id, program_id, relay.judge(user_id) AS is_active FROM relay.members")
	var log lines
	n := s.node(func(c *ws.Config) { c.Logger = slog.New(slog.NewTextHandler(&log, nil)) })
	c := n.connect("good")
	c.expect("ready", "live")
	for range 3 {
		n.connect("bad-one").expectClose("", 1013)
		if _, response := n.connectHeader(n.token("bad-one"), ""); response == nil || response.StatusCode != http.StatusServiceUnavailable {
			t.Errorf("by header: %v", response)
		}
	}
	if r := n.hub.Ready(); len(r) > 0 {
		t.Errorf("not ready for one user's row: %q", r)
	}
	if text := log.String(); strings.Count(text, "level=WARN") != 1 || !strings.Contains(text, "user=bad-one") || !strings.Contains(text, "a bad row") {
		t.Errorf("want one line about the user:\n%s", text)
	}
	n.connect("bad-two").expectClose("", 1013) // nobody was served in between
	if r := n.hub.Ready(); len(r) != 1 || !strings.Contains(r[0], "memberships: ") || strings.Contains(r[0], "bad-") {
		t.Errorf("two users can't be read: %q", r)
	}
	n.connect("good").expect("ready", "live")
	if r := n.hub.Ready(); len(r) > 0 {
		t.Errorf("others are served again: %q", r)
	}
	s.emit("p1", 1, 1)
	c.until("p1:1")
}

// lines is a log; safe to read while it is written.
type lines struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}
