package ws

import (
	"container/list"
	"net/netip"
	"time"
)

// sendTime is what every socket has for its token, however many wait: it may be on the way. When thousands come back at once, all of them
// wait at first.
const sendTime = time.Second

// crowd is the share of the places for sockets without a token above which an address is the first to make room: 1/crowd.
const crowd = 10

// waiting holds the sockets that haven't sent a token, oldest first: all of them, and those of each address. Each step takes constant time. It is
// guarded by the hub's mu.
type waiting struct {
	most   int       // places
	all    list.List // of *waiter
	from   map[netip.Prefix]*list.List
	crowds map[*list.List]bool // those in from that take more than their share: fewer than crowd
}

func newWaiting(most int) waiting {
	return waiting{most: most, from: map[netip.Prefix]*list.List{}, crowds: map[*list.List]bool{}}
}

// waiter is one socket in waiting.
type waiter struct {
	socket   *socket
	from     netip.Prefix
	since    time.Time
	all, own *list.Element
}

// add takes a socket in.
func (w *waiting) add(s *socket, now time.Time) {
	n := &waiter{socket: s, from: network(s.addr), since: now}
	own := w.from[n.from]
	if own == nil {
		own = list.New()
		w.from[n.from] = own
	}
	n.all, n.own = w.all.PushBack(n), own.PushBack(n)
	s.waiter = n
	if w.crowded(own) {
		w.crowds[own] = true
	}
}

// surplus forgets and returns the one that has to go if there are more than most: the oldest of the greatest crowd, or of all if there is none. Who floods
// pushes out nobody else. One that has had less than sendTime stays: then left says for how much longer.
func (w *waiting) surplus(now time.Time) (gone *socket, left time.Duration) {
	if w.all.Len() <= w.most {
		return nil, 0
	}
	n, _ := w.first()
	if left = sendTime - now.Sub(n.since); left > 0 {
		return nil, left
	}
	w.remove(n.socket)
	return n.socket, 0
}

// giveWay forgets and returns the one that a newcomer takes the place of where the process has none left, or nil. One that has had less than sendTime stays,
// unless it belongs to a crowd and the newcomer doesn't.
func (w *waiting) giveWay(newcomer string, now time.Time) *socket {
	n, crowd := w.first()
	if n == nil || now.Sub(n.since) < sendTime && (!crowd || n.from == network(newcomer)) {
		return nil
	}
	w.remove(n.socket)
	return n.socket
}

// first returns the oldest of the greatest crowd, or of all if there is none; nil: nobody waits.
func (w *waiting) first() (n *waiter, crowd bool) {
	oldest, size := w.all.Front(), 0
	for c := range w.crowds {
		if c.Len() > size {
			oldest, size = c.Front(), c.Len()
		}
	}
	if oldest == nil {
		return nil, false
	}
	return oldest.Value.(*waiter), size > 0
}

func (w *waiting) crowded(own *list.List) bool { return own.Len() > max(w.most/crowd, 1) }

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
	if !w.crowded(own) {
		delete(w.crowds, own)
	}
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
