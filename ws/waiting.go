package ws

import (
	"container/list"
	"net/netip"
)

// crowd is the share of the places for sockets without a token from which on one address has to make room for itself: 1/crowd.
const crowd = 10

// waiting holds the sockets without a token, oldest first: all of them, and those of each address. Each step takes constant time. It is
// guarded by the hub's mu.
type waiting struct {
	all  list.List // of *waiter
	from map[netip.Prefix]*list.List
}

// waiter is one socket in waiting.
type waiter struct {
	socket   *socket
	from     netip.Prefix
	all, own *list.Element
}

// add takes a socket in. If there are more than most then, it returns the one that has to go, and forgets it: the oldest, or the oldest of the
// newcomer's address if that alone has a good part of the places. Who floods pushes out nobody else for long.
func (w *waiting) add(s *socket, most int) (gone *socket) {
	if w.from == nil {
		w.from = map[netip.Prefix]*list.List{}
	}
	n := &waiter{socket: s, from: network(s.addr)}
	own := w.from[n.from]
	if own == nil {
		own = list.New()
		w.from[n.from] = own
	}
	n.all, n.own = w.all.PushBack(n), own.PushBack(n)
	s.waiter = n
	if w.all.Len() <= most {
		return nil
	}
	oldest := w.all.Front()
	if own.Len() > 1 && own.Len() > most/crowd {
		oldest = own.Front()
	}
	gone = oldest.Value.(*waiter).socket
	w.remove(gone)
	return gone
}

// remove forgets a socket, if it is there.
func (w *waiting) remove(s *socket) {
	n := s.waiter
	if n == nil {
		return
	}
	s.waiter = nil
	w.all.Remove(n.all)
	own := w.from[n.from]
	own.Remove(n.own)
	if own.Len() == 0 {
		delete(w.from, n.from)
	}
}

// network is the address of a client, of IPv6 the /64 that one client has at its disposal. What can't be read is one network.
func network(addr string) netip.Prefix {
	a, err := netip.ParseAddrPort(addr)
	if err != nil {
		return netip.Prefix{}
	}
	ip := a.Addr().Unmap()
	bits := 32
	if ip.Is6() {
		bits = 64
	}
	p, err := ip.Prefix(bits)
	if err != nil {
		return netip.Prefix{}
	}
	return p
}
