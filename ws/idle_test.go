package ws_test

import (
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/outboxrelay/outboxrelay/internal/testenv"
)

// waiting counts the goroutines in a state, such as IO wait, that are in a function of this package.
func waiting(state, function string) (n int) {
	b := make([]byte, 8<<20)
	for goroutine := range strings.SplitSeq(string(b[:runtime.Stack(b, true)]), "\n\n") {
		if strings.Contains(goroutine, "["+state) && strings.Contains(goroutine, "/ws."+function) {
			n++
		}
	}
	return n
}

// idle waits until n connections are waited for outside the library, and none inside.
func idle(t *testing.T, n int) {
	t.Helper()
	testenv.Eventually(t, 10*time.Second, func() error {
		if outside, inside := waiting("IO wait", "(*limitedConn).await"), waiting("IO wait", "(*socket).readAll"); outside != n || inside != 0 {
			return fmt.Errorf("%d connections are waited for outside the library and %d inside, want %d and 0", outside, inside, n)
		}
		return nil
	})
}

// An idle connection costs a stack of 2 KiB, of 4 KiB if it is waited for inside the library, where each frame has to be read. Not parallel: it counts
// goroutines.
func TestIdleConnectionsAreWaitedForOutside(t *testing.T) {
	s := newStack(t)
	s.user("u1")
	n := s.node(nil)
	strange := n.dial()
	idle(t, 1)
	c := n.connect("u1")
	c.expect("ready", "live")
	idle(t, 2)

	c.send(`{"type":"ping"}`)
	c.expect("pong")
	idle(t, 2)
	ctx := c.conn.CloseRead(testenv.Context(t, 10*time.Second)) // reads the pongs
	if err := c.conn.Ping(ctx); err != nil {
		t.Fatal(err)
	}
	idle(t, 2)
	_ = strange.conn.Close(websocket.StatusNormalClosure, "")
	idle(t, 1)
	testenv.Eventually(t, 10*time.Second, func() error { // nor do the stacks of those who read and write stay
		if n := waiting("select", "(*Hub).work"); n > 0 {
			return fmt.Errorf("%d goroutines wait for work", n)
		}
		return nil
	})
}

// A message that comes in pieces, each when the connection has become idle, with a ping between its fragments. Not parallel: it looks at goroutines.
func TestPiecesOfAMessage(t *testing.T) {
	s := newStack(t)
	s.user("u1")
	n := s.node(nil)
	head, tail, _ := strings.Cut(authFrame(n.token("u1")), ",")
	first, middle, last := frameOf(text, head+","), frameOf(fin|ping, "hello"), frameOf(fin, tail)
	all := first + middle + last
	for name, cuts := range map[string][]int{
		"between frames":    {len(first), len(first + middle)},
		"in each header":    {1, 4, len(first) + 1, len(first) + 4, len(first+middle) + 1, len(first+middle) + 6},
		"in each payload":   {8, len(first) + 8, len(first+middle) + 20},
		"before a fragment": {len(first + middle)},
		"nowhere":           nil,
	} {
		conn, r := n.raw()
		idle(t, 1)
		sent := 0
		for _, cut := range append(cuts, len(all)) {
			_, _ = io.WriteString(conn, all[sent:cut])
			sent = cut
			if cut < len(all) {
				testenv.Eventually(t, 10*time.Second, func() error { // inside, for a message has begun
					if n := waiting("IO wait", "(*socket).readAll"); n != 1 {
						return fmt.Errorf("%s, after %d bytes: %d connections are waited for inside the library, want 1", name, cut, n)
					}
					return nil
				})
			}
		}
		awaitLive(t, r)
		idle(t, 1)
		conn.Close()
		testenv.Eventually(t, 10*time.Second, func() error { return n.connections(0) })
	}
}

// Whoever closes waits for the other's close frame (RFC 6455 section 7.1.1), also when the connection was idle: a reset would overtake its own.
func TestTheServerWaitsForTheClientsCloseFrame(t *testing.T) {
	t.Parallel()
	s := newStack(t)
	s.user("u1")
	n := s.node(nil)
	conn, r := n.raw()
	_, _ = io.WriteString(conn, frameOf(fin|text, authFrame(n.token("u1"))))
	awaitLive(t, r)
	s.exec("UPDATE relay.users SET is_active = false WHERE id = 'u1'")
	s.relay()
	if got := closeCode(r); got != 4503 {
		t.Fatalf("closed with %d, want 4503", got)
	}
	_ = conn.SetReadDeadline(time.Now().Add(200 * time.Millisecond)) // what must not happen happens at once
	if _, err := r.ReadByte(); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("after the server's close frame: %v, want nothing", err)
	}
	_ = conn.SetReadDeadline(time.Now().Add(20 * time.Second))
	_, _ = io.WriteString(conn, frameOf(fin|text, `{"type":"ping"}`)+closing(4503, ""))
	if _, err := r.ReadByte(); !errors.Is(err, io.EOF) {
		t.Errorf("after the client's: %v, want the end", err)
	}
}
