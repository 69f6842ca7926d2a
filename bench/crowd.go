//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"
)

// crowd is all client connections of a run.
type crowd struct {
	loops []*loop
	peers []*peer
	live  chan *peer
}

const (
	readBuffer = 1 << 20 // bytes, of a loop
	dialTime   = 60 * time.Second
)

// newCrowd spreads peers over n loops. The caller runs it, then connects.
func newCrowd(address string, n int, peers []*peer, streams []*stream, w *window) (*crowd, error) {
	to, err := parseAddress(address)
	if err != nil {
		return nil, err
	}
	c := &crowd{peers: peers, live: make(chan *peer, 2*len(peers))}
	for range n {
		epoll, err := syscall.EpollCreate1(syscall.EPOLL_CLOEXEC)
		if err != nil {
			return nil, errors.Join(fmt.Errorf("epoll_create: %w", err), c.close())
		}
		c.loops = append(c.loops, &loop{
			address: to, streams: streams, window: w, live: c.live, epoll: epoll, buf: make([]byte, readBuffer+maxFrame),
		})
	}
	for i, p := range peers {
		l := c.loops[i%n]
		l.peers = append(l.peers, p)
	}
	return c, nil
}

// parseAddress takes an IPv4 address with its port.
func parseAddress(address string) (a syscall.SockaddrInet4, err error) {
	host, port, err := net.SplitHostPort(address)
	ip := net.ParseIP(host).To4()
	if err != nil || ip == nil {
		return a, fmt.Errorf("%q: want an IPv4 address and a port", address)
	}
	copy(a.Addr[:], ip)
	a.Port, err = strconv.Atoi(port)
	return a, err
}

// run reads until ctx ends or a check fails.
func (c *crowd) run(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	for _, l := range c.loops {
		group.Go(func() error { return l.run(ctx) })
	}
	return group.Wait()
}

// connect dials all peers, at most limit of them at a time without having been told that they are live, and returns when all are.
func (c *crowd) connect(ctx context.Context, limit int) error {
	ctx, cancel := context.WithTimeout(ctx, dialTime)
	defer cancel()
	n := len(c.loops)
	for i, live := 0, 0; live < len(c.peers); {
		if i < len(c.peers) && i-live < limit {
			l := c.loops[i%n]
			l.mu.Lock()
			err := c.peers[i].dial(l.address, l.epoll, int32(i/n))
			l.mu.Unlock()
			if err != nil {
				return fmt.Errorf("client %s: %w", c.peers[i].name, err)
			}
			i++
			continue
		}
		select {
		case <-c.live:
			live++
		case <-ctx.Done():
			return fmt.Errorf("connect: %d of %d clients are live: %w", live, len(c.peers), context.Cause(ctx))
		}
	}
	return nil
}

// delivered is how many events have arrived.
func (c *crowd) delivered() (n int64) {
	for _, l := range c.loops {
		n += l.delivered.Load()
	}
	return n
}

// histogram returns the latencies of the window's events.
func (c *crowd) histogram() *histogram {
	var h histogram
	for _, l := range c.loops {
		l.mu.Lock()
		h.merge(&l.hist)
		l.mu.Unlock()
	}
	return &h
}

// drained waits until everything that was sent has arrived everywhere, and checks that peers with one and the same program saw one order.
func (c *crowd) drained(ctx context.Context, want int64, within time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for c.delivered() < want {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("%d of %d deliveries are missing after %v: %w", want-c.delivered(), want, within, context.Cause(ctx))
		}
	}
	orders := map[string]uint64{}
	for i, p := range c.peers {
		l := c.loops[i%len(c.loops)]
		l.mu.Lock()
		order := p.order
		l.mu.Unlock()
		if len(p.programs) != 1 {
			continue // nothing is promised across programs
		}
		if first, ok := orders[p.programs[0]]; ok && first != order {
			return fmt.Errorf("client %s saw program %s in another order than others", p.name, p.programs[0])
		}
		orders[p.programs[0]] = order
	}
	return nil
}

// hangUp closes all connections.
func (c *crowd) hangUp() {
	for i, p := range c.peers {
		l := c.loops[i%len(c.loops)]
		l.mu.Lock()
		p.close()
		l.mu.Unlock()
	}
}

// close frees the loops, which no longer run.
func (c *crowd) close() error {
	var errs []error
	for _, l := range c.loops {
		errs = append(errs, syscall.Close(l.epoll))
	}
	return errors.Join(errs...)
}
