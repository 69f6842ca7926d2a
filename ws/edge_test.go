package ws_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/outboxrelay/outboxrelay/auth"
	"github.com/outboxrelay/outboxrelay/internal/testenv"
	"github.com/outboxrelay/outboxrelay/ws"
)

// transcript is everything that a client is sent up to live, byte by byte.
func (c *client) transcript() string {
	c.t.Helper()
	var all strings.Builder
	for !strings.Contains(all.String(), `"type":"live"`) {
		_, b, err := c.conn.Read(testenv.Context(c.t, 15*time.Second))
		if err != nil {
			c.t.Fatalf("%v after %s", err, all.String())
		}
		all.Write(b)
		all.WriteByte('\n')
	}
	return all.String()
}

// TestRoomsCannotBeEnumerated: a program of others, with events and members, and one that doesn't exist lead to the same bytes.
func TestRoomsCannotBeEnumerated(t *testing.T) {
	t.Parallel()
	s := newStack(t)
	s.user("u1", "p1")
	s.user("u2", "p1", "secret")
	s.relay()
	s.emit("p1", 1, 2)
	s.emit("secret", 1, 60) // more than one catch-up sends
	tick := s.settled()
	n := s.node(nil)
	other := n.connect("u2")
	other.expect("ready", "live")
	token := n.token("u1")
	for _, ask := range []string{
		`"programs":["%s"]`,
		`"programs":["%s"],"since":{"%s":"1"}`,
		`"programs":["p1","%s"],"since":{"p1":"1","%s":"1"}`,
		`"since":{"%s":"1"}`,
		fmt.Sprintf(`"since":{"%%s":"%d"}`, tick+1_000_000),
		`"since":{"%s":"99999999999999999999"}`,
		`"programs":["%s"],"since":"1"`,
		`"programs":["%s"],"lastEventTimestamp":1`,
		`"programs":["%s"],"batch":true`,
	} {
		var got []string
		for _, program := range []string{"secret", "nowhere"} {
			c := n.dial()
			c.send(authFrame(token, strings.ReplaceAll(ask, "%s", program)))
			got = append(got, c.transcript())
		}
		if got[0] != got[1] || strings.Contains(got[0], "secret") {
			t.Errorf("%s: of a program of others\n%s of one that doesn't exist\n%s", ask, got[0], got[1])
		}
	}
	var got []string
	for _, program := range []string{"secret", "nowhere"} {
		c, _ := n.connectHeader(token, "?programs="+program+"&since="+program+":1")
		got = append(got, c.transcript())
	}
	if got[0] != got[1] {
		t.Errorf("by header: of a program of others\n%s of one that doesn't exist\n%s", got[0], got[1])
	}
}

// TestTokenEndsInTime: an open connection ends between exp and a second after exp and leeway; what was renewed stays.
func TestTokenEndsInTime(t *testing.T) {
	t.Parallel()
	const leeway = time.Second
	s := newStack(t)
	s.user("u1")
	verifier, err := auth.NewVerifier(auth.Config{Secret: secret, Leeway: leeway})
	if err != nil {
		t.Fatal(err)
	}
	n := s.node(func(c *ws.Config) { c.Auth = verifier })
	short, renewed := n.dial(), n.dial()
	for _, c := range []*client{short, renewed} {
		c.send(authFrame(mint(t, secret, "u1", 2*time.Second)))
	}
	exp := short.expect("ready", "live")[0].TokenExpiresAt
	renewed.expect("ready", "live")
	renewed.send(authFrame(mint(t, secret, "u1", time.Hour)))
	short.expectClose("token_expired", 4001)
	late := 5 * time.Second // on a machine that runs all the tests at once
	if testenv.Long() {
		late = time.Second
	}
	if at := time.Now(); at.Before(exp.Add(leeway)) || at.After(exp.Add(leeway+late)) {
		t.Errorf("closed %v after exp, with a leeway of %v", at.Sub(exp), leeway)
	}
	renewed.send(`{"type":"ping"}`)
	renewed.expect("pong")
}

// TestRenewalReadsTheUserAgain, long before the ordinary look: without a relay nothing else tells the node.
func TestRenewalReadsTheUserAgain(t *testing.T) {
	t.Parallel()
	s := newStack(t)
	s.user("u1", "p1")
	n := s.node(func(c *ws.Config) { c.Recheck = time.Hour })
	c := n.connect("u1")
	c.expect("ready", "live")
	testenv.Eventually(t, 10*time.Second, func() error { // at connect, and once more when the subscription is confirmed
		if reads := n.metric("membership_reads_total", ""); reads != 2 {
			return fmt.Errorf("%v reads", reads)
		}
		return nil
	})
	s.exec("UPDATE relay.users SET is_active = false WHERE id = 'u1'")
	c.send(authFrame(n.token("u1")))
	c.expectClose("user_inactive", 4503) // nothing else says so but, seldom, a confirmation of the node's own topic that came late
}

// TestTurnedAwaySocketsDontPileUp: a client that doesn't answer the close frame held its socket for 5 s, in any number.
func TestTurnedAwaySocketsDontPileUp(t *testing.T) {
	t.Parallel()
	n := newStack(t).node(func(c *ws.Config) { c.MaxUnauthenticated = 5 })
	for range 50 {
		n.raw() // says nothing, not even goodbye
	}
	began := time.Now()
	testenv.Eventually(t, 20*time.Second, func() error { return n.connections(5) })
	if took := time.Since(began); took > 4*time.Second {
		t.Errorf("those who were turned away stayed for %v", took)
	}
}

// TestThoseWhoAreTurnedAwayAreBounded, however fast they come: each is told why, and past a number of them nobody waits for their goodbye.
func TestThoseWhoAreTurnedAwayAreBounded(t *testing.T) {
	t.Parallel()
	const flood = 100
	n := newStack(t).node(func(c *ws.Config) { c.MaxUnauthenticated = 5 })
	for range flood {
		conn, r := n.raw()
		_, _ = io.WriteString(conn, frameOf(fin|text, `{"type":"auth","token":"x"}`))
		if got := closeCode(r); got != 4500 {
			t.Fatalf("closed with %d, want 4500", got)
		}
		if open := n.metric("connections", ""); open > flood/2 {
			t.Fatalf("%v are open", open)
		}
	}
}

// TestWhoSendsATokenHasHisTime: with one place for those without a token five come at once, and only then send theirs. The oldest of them were told
// auth_timeout, after which a client doesn't come back.
func TestWhoSendsATokenHasHisTime(t *testing.T) {
	t.Parallel()
	s := newStack(t)
	s.user("u1")
	n := s.node(func(c *ws.Config) { c.MaxPerUser, c.MaxUnauthenticated = -1, 1 })
	auth := frameOf(fin|text, authFrame(n.token("u1")))
	var conns []net.Conn
	var readers []*bufio.Reader
	for range 5 {
		conn, r := n.raw()
		conns, readers = append(conns, conn), append(readers, r)
	}
	for _, conn := range conns {
		_, _ = io.WriteString(conn, auth)
	}
	for _, r := range readers {
		awaitLive(t, r)
	}
}

func TestBadHandshakeIsAnsweredWithoutEcho(t *testing.T) {
	t.Parallel()
	n := newStack(t).node(nil)
	for name, c := range map[string]struct {
		header, value string
		want          int
	}{
		"version": {"Sec-WebSocket-Version", "canary", 400},
		"key":     {"Sec-WebSocket-Key", "canary", 400},
		"upgrade": {"Upgrade", "canary", 426},
		"origin":  {"Origin", "https://canary.example", 403},
		"token":   {"Authorization", "Bearer canary", 401},
	} {
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http"+strings.TrimPrefix(n.url, "ws"), nil)
		if err != nil {
			t.Fatal(err)
		}
		for header, value := range map[string]string{
			"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13", "Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA==",
		} {
			r.Header.Set(header, value)
		}
		r.Header.Set(c.header, c.value)
		response, err := (&http.Transport{DisableKeepAlives: true}).RoundTrip(r)
		if err != nil {
			t.Fatal(err)
		}
		var all strings.Builder
		_ = response.Write(&all)
		response.Body.Close()
		if response.StatusCode != c.want || strings.Contains(all.String(), "canary") {
			t.Errorf("bad %s: want %d without an echo, got\n%s", name, c.want, all.String())
		}
	}
	conn, response, err := websocket.Dial(t.Context(), n.url, &websocket.DialOptions{CompressionMode: websocket.CompressionContextTakeover})
	if err != nil || response.Header.Get("Sec-WebSocket-Extensions") != "" {
		t.Fatalf("compression: %v, %q", err, response.Header)
	}
	_ = conn.CloseNow()
}
