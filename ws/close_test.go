package ws_test

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/outboxrelay/outboxrelay/internal/testenv"
	"github.com/outboxrelay/outboxrelay/ws"
)

func TestFirstFrameIsRefused(t *testing.T) {
	t.Parallel()
	s := newStack(t)
	s.user("u1", "p1")
	s.user("gone", "p1")
	s.exec("UPDATE relay.users SET is_active = false WHERE id = 'gone'")
	n := s.node(func(c *ws.Config) { c.AuthTimeout = time.Second })
	for _, c := range []struct {
		name, frame, code string
		status            websocket.StatusCode
	}{
		{"no token", `{"type":"auth"}`, "auth_required", 4501},
		{"empty token", authFrame(""), "auth_required", 4501},
		{"ping first", `{"type":"ping"}`, "auth_required", 4501},
		{"nothing", "", "auth_timeout", 4502},
		{"garbage token", authFrame("x.y.z"), "invalid_token", 4500},
		{"other secret", authFrame(mint(t, []byte("Wq8sd7FhQ2mZx0PvLr5TnYw3BcEu6AgD"), "u1", time.Hour)), "invalid_token", 4500},
		{"expired", authFrame(mint(t, secret, "u1", -time.Hour)), "token_expired", 4001},
		{"unknown user", authFrame(n.token("nobody")), "user_inactive", 4503},
		{"inactive user", authFrame(n.token("gone")), "user_inactive", 4503},
		{"no JSON", `{"type":"auth"`, "bad_frame", 1007},
		{"no object", `17`, "bad_frame", 1007},
		{"two values", `{"type":"ping"}{}`, "bad_frame", 1007},
		{"unknown type", `{"type":"subscribe"}`, "bad_frame", 1007},
		{"token of the wrong type", `{"type":"auth","token":5}`, "bad_frame", 1007},
		{"since is no number", authFrame(n.token("u1"), `"since":"abc"`), "bad_frame", 1007},
		{"since is negative", authFrame(n.token("u1"), `"since":{"p1":"-1"}`), "bad_frame", 1007},
		{"since is empty", authFrame(n.token("u1"), `"since":{"p1":""}`), "bad_frame", 1007},
		{"no time", authFrame(n.token("u1"), `"lastEventTimestamp":"yesterday"`), "bad_frame", 1007},
		{"bad UTF-8", "{\"type\":\"auth\",\"token\":\"\xff\"}", "bad_frame", 1007},
		{"too long", authFrame(strings.Repeat("x", 64<<10)), "bad_frame", 1009},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			client := n.dial()
			client.t = t
			if c.frame != "" {
				client.send(c.frame)
			}
			client.expectClose(c.code, c.status)
		})
	}
	t.Run("binary", func(t *testing.T) {
		t.Parallel()
		client := n.dial()
		if err := client.conn.Write(t.Context(), websocket.MessageBinary, []byte("x")); err != nil {
			t.Fatal(err)
		}
		client.expectClose("bad_frame", 1003)
	})
}

func TestHTTPAnswers(t *testing.T) {
	t.Parallel()
	s := newStack(t)
	s.user("u1", "p1")
	s.user("gone", "p1")
	s.exec("UPDATE relay.users SET is_active = false WHERE id = 'gone'")
	n := s.node(func(c *ws.Config) { c.Origins = []string{"https://app.example.com"} })
	response, err := http.Get("http" + strings.TrimPrefix(n.url, "ws"))
	if err != nil {
		t.Fatal(err)
	}
	response.Body.Close()
	if response.StatusCode != http.StatusUpgradeRequired {
		t.Errorf("plain GET: %d", response.StatusCode)
	}
	for origin, want := range map[string]int{"https://app.example.com": 101, "https://evil.example.com": 403, "null": 403} {
		conn, response, err := websocket.Dial(t.Context(), n.url, &websocket.DialOptions{HTTPHeader: http.Header{"Origin": {origin}}})
		if response.StatusCode != want {
			t.Errorf("Origin %s: %v (%v), want %d", origin, response.StatusCode, err, want)
		}
		if err == nil {
			_ = conn.CloseNow()
		}
	}
	expired := mint(t, secret, "u1", -time.Hour)
	for token, want := range map[string]struct {
		status int
		code   string
	}{
		"": {401, "auth_required"}, "x": {401, "invalid_token"}, expired: {401, "token_expired"},
		n.token("gone"): {403, "user_inactive"}, n.token("nobody"): {403, "user_inactive"},
	} {
		_, response := n.connectHeader(token, "")
		body, err := io.ReadAll(response.Body)
		if err != nil || response.StatusCode != want.status || !strings.Contains(string(body), `"code":"`+want.code+`"`) {
			t.Errorf("token %.10q: %d %s (%v), want %v", token, response.StatusCode, body, err, want)
		}
		if challenge := response.Header.Get("WWW-Authenticate"); (want.status == 401) != (challenge == "Bearer") {
			t.Errorf("token %.10q: WWW-Authenticate %q", token, challenge)
		}
	}
	c, _ := n.connectHeader(n.token("u1"), "?since=nonsense")
	c.expectClose("bad_frame", 1007)
	c, _ = n.connectHeader(n.token("u1"), "")
	c.expect("ready", "live")
	c.send(authFrame(n.token("gone"))) // a renewal, for somebody else
	c.expectClose("invalid_token", 4500)
}

// raw upgrades by hand and returns the connection behind the answer's head.
func (n *node) raw() (net.Conn, *bufio.Reader) {
	n.t.Helper()
	address := strings.TrimPrefix(n.url, "ws://")
	conn, err := net.Dial("tcp", address)
	if err != nil {
		n.t.Fatal(err)
	}
	n.t.Cleanup(func() { conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
	fmt.Fprintf(conn, "GET / HTTP/1.1\r\nHost: %s\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"+
		"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n", address)
	r := bufio.NewReader(conn)
	response, err := http.ReadResponse(r, nil)
	if err != nil || response.StatusCode != 101 {
		n.t.Fatalf("upgrade: %v, %v", response, err)
	}
	return conn, r
}

// closeCode reads frames until a close frame, and returns its code; 1006 if there is none.
func closeCode(r *bufio.Reader) int {
	for {
		head := make([]byte, 2)
		if _, err := io.ReadFull(r, head); err != nil {
			return 1006
		}
		size := int64(head[1])
		if size == 126 {
			var long uint16
			if binary.Read(r, binary.BigEndian, &long) != nil {
				return 1006
			}
			size = int64(long)
		}
		body := make([]byte, size)
		if _, err := io.ReadFull(r, body); err != nil {
			return 1006
		}
		if head[0]&0xf == 8 {
			return int(binary.BigEndian.Uint16(body))
		}
	}
}

func TestPingIsAnswered(t *testing.T) {
	t.Parallel()
	s := newStack(t)
	s.user("u1")
	c := s.node(nil).connect("u1")
	c.expect("ready", "live")
	c.send(`{"type":"ping"}`)
	c.expect("pong")
}

func TestSilentPeerIsClosed(t *testing.T) {
	t.Parallel()
	s := newStack(t)
	s.user("u1")
	n := s.node(func(c *ws.Config) { c.PingInterval, c.PingTimeout = 50*time.Millisecond, 200*time.Millisecond })
	conn, r := n.raw()
	_ = conn.SetReadDeadline(time.Now().Add(10 * time.Second))
	payload := authFrame(n.token("u1"))
	frame := append([]byte{0x81, 0x80 | 126, byte(len(payload) >> 8), byte(len(payload)), 0, 0, 0, 0}, payload...)
	if _, err := conn.Write(frame); err != nil {
		t.Fatal(err)
	}
	if got := closeCode(r); got != 4002 { // it never answers a ping
		t.Errorf("closed with %d, want 4002", got)
	}
	// One that reads, and so answers pings, stays.
	c := n.connect("u1")
	c.expect("ready", "live")
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if _, _, err := c.conn.Read(ctx); websocket.CloseStatus(err) != -1 {
		t.Errorf("an answering peer was closed: %v", err)
	}
}

func TestRateLimit(t *testing.T) {
	t.Parallel()
	s := newStack(t)
	s.user("u1")
	n := s.node(func(c *ws.Config) { c.MessageBurst = 5 })
	c := n.connect("u1")
	for range 10 {
		if c.conn.Write(t.Context(), websocket.MessageText, []byte(`{"type":"ping"}`)) != nil {
			break
		}
	}
	c.expectClose("rate_limited", 4013)
}

func TestConnectionLimits(t *testing.T) {
	t.Parallel()
	s := newStack(t)
	s.user("u1")
	s.user("u2")
	s.user("u3")
	n := s.node(func(c *ws.Config) { c.MaxPerUser, c.MaxConnections, c.MaxUnauthenticated = 2, 4, 2 })
	first := n.connect("u1")
	first.expect("ready", "live")
	n.connect("u1").expect("ready", "live")
	n.connect("u1").expectClose("connection_limit", 4504)
	for range 2 {
		n.connect("u2").expect("ready", "live")
	}
	for range 3 { // refused, they stay for as long as they don't answer the close frame
		if _, r := n.raw(); closeCode(r) != 4504 {
			t.Error("one more than the process takes wasn't told so")
		}
	}
	refused, _ := n.connectHeader(n.token("u2"), "")
	refused.expectClose("connection_limit", 4504)
	first.close()
	testenv.Eventually(t, 10*time.Second, func() error { return n.closes(1000, 1) })
	n.connect("u3").expect("ready", "live") // those who were refused take no place
}

// Strangers who send no token held all places of the process, and whoever had one was turned away for good.
func TestStrangersDontFillTheProcess(t *testing.T) {
	t.Parallel()
	s := newStack(t)
	s.user("u1")
	n := s.node(func(c *ws.Config) { c.AuthTimeout, c.MaxConnections, c.MaxUnauthenticated = time.Minute, 4, 3 })
	n.connect("u1").expect("ready", "live")
	strangers := make([]*client, 3)
	for i := range strangers {
		strangers[i] = n.dial()
		testenv.Eventually(t, 10*time.Second, func() error { return n.connections(float64(2 + i)) }) // a client hears of the upgrade before it is counted
	}
	for _, stranger := range strangers {
		testenv.Eventually(t, 20*time.Second, func() error { // at once, but for the moment that each of them has for its token
			f, err := n.connect("u1").read()
			if err == nil && f.Type == "ready" {
				return nil
			}
			if status := websocket.CloseStatus(err); status != 1013 {
				return fmt.Errorf("%v, closed with %d, %w", f, status, err)
			}
			return errors.New("to be tried again")
		})
		stranger.expectClose("", 1013)
	}
	n.connect("u1").expectClose("connection_limit", 4504) // the fifth with a token
}

func TestSlowConsumer(t *testing.T) {
	t.Parallel()
	s := newStack(t)
	s.user("slow", "p1")
	s.user("fast", "p1")
	s.relay()
	s.settled()
	n := s.node(func(c *ws.Config) { c.WriteTimeout = time.Second })
	slow, fast := n.connect("slow"), n.connect("fast")
	slow.expect("ready", "live")
	fast.expect("ready", "live")
	for range 60 {
		s.exec("SELECT relay.emit('p1', 'request:created', json_build_object('n', 1, 'pad', repeat('x', 250000)))")
		fast.expect("p1:1") // isn't held up
	}
	testenv.Eventually(t, 20*time.Second, func() error { return n.closes(4008, 1) })
	if err := n.connections(1); err != nil {
		testenv.Eventually(t, 20*time.Second, func() error { return n.connections(1) })
	}
}

func TestShutdownIsSpread(t *testing.T) {
	t.Parallel()
	const clients, grace = 10, time.Second
	s := newStack(t)
	s.user("u1")
	n := s.node(func(c *ws.Config) { c.ShutdownGrace = grace })
	closed := make(chan time.Time, clients)
	for range clients {
		c := n.connect("u1")
		c.expect("ready", "live")
		go func() {
			_, err := c.read()
			if websocket.CloseStatus(err) != websocket.StatusServiceRestart {
				t.Errorf("closed with %v, want 1012", err)
			}
			closed <- time.Now()
		}()
	}
	began := time.Now()
	n.stop()
	if took := time.Since(began); took > grace+time.Second {
		t.Errorf("stopped after %v", took)
	}
	early := 0
	for range clients {
		if at := <-closed; at.Sub(began) < grace/2 {
			early++
		}
	}
	if early < 3 || early > 7 {
		t.Errorf("%d of %d were closed in the first half of the grace time", early, clients)
	}
	if _, response, err := websocket.Dial(t.Context(), n.url, nil); err == nil || response.StatusCode != http.StatusServiceUnavailable {
		t.Errorf("a connection after the end: %v", err)
	}
}

func TestRedisDownAtConnect(t *testing.T) {
	t.Parallel()
	pool, url := testenv.DB(t)
	server := testenv.OwnRedis(t)
	s := newStackOn(t, pool, url, server.URL())
	s.user("u1", "p1")
	s.relay()
	s.settled()
	n := s.node(func(c *ws.Config) { c.WakeInterval = 100 * time.Millisecond })
	before := n.connect("u1")
	before.expect("ready", "live")
	if err := server.Stop(context.Background()); err != nil {
		t.Fatal(err)
	}
	c := n.connect("u1")
	for {
		_, err := c.read()
		if err == nil {
			continue
		}
		if websocket.CloseStatus(err) != websocket.StatusTryAgainLater {
			t.Errorf("closed with %v, want 1013", err)
		}
		break
	}
	testenv.Eventually(t, 10*time.Second, func() error {
		if len(n.hub.Ready()) == 0 {
			return fmt.Errorf("ready without Redis")
		}
		return nil
	})
	before.send(`{"type":"ping"}`) // who is connected stays
	before.expect("pong")
}
