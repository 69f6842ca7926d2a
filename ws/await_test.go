package ws_test

import (
	"fmt"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/outboxrelay/outboxrelay/auth"
	"github.com/outboxrelay/outboxrelay/internal/testenv"
	"github.com/outboxrelay/outboxrelay/relay"
	"github.com/outboxrelay/outboxrelay/ws"
)

// frozen is a node whose reads of older entries go through a proxy to Postgres, with a leeway of a second.
func (s *stack) frozen(change func(*ws.Config)) (*node, *testenv.TCPProxy) {
	s.t.Helper()
	at, err := pgx.ParseConfig(s.url)
	if err != nil {
		s.t.Fatal(err)
	}
	proxy := testenv.Proxy(s.t, net.JoinHostPort(at.Host, fmt.Sprint(at.Port)))
	far := testenv.Pool(s.t, proxy.URL(s.url))
	verifier, err := auth.NewVerifier(auth.Config{Secret: secret, Leeway: time.Second})
	if err != nil {
		s.t.Fatal(err)
	}
	return s.node(func(c *ws.Config) {
		c.Log = logs{relay.NewHistory(relay.HistoryConfig{Redis: s.redis, Pool: far, RecentTTL: time.Millisecond})}
		c.Auth, c.PingInterval, c.PingTimeout = verifier, 100*time.Millisecond, time.Second
		if change != nil {
			change(c)
		}
	}), proxy
}

// short authenticates with a token for a moment only; extra as in connect.
func (n *node) short(user string, extra ...string) *client {
	n.t.Helper()
	c := n.dial()
	c.send(authFrame(mint(n.t, secret, user, 2*time.Second), extra...))
	return c
}

// expectExpiry fails unless the connection ends for its token, between exp and leeway and a second later.
func (c *client) expectExpiry(exp time.Time) {
	c.t.Helper()
	c.expectClose("token_expired", 4001)
	late := 5 * time.Second // on a machine that runs all the tests at once
	if testenv.Long() {
		late = time.Second
	}
	if at := time.Now(); at.Before(exp.Add(time.Second)) || at.After(exp.Add(time.Second+late)) {
		c.t.Errorf("closed %v after exp, with a leeway of a second", at.Sub(exp))
	}
}

// A socket that waited for older entries, or for its turn to read them, looked at nothing else: with a Postgres that didn't answer its token
// outlived exp by 10 seconds for each socket before it, its pings weren't answered, and it sent none.
func TestTheTokenEndsWhileOlderEntriesAreAwaited(t *testing.T) {
	t.Parallel()
	s := newStack(t)
	s.user("u1", "p1")
	s.relay()
	start := s.settled()
	s.emit("p1", 1, 3)
	s.settled()
	n, proxy := s.frozen(nil)
	warm := n.connect("u1") // the database's clock is known from here on
	warm.expect("ready", "live")
	warm.close()
	proxy.Blackhole(testenv.ToClient)

	since := fmt.Sprintf(`"since":"%d"`, start)
	var ended sync.WaitGroup
	for range 4 {
		c := n.short("u1", since)
		exp := c.expect("ready")[0].TokenExpiresAt
		ended.Go(func() { c.expectExpiry(exp) }) // answers pings, else it would end with 4002
	}
	renewed := n.short("u1", since)
	renewed.expect("ready")
	renewed.send(authFrame(n.token("u1")))
	renewed.send(`{"type":"ping"}`)
	renewed.expect("pong")
	got := make(chan string, 1)
	go func() {
		var list []frame
		for len(list) == 0 || list[len(list)-1].Type != "live" {
			f, err := renewed.read()
			if err != nil {
				t.Errorf("the one who renewed: %v", err)
				break
			}
			list = append(list, f)
		}
		got <- fmt.Sprint(list)
	}()
	if err := renewed.conn.Ping(testenv.Context(t, 10*time.Second)); err != nil {
		t.Errorf("a ping of the protocol isn't answered: %v", err)
	}
	ended.Wait()
	proxy.Resume()
	if frames := <-got; frames != "[p1:1 p1:2 p1:3 live]" {
		t.Errorf("the one who renewed got %v", frames)
	}
}

// The same while memberships are read again.
func TestTheTokenEndsWhileMembershipsAreAwaited(t *testing.T) {
	t.Parallel()
	s := newRelayed(t, "p1")
	n, _ := s.frozen(func(c *ws.Config) { c.Recheck = 100 * time.Millisecond })
	c := n.short("u1")
	exp := c.expect("ready", "live")[0].TokenExpiresAt
	tx, err := testenv.Conn(t, s.url).Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tx.Exec(t.Context(), "LOCK TABLE relay.users IN ACCESS EXCLUSIVE MODE"); err != nil {
		t.Fatal(err)
	}
	c.expectExpiry(exp)
	if err := tx.Rollback(t.Context()); err != nil {
		t.Error(err)
	}
}

// A client that took each message just in time got one of each of its programs before anything else was looked at: its token outlived exp by the
// write timeout for each program, or for each 64 KiB of a page of older events.
func TestTheTokenEndsWhileAClientReadsSlowly(t *testing.T) {
	t.Parallel()
	const programs = 80
	s := newStack(t)
	names := make([]string, programs)
	for i := range names {
		names[i] = fmt.Sprintf("p%d", i)
	}
	s.user("u1", names...)
	s.relay()
	s.settled()
	// stuck is a client that takes nothing until resume; the node's only one.
	stuck := func(ttl time.Duration) (n *node, c *client, exp time.Time, resume func()) {
		n = s.node(func(c *ws.Config) { c.WriteTimeout, c.PingTimeout = time.Hour, time.Hour })
		proxy := testenv.Proxy(t, strings.TrimPrefix(n.url, "ws://"))
		far := *n
		far.url = "ws://" + proxy.Addr()
		c = far.dial()
		c.send(authFrame(mint(t, secret, "u1", ttl)))
		exp = c.expect("ready", "live")[0].TokenExpiresAt
		proxy.Blackhole(testenv.ToClient)
		return n, c, exp, proxy.Resume
	}
	n, ended, exp, resume := stuck(6 * time.Second)
	_, renewed, old, resumeRenewed := stuck(6 * time.Second)
	s.exec(`SELECT relay.emit(p, 'request:created', json_build_object('n', 1, 'x', repeat('x', 250000))) FROM unnest($1::text[]) p`, names)
	renewed.send(authFrame(n.token("u1")))
	time.Sleep(time.Until(exp))
	sent := n.metric("events_sent_total", "")
	if sent == 0 || sent > programs-5 {
		t.Fatalf("%v events were sent: it isn't stuck", sent)
	}
	resume()
	code, status := ended.ending()
	if code != "token_expired" || status != 4001 {
		t.Errorf("closed with %q, %d", code, status)
	}
	if all := n.metric("events_sent_total", ""); all > sent+1 { // the one whose write is under way isn't counted yet
		t.Errorf("%v events had been sent when the token ended, and %v in the end", sent, all)
	}
	time.Sleep(time.Until(old))
	resumeRenewed()
	for range programs {
		if f := renewed.next(); f.Type != "event" {
			t.Fatalf("the one who renewed got %v", f)
		}
	}
}
