package testenv

import (
	"errors"
	"net"

	"golang.org/x/sys/unix"
)

// Drop is a Blackhole whose kernel is silent too: what clients send on connections that are open now is thrown away before TCP sees it, and nothing is
// acknowledged. Only Cut, or the end of the test, ends it.
func (p *TCPProxy) Drop() error {
	p.Blackhole()
	p.mu.Lock()
	defer p.mu.Unlock()
	var errs []error
	for conn := range p.conns {
		if conn.LocalAddr().String() == p.Addr() {
			errs = append(errs, dropAll(conn.(*net.TCPConn)))
		}
	}
	return errors.Join(errs...)
}

// dropAll attaches a packet filter that takes nothing.
func dropAll(conn *net.TCPConn) error {
	raw, err := conn.SyscallConn()
	if err != nil {
		return err
	}
	nothing := unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: 0}
	control := raw.Control(func(fd uintptr) {
		err = unix.SetsockoptSockFprog(int(fd), unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: 1, Filter: &nothing})
	})
	return errors.Join(control, err)
}
