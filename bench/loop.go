//go:build linux

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// loop is one thread that reads the connections of its peers as epoll reports them.
type loop struct {
	address syscall.SockaddrInet4
	streams []*stream
	window  *window
	live    chan<- *peer // has room for all peers
	epoll   int
	buf     []byte

	delivered atomic.Int64 // events

	mu     sync.Mutex // held while peers are handled
	peers  []*peer
	hist   histogram // of the events that were committed in the window
	failed error     // the first
}

// window is the measured time, Unix nanoseconds; 0: not yet.
type window struct{ from, to atomic.Int64 }

func (w *window) has(t int64) bool {
	from, to := w.from.Load(), w.to.Load()
	return from > 0 && t >= from && (to == 0 || t < to)
}

// loopEvents bounds what one call of epoll_wait returns.
const loopEvents = 256

// run reads until ctx ends.
func (l *loop) run(ctx context.Context) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	events := make([]syscall.EpollEvent, loopEvents)
	for ctx.Err() == nil {
		n, err := syscall.EpollWait(l.epoll, events, 20)
		if err != nil && !errors.Is(err, syscall.EINTR) {
			return fmt.Errorf("epoll_wait: %w", err)
		}
		l.mu.Lock()
		for _, e := range events[:max(n, 0)] {
			p := l.peers[e.Fd]
			if p.state == closed {
				continue
			}
			if err := l.handle(p, e.Fd); err != nil {
				p.close()
				if l.failed == nil {
					l.failed = fmt.Errorf("client %s: %w", p.name, err)
				}
			}
		}
		failed := l.failed
		l.mu.Unlock()
		if failed != nil {
			return failed
		}
	}
	return nil
}

func (l *loop) handle(p *peer, index int32) error {
	if p.state == connecting {
		return p.connected(l.epoll, index)
	}
	kept := copy(l.buf, p.rest)
	n, err := syscall.Read(p.fd, l.buf[kept:])
	switch {
	case errors.Is(err, syscall.EAGAIN), errors.Is(err, syscall.EINTR):
		return nil
	case err != nil:
		return fmt.Errorf("read: %w", err)
	case n == 0:
		return io.ErrUnexpectedEOF
	}
	b := l.buf[:kept+n]
	now := time.Now().UnixNano()
	if p.state == upgrading {
		if b, err = p.upgraded(b); err != nil {
			return err
		}
	}
	for p.state == open {
		opcode, payload, size, err := nextFrame(b)
		if err != nil {
			return err
		}
		if size == 0 {
			break
		}
		if err := l.frame(p, opcode, payload, now); err != nil {
			return err
		}
		b = b[size:]
	}
	p.rest = append(p.rest[:0], b...)
	return nil
}

func (l *loop) frame(p *peer, opcode byte, payload []byte, now int64) error {
	switch opcode {
	case opText:
		return l.message(p, payload, now)
	case opPing:
		return p.write(appendFrame(nil, opPong, payload))
	case opPong:
		return nil
	case opClose:
		return fmt.Errorf("closed by the server: %x", payload)
	}
	return fmt.Errorf("a frame with the opcode %d", opcode)
}

// message handles one text message: an object, or an array of them.
func (l *loop) message(p *peer, b []byte, now int64) error {
	if !p.live || !plain(b) {
		live, err := p.special(b)
		if err != nil {
			return err
		}
		if live {
			l.live <- p
		}
	}
	events := int64(0)
	for {
		i := bytes.Index(b, eventMark)
		if i < 0 {
			break
		}
		b = b[i+len(eventMark):]
		e, err := parseEvent(b)
		if err != nil {
			return err
		}
		if err := l.event(p, e, now); err != nil {
			return err
		}
		events++
	}
	p.received += events
	l.delivered.Add(events)
	return nil
}

func (l *loop) event(p *peer, e event, now int64) error {
	due := p.dueOf(e.stream)
	if due == nil || e.stream >= len(l.streams) {
		return fmt.Errorf("event %d of stream %d: misdirected", e.number, e.stream)
	}
	commit, err := l.streams[e.stream].check(e, *due)
	if err != nil {
		return err
	}
	*due++
	p.order = (p.order ^ uint64(e.stream)<<32 ^ uint64(e.number)) * 1099511628211
	if l.window.has(commit) {
		l.hist.add(now - commit)
	}
	return nil
}
