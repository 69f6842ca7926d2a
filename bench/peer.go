//go:build linux

package main

import (
	"bytes"
	"errors"
	"fmt"
	"syscall"
)

// peer is one client connection of the load generator. It is owned by its loop.
type peer struct {
	name     string
	request  []byte // of the upgrade
	hello    []byte // the first frame after it; nil: none
	programs []string
	base     int     // first of its streams, if it has one program
	next     []int64 // next number of the streams from base

	fd       int
	state    state
	rest     []byte // an incomplete frame
	live     bool
	received int64
	order    uint64 // hash over the events in the order in which they came
}

type state int

const (
	closed state = iota
	connecting
	upgrading
	open
)

// dueOf returns the place of the number that is due in a stream; nil: the peer is not to see it.
func (p *peer) dueOf(stream int) *int64 {
	if i := stream - p.base; i >= 0 && i < len(p.next) {
		if p.next[i] < 0 {
			return nil
		}
		return &p.next[i]
	}
	return nil
}

// dial begins to connect to an IPv4 address.
func (p *peer) dial(address syscall.SockaddrInet4, epoll int, index int32) error {
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM|syscall.SOCK_NONBLOCK|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open a socket: %w", err)
	}
	_ = syscall.SetsockoptInt(fd, syscall.IPPROTO_TCP, syscall.TCP_NODELAY, 1)
	p.fd, p.state = fd, connecting
	if err := syscall.Connect(fd, &address); err != nil && !errors.Is(err, syscall.EINPROGRESS) {
		return fmt.Errorf("connect: %w", err)
	}
	return syscall.EpollCtl(epoll, syscall.EPOLL_CTL_ADD, fd, &syscall.EpollEvent{Events: syscall.EPOLLOUT, Fd: index})
}

// connected sends the upgrade.
func (p *peer) connected(epoll int, index int32) error {
	if code, err := syscall.GetsockoptInt(p.fd, syscall.SOL_SOCKET, syscall.SO_ERROR); err != nil || code != 0 {
		return fmt.Errorf("connect: %w", errors.Join(err, syscall.Errno(code)))
	}
	p.state = upgrading
	if err := syscall.EpollCtl(epoll, syscall.EPOLL_CTL_MOD, p.fd, &syscall.EpollEvent{Events: syscall.EPOLLIN, Fd: index}); err != nil {
		return err
	}
	return p.write(p.request)
}

// write sends a few bytes; a peer never has much to say, so that the socket always takes them.
func (p *peer) write(b []byte) error {
	if n, err := syscall.Write(p.fd, b); err != nil || n < len(b) {
		return fmt.Errorf("write %d bytes: %d, %w", len(b), n, err)
	}
	return nil
}

// close forgets the connection without a word to the server.
func (p *peer) close() {
	if p.state != closed {
		_ = syscall.Close(p.fd)
		p.state, p.live, p.rest = closed, false, nil
	}
}

// upgraded takes the answer to the upgrade off b.
func (p *peer) upgraded(b []byte) (rest []byte, err error) {
	end := bytes.Index(b, []byte("\r\n\r\n"))
	if end < 0 {
		return b, nil
	}
	if !bytes.HasPrefix(b, []byte("HTTP/1.1 101 ")) {
		return nil, fmt.Errorf("the upgrade was refused: %.200q", b)
	}
	p.state = open
	if p.hello != nil {
		err = p.write(p.hello)
	}
	return b[end+4:], err
}

var (
	eventType = []byte(`{"type":"event"`)
	eventMark = []byte(mark)
	liveMark  = []byte(`{"type":"live"`)
)

// plain reports whether a message begins with an event; what else a server says at any time is looked for only in others.
func plain(message []byte) bool {
	return bytes.HasPrefix(message, eventType) || len(message) > 0 && message[0] == '[' && bytes.HasPrefix(message[1:], eventType)
}

// special handles what isn't an event, and reports whether the peer has become live.
func (p *peer) special(message []byte) (live bool, err error) {
	for _, bad := range []string{`{"type":"gap"`, `{"type":"error"`, `{"type":"left"`} {
		if bytes.Contains(message, []byte(bad)) {
			return false, fmt.Errorf("%.300q", message)
		}
	}
	if p.live || !bytes.Contains(message, liveMark) {
		return false, nil
	}
	p.live = true
	return true, nil
}
