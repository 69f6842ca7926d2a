package testenv

import (
	"context"
	"errors"
	"net"
	"net/url"
	"sync"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
)

// TCPProxy forwards TCP connections to one target and makes network faults on demand. Its methods may be called from any goroutine.
type TCPProxy struct {
	// Immutable.
	listener net.Listener
	done     chan struct{} // closed when the test ends

	mu      sync.Mutex
	target  string // host:port
	conns   map[net.Conn]struct{}
	down    bool
	latency time.Duration
	segment int              // bytes per write; 0: as read
	rate    int              // bytes per second and direction; 0: as fast as it goes
	open    [2]chan struct{} // by direction, closed while data flows; replaced by Blackhole

	postgres, deaf bool // see Deafen
}

// Direction is a way through a proxy.
type Direction int

// The two directions: what clients send, and what the target sends.
const (
	ToTarget Direction = iota
	ToClient
)

// Proxy starts a proxy to target (host:port) on a free port of 127.0.0.1. It ends with the test.
func Proxy(t testing.TB, target string) *TCPProxy {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatalf("listen for the proxy: %v", err)
	}
	p := &TCPProxy{target: target, listener: l, done: make(chan struct{}), conns: map[net.Conn]struct{}{}}
	for d := range p.open {
		p.open[d] = make(chan struct{})
		close(p.open[d])
	}
	var g errgroup.Group
	g.Go(func() error {
		p.accept(&g)
		return nil
	})
	t.Cleanup(func() {
		close(p.done)
		_ = l.Close()
		p.Cut()
		_ = g.Wait()
	})
	return p
}

// Addr returns the proxy's own host:port.
func (p *TCPProxy) Addr() string { return p.listener.Addr().String() }

// URL returns rawURL with the proxy's address in place of its host.
func (p *TCPProxy) URL(rawURL string) string {
	u, err := url.Parse(rawURL)
	if err != nil {
		panic(err) // a test's own constant
	}
	u.Host = p.Addr()
	return u.String()
}

// SetTarget sends connections from now on to another target, and resets the open ones: a failover.
func (p *TCPProxy) SetTarget(target string) {
	p.mu.Lock()
	p.target = target
	p.mu.Unlock()
	p.Cut()
}

// Cut resets every open connection. New ones are accepted.
func (p *TCPProxy) Cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for c := range p.conns {
		if tc, ok := c.(*net.TCPConn); ok {
			_ = tc.SetLinger(0)
		}
		_ = c.Close()
	}
	clear(p.conns)
}

// Down is Cut, and new connections are reset as well until Resume.
func (p *TCPProxy) Down() {
	p.mu.Lock()
	p.down = true
	p.mu.Unlock()
	p.Cut()
}

// Blackhole lets nothing through in the given directions (none: both), on old and new connections, and closes none. What is sent meanwhile
// arrives after Resume.
func (p *TCPProxy) Blackhole(directions ...Direction) {
	if len(directions) == 0 {
		directions = []Direction{ToTarget, ToClient}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, d := range directions {
		select {
		case <-p.open[d]:
			p.open[d] = make(chan struct{})
		default: // is one already
		}
	}
}

// Latency delays each piece of data by d in each direction. It holds until it is set again.
func (p *TCPProxy) Latency(d time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.latency = d
}

// Segments cuts the data into writes of n bytes; 0 ends that.
func (p *TCPProxy) Segments(n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.segment = n
}

// Throttle lets at most n bytes a second through on each connection, in each direction: a slow reader. 0 ends that.
func (p *TCPProxy) Throttle(n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.rate = n
}

// Resume ends Down and Blackhole.
func (p *TCPProxy) Resume() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.down = false
	for _, open := range p.open {
		select {
		case <-open:
		default:
			close(open)
		}
	}
}

// Connections returns how many client connections are open.
func (p *TCPProxy) Connections() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.conns) / 2
}

func (p *TCPProxy) accept(g *errgroup.Group) {
	for {
		client, err := p.listener.Accept()
		if err != nil {
			return
		}
		g.Go(func() error {
			p.serve(client)
			return nil
		})
	}
}

func (p *TCPProxy) serve(client net.Conn) {
	defer client.Close()
	if p.wait(ToTarget) != nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	p.mu.Lock()
	target := p.target
	p.mu.Unlock()
	server, err := new(net.Dialer).DialContext(ctx, "tcp", target)
	if err != nil {
		return
	}
	defer server.Close()
	if !p.add(client, server) {
		return
	}
	defer p.remove(client, server)
	var g errgroup.Group
	g.Go(func() error { return p.copy(server, client, ToTarget, nil) })
	g.Go(func() error { return p.copy(client, server, ToClient, p.filter()) })
	_ = g.Wait()
}

func (p *TCPProxy) add(conns ...net.Conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	select {
	case <-p.done:
		return false
	default:
	}
	if p.down {
		_ = conns[0].(*net.TCPConn).SetLinger(0)
		return false
	}
	for _, c := range conns {
		p.conns[c] = struct{}{}
	}
	return true
}

func (p *TCPProxy) remove(conns ...net.Conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range conns {
		delete(p.conns, c)
	}
}

// copy forwards until the end of src, through the filter if there is one, then closes dst for writing; an error ends both.
func (p *TCPProxy) copy(dst, src net.Conn, d Direction, filter func([]byte) []byte) error {
	buf := make([]byte, 32<<10)
	for {
		n, err := src.Read(buf)
		if n > 0 {
			data := buf[:n]
			if filter != nil {
				data = filter(data)
			}
			if werr := p.forward(dst, data, d); werr != nil {
				_, _ = src.Close(), dst.Close()
				return werr
			}
		}
		if err != nil {
			if tc, ok := dst.(*net.TCPConn); ok {
				_ = tc.CloseWrite()
			}
			return err
		}
	}
}

func (p *TCPProxy) forward(dst net.Conn, data []byte, d Direction) error {
	if err := p.wait(d); err != nil {
		return err
	}
	p.mu.Lock()
	latency, segment, rate := p.latency, p.segment, p.rate
	p.mu.Unlock()
	if !p.pause(latency) {
		return errProxyEnded
	}
	if rate > 0 {
		segment = max(1, rate/20)
	}
	if segment <= 0 {
		segment = len(data)
	}
	for len(data) > 0 {
		n := min(segment, len(data))
		if rate > 0 && !p.pause(time.Second*time.Duration(n)/time.Duration(rate)) {
			return errProxyEnded
		}
		if _, err := dst.Write(data[:n]); err != nil {
			return err
		}
		data = data[n:]
	}
	return nil
}

// pause waits and reports whether the proxy is still there.
func (p *TCPProxy) pause(d time.Duration) bool {
	if d <= 0 {
		return true
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-p.done:
		return false
	}
}

var errProxyEnded = errors.New("the proxy has ended")

// wait blocks while the proxy is a black hole in that direction.
func (p *TCPProxy) wait(d Direction) error {
	p.mu.Lock()
	open := p.open[d]
	p.mu.Unlock()
	select {
	case <-open:
		return nil
	case <-p.done:
		return errProxyEnded
	}
}
