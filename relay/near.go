package relay

import (
	"sync"

	"github.com/outboxrelay/outboxrelay/outbox"
)

// near is where the relay finds the rooms of its own process: what Watch wakes.
type near struct {
	mu   sync.RWMutex
	wake func(topic string, news News) // nil while Watch doesn't run
}

const (
	nearFor     = outbox.RebaseGap / 2 // see tellNear
	nearEntries = 128                  // of a program in one batch, twice a message of the append script: a room's buffer reaches from there down to what Redis has …
	nearBytes   = 16384                // … and their frames
)

// tellNear gives the entries of a tick to the rooms of this process before Redis has them. The tick is durable, and what it holds at which positions
// is decided: whoever publishes it will say the same. As news from Redis, these may be lost, and are taken only by a room that has everything before
// them; they will come again from there.
//
// Another history may have begun without this relay's knowing (its Postgres is the old one of two primaries), which Redis would tell it. A client
// which got the tick is told of that history by its cursor if it begins above the tick: it begins outbox.RebaseGap above the head that this session
// has set, and above the time of then. That position decides, and no time that has passed: the whole machine may have stood still meanwhile, or its
// clock been set.
func (s *session) tellNear(parts []part) {
	if s.config.Near == nil {
		return
	}
	below := s.headSet + s.nearFor.Microseconds()
	for i := range parts {
		p := &parts[i]
		if after := s.log.newest[p.program]; after > 0 && p.positions[len(p.positions)-1] <= below && p.few() {
			s.config.Near.tell(p, after)
		}
	}
}

// few reports whether p is within these bounds.
func (p *part) few() bool {
	bytes := 0
	for _, f := range p.frames {
		bytes += len(f)
	}
	return len(p.frames) <= nearEntries && bytes <= nearBytes
}

// tell wakes the room of a program that is watched with its entries, the predecessor of the first of which is after.
func (h *History) tell(p *part, after int64) {
	h.near.mu.RLock()
	defer h.near.mu.RUnlock()
	topic := programTopic + p.program
	if h.near.wake == nil || !h.topics.wanted(topic) {
		return
	}
	news := News{After: after, Entries: make([]Entry, len(p.frames))}
	for i, frame := range p.frames {
		entry, err := newEntry(p.positions[i], frame)
		if err != nil {
			panic("relay: an entry just encoded is always readable: " + err.Error())
		}
		news.Entries[i] = entry
	}
	h.near.wake(topic, news)
}

// set is called by Watch as it begins, and with nil when it has ended.
func (n *near) set(wake func(topic string, news News)) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.wake = wake
}
