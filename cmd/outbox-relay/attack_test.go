package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/outboxrelay/outboxrelay/auth"
	"github.com/outboxrelay/outboxrelay/internal/testenv"
)

func long() bool { return testenv.Long() }

// attack is many clients in bad faith on one server.
type attack struct {
	t     *testing.T
	addr  string
	group sync.WaitGroup
	slots chan struct{} // of those that dial at a time: the client must not be what is slow

	turnedAway atomic.Int32 // silent ones
	cut        atomic.Int32 // slow ones
	admitted   atomic.Int32 // greedy ones
	refused    atomic.Int32 // greedy ones, by 4504
	early      atomic.Int32 // greedy ones that had to go before they could send their token
}

func newAttack(t *testing.T, addr string) *attack {
	return &attack{t: t, addr: addr, slots: make(chan struct{}, 64)}
}

// each runs n clients, and releases them at the end of the test.
func (a *attack) each(n int, run func(ctx context.Context)) {
	ctx, cancel := context.WithCancel(context.Background())
	var all sync.WaitGroup
	for range n {
		a.slots <- struct{}{}
		all.Go(func() { run(ctx) })
	}
	a.t.Cleanup(func() { cancel(); all.Wait() })
}

func (a *attack) dialed() { <-a.slots }

// dial opens a WebSocket, for a client at this address.
func (a *attack) dial(ctx context.Context, from string) (*websocket.Conn, error) {
	conn, _, err := websocket.Dial(ctx, "ws://"+a.addr+"/ws", &websocket.DialOptions{HTTPHeader: http.Header{"X-Forwarded-For": {from}}})
	return conn, err
}

// silent sockets say nothing; they learn that they had to go.
func (a *attack) silent(n int) {
	a.group.Go(func() {
		a.each(n, func(ctx context.Context) {
			conn, err := a.dial(ctx, "198.51.100.1")
			a.dialed()
			if err != nil {
				return
			}
			defer conn.CloseNow()
			for err == nil {
				_, _, err = conn.Read(ctx)
			}
			if websocket.CloseStatus(err) == 4502 {
				a.turnedAway.Add(1)
			}
		})
	})
}

// slowHeaders connections begin a request and go on with it for ever, a header line now and then.
func (a *attack) slowHeaders(n int) {
	a.group.Go(func() {
		a.each(n, func(ctx context.Context) {
			conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", a.addr)
			a.dialed()
			if err != nil {
				return
			}
			defer conn.Close()
			stop := context.AfterFunc(ctx, func() { conn.Close() })
			defer stop()
			_, _ = io.WriteString(conn, "GET /ws HTTP/1.1\r\nHost: x\r\n")
			drip := time.NewTicker(500 * time.Millisecond)
			defer drip.Stop()
			for ctx.Err() == nil {
				select {
				case <-ctx.Done():
				case <-drip.C:
					if _, err := io.WriteString(conn, "X: y\r\n"); err != nil && ctx.Err() == nil {
						a.cut.Add(1)
						return
					}
				}
			}
		})
	})
}

// greedy is one user with n connections.
func (a *attack) greedy(user string, n int) {
	token, err := auth.Mint([]byte(goodSecret), user, time.Hour)
	if err != nil {
		a.t.Fatal(err)
	}
	a.group.Go(func() {
		a.each(n, func(ctx context.Context) {
			conn, err := a.dial(ctx, "198.51.100.2")
			a.dialed()
			if err != nil {
				return
			}
			defer conn.CloseNow()
			if err = conn.Write(ctx, websocket.MessageText, fmt.Appendf(nil, `{"type":"auth","token":%q}`, token)); err != nil {
				return
			}
			for err == nil {
				var text []byte
				if _, text, err = conn.Read(ctx); bytes.Contains(text, []byte(`"ready"`)) {
					a.admitted.Add(1)
				}
			}
			switch websocket.CloseStatus(err) {
			case 4504:
				a.refused.Add(1)
			case 4502:
				a.early.Add(1)
			}
		})
	})
}

// wait returns when all have dialed.
func (a *attack) wait() { a.group.Wait() }

// honest connects again and again until the returned function is called, which returns how often; each time must take less than patience up to
// live.
func (a *attack) honest(user string, patience time.Duration) (stop func() int) {
	token, err := auth.Mint([]byte(goodSecret), user, time.Hour)
	if err != nil {
		a.t.Fatal(err)
	}
	done, count := make(chan struct{}), make(chan int)
	go func() {
		n, over := 0, false
		for !over || n < 5 {
			began := time.Now()
			err := a.once(token)
			if took := time.Since(began); err != nil || took > patience {
				a.t.Errorf("a client in good faith: %v after %v, want it live within %v", err, took, patience)
				over, n = true, n+5
			}
			n++
			select {
			case <-done:
				over = true
			case <-time.After(20 * time.Millisecond): // the pace of one client that reconnects
			}
		}
		count <- n
	}()
	return func() int { close(done); return <-count }
}

// once connects, waits for live, and says goodbye.
func (a *attack) once(token string) error {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	conn, err := a.dial(ctx, "192.0.2.1")
	if err != nil {
		return err
	}
	defer conn.CloseNow()
	if err := conn.Write(ctx, websocket.MessageText, fmt.Appendf(nil, `{"type":"auth","token":%q}`, token)); err != nil {
		return err
	}
	for {
		_, text, err := conn.Read(ctx)
		if err != nil {
			return err
		}
		if bytes.Contains(text, []byte(`"live"`)) {
			return conn.Close(websocket.StatusNormalClosure, "")
		}
	}
}

// settled waits until every attacker has got what it deserves: silent ones beyond the bound, slow ones, and greedy ones beyond 20.
func (a *attack) settled(silent, greedy int) {
	a.t.Helper()
	testenv.Eventually(a.t, 60*time.Second, func() error {
		if away := a.turnedAway.Load(); int(away) < silent {
			return fmt.Errorf("%d silent sockets were turned away, want %d", away, silent)
		}
		if a.cut.Load() == 0 {
			return errors.New("no slow header was cut off")
		}
		in, out, early := a.admitted.Load(), a.refused.Load(), a.early.Load()
		if in > 20 {
			a.t.Fatalf("one user has %d connections", in)
		}
		if out == 0 || int(in+out+early) != greedy {
			return fmt.Errorf("of one user %d connections are open, %d were refused, %d had to go early", in, out, early)
		}
		return nil
	})
}

// TestHeaderTimeout: the whole header must come within headerTimeout, however steadily it comes.
func TestHeaderTimeout(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := publicServer(edge{}, http.NotFoundHandler(), nil, testenv.Logger(t))
	if server.ReadHeaderTimeout != headerTimeout || server.MaxHeaderBytes != maxHeader || server.ReadTimeout == 0 || server.WriteTimeout == 0 || server.IdleTimeout == 0 {
		t.Errorf("a timeout is missing: %+v", server)
	}
	server.ReadHeaderTimeout = 300 * time.Millisecond
	served := make(chan error, 1)
	go func() { served <- server.Serve(l) }()
	t.Cleanup(func() { server.Close(); <-served })
	a := newAttack(t, l.Addr().String())
	a.slowHeaders(5)
	a.wait()
	testenv.Eventually(t, 20*time.Second, func() error {
		if n := a.cut.Load(); n != 5 {
			return fmt.Errorf("%d of 5 were cut off", n)
		}
		return nil
	})
	if _, body, err := get("http://" + l.Addr().String() + "/"); err != nil || !strings.Contains(body, "404") {
		t.Errorf("%q (%v)", body, err)
	}
}
