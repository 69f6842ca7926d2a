package ws

import (
	"context"
	"errors"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

const (
	roomPage    = 256     // entries per read of a room
	bufferCount = 1024    // entries that a room keeps …
	bufferBytes = 1 << 20 // … and their bytes; three quarters are left when either is exceeded
	fewSockets  = 64      // that whoever brings news to a room wakes at once
	readTimeout = 10 * time.Second
	minBackoff  = 100 * time.Millisecond
	maxBackoff  = 5 * time.Second
)

// room holds the end of one program's log for the sockets of its members. It reads forward from its newest position whenever it is
// woken; the sockets read from its buffer, each at its own cursor. It ends with its last socket.
type room struct {
	hub     *Hub
	program string
	part    int           // of the hub's rooms, by which it is woken
	wake    chan struct{} // one token: read, or wake the sockets
	older   chan struct{} // one token: who holds it may read below the buffer
	queue   atomic.Int32  // sockets that wait for it
	shared  shared        // what its last holder has read; owned by its holder

	mu      sync.Mutex
	cancel  context.CancelFunc // ends run; nil: it hasn't begun
	ended   bool               // it needn't begin
	sockets map[*socket]struct{}
	roll    []*socket // the sockets as a list, never changed in place; nil: to be made anew
	bundles [2]bundle // the last ones, for clients without and with batch
	floor   int64     // entries are all that the log has with floor < position <= newest
	newest  int64     // where the next read begins
	entries []Entry   // ascending
	bytes   int       // of the frames in entries
	last    int64     // the newest entry that Redis must still hold; 0: none
	vouched int64     // everything of this program up to here lies at or below newest; 0: unknown
	head    int64     // the log's head at the last read
	forgot  int       // how often the buffer was forgotten
	told    int64     // the newest position that news have told of
	begun   int64     // news from here or below are not taken: they may be of a history that has been replaced
	stale   bool      // there is something to read that no news brought
	asked   uint64    // number of the newest demand for a read
	read    uint64    // demands up to here have been met …
	failed  uint64    // … or have failed
}

// run reads until ctx ends. The first read doesn't wait for the subscription: its confirmation is a wake-up like any other.
func (r *room) run(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	healthy, backoff := true, minBackoff
	defer func() { r.hub.health.room(healthy, true, nil) }()
	for {
		select {
		case <-ctx.Done():
			return
		case <-r.wake:
			if healthy && !r.due() {
				r.wakeSockets() // news
				continue
			}
		case <-timer.C:
		}
		err := r.catchUp(ctx)
		if ctx.Err() != nil {
			return
		}
		r.hub.health.room(healthy, err == nil, err)
		if healthy = err == nil; healthy {
			timer.Stop()
			backoff = minBackoff
			continue
		}
		r.hub.metrics.readErrors.Inc()
		r.wakeSockets()
		timer.Reset(jitter(backoff))
		backoff = min(2*backoff, maxBackoff)
	}
}

// started takes the function that ends run, and calls it if the last socket has left already.
func (r *room) started(cancel context.CancelFunc) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.cancel = cancel; r.ended {
		cancel()
	}
}

// demand asks for a read that begins after this call and returns its number.
func (r *room) demand() uint64 {
	r.mu.Lock()
	r.asked++
	n := r.asked
	r.mu.Unlock()
	token(r.wake)
	return n
}

// due reports whether the log must be read.
func (r *room) due() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.stale || r.read < r.asked
}

// hear takes news if they begin where the room ends; else the log must be read.
func (r *room) hear(news News) {
	switch fits, known := r.learn(news); {
	case known:
	case fits && r.few():
		r.wakeSockets() // not worth another goroutine's waking up
	default:
		token(r.wake)
	}
}

// learn reports whether news begin where the room ends, or before that, and whether they bring nothing that it hasn't.
func (r *room) learn(news News) (fits, known bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.told = max(r.told, news.After)
	if n := len(news.Entries); n > 0 {
		r.told = max(r.told, news.Entries[n-1].Position)
	}
	if len(news.Entries) == 0 || r.newest < news.After || news.Entries[0].Position <= r.begun {
		r.stale = true
		return false, false
	}
	before := r.newest
	r.add(news.Entries)
	r.vouched = max(r.vouched, r.newest)
	r.trim()
	return true, r.newest == before
}

// few reports whether whoever brings news wakes the sockets.
func (r *room) few() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.sockets) <= fewSockets
}

// add appends those of the log's next entries that aren't here yet. The caller holds mu.
func (r *room) add(next []Entry) {
	for i := range next {
		e := &next[i]
		if e.Position <= r.newest {
			continue
		}
		e.seal()
		r.entries = append(r.entries, *e)
		r.bytes += len(e.Frame)
		r.newest, r.last = e.Position, e.Position
	}
}

// catchUp reads to the end of the log.
func (r *room) catchUp(ctx context.Context) error {
	r.mu.Lock()
	demand := r.asked
	r.stale = false
	r.mu.Unlock()
	for {
		r.mu.Lock()
		start, last, forgot := r.newest, r.last, r.forgot
		r.mu.Unlock()
		page, err := r.hub.after(ctx, r.program, start, roomPage)
		if errors.Is(err, ErrExpired) {
			if err = r.restart(ctx); err == nil {
				continue
			}
		}
		if err != nil {
			r.mu.Lock()
			r.failed, r.vouched = demand, 0
			r.mu.Unlock()
			return err
		}
		end := !page.More
		if !r.take(start, last, forgot, page, end, demand) {
			continue
		}
		r.wakeSockets()
		if end {
			return nil
		}
	}
}

// take appends a page that was read from start, when the newest entry was last. It reports false if a socket has meanwhile moved the room
// to an older place (then the page would leave a hole) or if the buffer was forgotten (then it may hold what was erased). News may have moved it forward: they bring the same entries.
func (r *room) take(start, last int64, forgot int, page Page, end bool, demand uint64) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.newest < start || r.forgot != forgot {
		return false
	}
	r.absorb(page, last, end)
	if end {
		r.read, r.head = max(r.read, demand), page.Head
	}
	return true
}

// absorb appends a page that goes on where the room ends, or before that; last was the newest entry when it was read, and end says that the page
// has all that there was. The caller holds mu.
func (r *room) absorb(page Page, last int64, end bool) {
	r.add(page.Entries)
	r.trim()
	stored := page.Through > r.newest // Postgres vouches for it: Redis may have dropped what came before
	if stored {
		r.newest, r.last = page.Through, 0
	}
	switch {
	case !end:
	case stored:
		r.vouched = page.Through
	case page.Newest < last: // the log has lost its end, or needn't hold it any more: what the room has is all that is certain
		r.vouched = r.newest
	default:
		r.vouched = max(page.Head, r.last)
	}
}

// forget drops the buffer: the log is read again for whoever is behind. What was erased, or a new history's beginning, lies at position.
func (r *room) forget(position int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.drop(position)
}

// begin is forget for a socket that knows of a new history: the message that told the node may have been lost.
func (r *room) begin(position int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.begun < position {
		r.drop(position)
	}
}

// drop is forget. The caller holds mu.
func (r *room) drop(position int64) {
	r.begun = max(r.begun, position)
	r.entries, r.bytes, r.floor, r.bundles = nil, 0, r.newest, [2]bundle{}
	r.forgot++
}

// trim keeps the newest entries when there are too many.
func (r *room) trim() {
	if len(r.entries) <= bufferCount && r.bytes <= bufferBytes {
		return
	}
	keep, bytes := len(r.entries), 0
	for keep > 0 && len(r.entries)-keep < bufferCount*3/4 && bytes+len(r.entries[keep-1].Frame) <= bufferBytes*3/4 {
		keep--
		bytes += len(r.entries[keep].Frame)
	}
	if keep > 0 {
		r.floor = r.entries[keep-1].Position
	}
	r.entries, r.bytes = append([]Entry(nil), r.entries[keep:]...), bytes
}

// restart moves the room to the newest tick, because the outbox no longer holds what follows its newest position. Each socket meets
// ErrExpired at its own cursor and tells its client.
func (r *room) restart(ctx context.Context) error {
	m, err := r.hub.membership(ctx, "")
	if err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if m.Position <= r.newest {
		return ErrExpired // the one who says so is ahead of the one who was asked
	}
	r.entries, r.bytes, r.last, r.vouched = nil, 0, 0, 0
	r.floor, r.newest = m.Position, m.Position
	return nil
}

// view is what a socket sees of the buffer from its cursor.
type view struct {
	entries []Entry
	events  bool  // entries are events only
	covered bool  // false: the cursor lies below the buffer
	end     bool  // entries reach the newest position
	newest  int64 // the position that a cursor may be set to at the end
	vouched int64
	forgot  int // the room's, at that moment
}

// after returns at most limit entries behind cursor, of at most maxBytes unless the first alone has more.
func (r *room) after(cursor int64, limit, maxBytes int) view {
	r.mu.Lock()
	defer r.mu.Unlock()
	if cursor < r.floor {
		return view{}
	}
	from := r.search(cursor)
	to, events := from, true
	for n := 0; to < len(r.entries) && to-from < limit; to++ {
		if n += len(r.entries[to].Frame); n > maxBytes && to > from {
			break
		}
		events = events && r.entries[to].Control == nil
	}
	return view{r.entries[from:to:to], events, true, to == len(r.entries), r.newest, r.vouched, r.forgot}
}

// search returns the index of the first entry behind position. The caller holds mu.
func (r *room) search(position int64) int {
	low, high := 0, len(r.entries)
	for low < high {
		if mid := (low + high) / 2; r.entries[mid].Position <= position {
			low = mid + 1
		} else {
			high = mid
		}
	}
	return low
}

// between returns the buffered entries with after < position <= through, ascending, and the position above which they are complete.
func (r *room) between(after, through int64) ([]Entry, int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	from, to := r.search(max(after, r.floor)), r.search(through)
	if from > to {
		return nil, r.floor
	}
	return r.entries[from:to:to], r.floor
}

// state returns the numbers of the last reads that ended well and badly, the room's newest position and the log's head.
func (r *room) state() (read, failed uint64, newest, head int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.read, r.failed, r.newest, r.head
}

func (r *room) wakeSockets() {
	r.mu.Lock()
	if r.roll == nil {
		r.roll = slices.Collect(maps.Keys(r.sockets))
	}
	list := r.roll
	r.mu.Unlock()
	for _, s := range list {
		s.poke(func() {})
	}
}

// bundle is several events of a room, ready to be written at once to every socket that stands at the same place.
type bundle struct {
	first, last int64 // positions
	frames      []byte
}

// bundle returns the events of v, which has no other entries, as one write. It is kept for the sockets to come, unless what v was taken from has
// been forgotten: it may hold what was erased.
func (r *room) bundle(v view, batch bool) []byte {
	first, last := v.entries[0].Position, v.entries[len(v.entries)-1].Position
	kind := 0
	if batch {
		kind = 1
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	b := r.bundles[kind]
	if b.first == first && b.last == last && v.forgot == r.forgot {
		return b.frames
	}
	list := make([]message, len(v.entries))
	for i := range v.entries {
		list[i] = v.entries[i].message()
	}
	b = bundle{first, last, join(list, batch)}
	if v.forgot == r.forgot {
		r.bundles[kind] = b
	}
	return b.frames
}

// token puts the one token into a wake channel.
func token(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
