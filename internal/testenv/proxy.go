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
	segment int           // bytes per write; 0: as read
	open    chan struct{} // closed while data flows; replaced by Blackhole

	postgres, deaf bool // see Deafen
}

// Proxy starts a proxy to target (host:port) on a free port of 127.0.0.1. It ends with the test.
func Proxy(t testing.TB, target string) *TCPProxy {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatalf("listen for the proxy: %v", err)
	}
	p := &TCPProxy{target: target, listener: l, done: make(chan struct{}), conns: map[net.Conn]struct{}{}, open: make(chan struct{})}
	close(p.open)
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

// Blackhole lets nothing through in either direction, on old and new connections, and closes none. What is sent meanwhile arrives after Resume.
func (p *TCPProxy) Blackhole() {
	p.mu.Lock()
	defer p.mu.Unlock()
	select {
	case <-p.open:
		p.open = make(chan struct{})
	default: // is one already
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

// Resume ends Down and Blackhole.
func (p *TCPProxy) Resume() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.down = false
	select {
	case <-p.open:
	default:
		close(p.open)
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
	if p.wait() != nil {
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
	g.Go(func() error { return p.copy(server, client, nil) })
	g.Go(func() error { return p.copy(client, server, p.filter()) })
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
func (p *TCPProxy) copy(dst, src net.Conn, filter func([]byte) []byte) error {
	buf := make([]byte, 32<<10)
	for {
		n, err := src.Read(buf)
		if n > 0 {
			data := buf[:n]
			if filter != nil {
				data = filter(data)
			}
			if werr := p.forward(dst, data); werr != nil {
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

func (p *TCPProxy) forward(dst net.Conn, data []byte) error {
	if err := p.wait(); err != nil {
		return err
	}
	p.mu.Lock()
	latency, segment := p.latency, p.segment
	p.mu.Unlock()
	if latency > 0 {
		timer := time.NewTimer(latency)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-p.done:
			return errProxyEnded
		}
	}
	if segment <= 0 {
		segment = len(data)
	}
	for len(data) > 0 {
		n := min(segment, len(data))
		if _, err := dst.Write(data[:n]); err != nil {
			return err
		}
		data = data[n:]
	}
	return nil
}

var errProxyEnded = errors.New("the proxy has ended")

// wait blocks while the proxy is a black hole.
func (p *TCPProxy) wait() error {
	p.mu.Lock()
	open := p.open
	p.mu.Unlock()
	select {
	case <-open:
		return nil
	case <-p.done:
		return errProxyEnded
	}
}
