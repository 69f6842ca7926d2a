package ws

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"

	"github.com/outboxrelay/outboxrelay/auth"
)

// Config says what a Hub works with. Log, Auth and Store are required; a zero value elsewhere is the default.
type Config struct {
	Log    Log
	Auth   *auth.Verifier
	Store  *auth.Store
	Logger *slog.Logger // default: slog.Default()

	Registerer prometheus.Registerer // default: none

	Origins []string // allowed browser origins, scheme://host[:port], one leading "*." label allowed; empty: the request's own host

	MaxCatchup         int           // events per program in one catch-up; 50
	PingInterval       time.Duration // between protocol pings, and at least between position frames; 25 s
	PingTimeout        time.Duration // silence after which a connection is closed; 60 s
	AuthTimeout        time.Duration // for the auth frame; 10 s
	WriteTimeout       time.Duration // for one message; 10 s. Half as long again is waited before the connection is cut without a word
	ShutdownGrace      time.Duration // over which the connections are closed when Run's context ends; 20 s
	MaxConnections     int           // those that are ending don't count; one without a token gives way to another; 0: no bound
	MaxPerUser         int           // connections; 20, negative: no bound
	MaxUnauthenticated int           // connections that have sent no token for a second; the oldest gives way, of an address with over a tenth of them first; 1000
	MessageRate        float64       // messages and pings per second that a client may send in the long run; 2
	MessageBurst       int           // and at once; 30
	Recheck            time.Duration // between looks at a connected user's memberships; 60 s, ±10 %
	WakeInterval       time.Duration // between reads of a room that nothing woke; 5 s
}

const (
	maxMessage     = 64 << 10 // bytes in a message of a client
	messageTimeout = 10 * time.Second
	olderReads     = 4  // reads below the rooms' buffers at a time
	wakeParts      = 50 // the rooms are woken in so many parts
)

func (c Config) withDefaults() Config {
	c.Logger = cmp.Or(c.Logger, slog.Default())
	c.MaxCatchup = cmp.Or(c.MaxCatchup, 50)
	c.PingInterval = cmp.Or(c.PingInterval, 25*time.Second)
	c.PingTimeout = cmp.Or(c.PingTimeout, 60*time.Second)
	c.AuthTimeout = cmp.Or(c.AuthTimeout, 10*time.Second)
	c.WriteTimeout = cmp.Or(c.WriteTimeout, 10*time.Second)
	c.ShutdownGrace = cmp.Or(c.ShutdownGrace, 20*time.Second)
	c.MaxPerUser = cmp.Or(c.MaxPerUser, 20)
	c.MaxUnauthenticated = cmp.Or(c.MaxUnauthenticated, 1000)
	c.MessageRate = cmp.Or(c.MessageRate, 2)
	c.MessageBurst = cmp.Or(c.MessageBurst, 30)
	c.Recheck = cmp.Or(c.Recheck, 60*time.Second)
	c.WakeInterval = cmp.Or(c.WakeInterval, 5*time.Second)
	return c
}

// Hub serves /ws: it is the http.Handler, and it owns the connections and rooms of this process.
type Hub struct {
	config  Config
	origins []origin
	metrics *metrics
	health  *health
	topics  *topics
	older   chan struct{}              // held while a room reads below its buffer
	idle    chan func(context.Context) // goroutines of work that have nothing to do take from it

	spawn atomic.Pointer[func(func(context.Context))] // runs a goroutine of Run; nil: not running

	mu      sync.Mutex
	sockets map[*socket]struct{}
	placed  int     // those that aren't ending
	waiting waiting // those that haven't sent a token
	timed   bool    // a timer is set for expelSurplus
	users   map[string][]*socket
	rooms   map[string]*room
	closing bool          // no new sockets
	gone    chan struct{} // one token when the last socket has gone
}

// New returns a Hub, or an error that names the bad setting. It serves from the moment that Run is called.
func New(c Config) (*Hub, error) {
	if c.Log == nil || c.Auth == nil || c.Store == nil {
		return nil, errors.New("ws: Log, Auth and Store are required")
	}
	origins, err := parseOrigins(c.Origins)
	if err != nil {
		return nil, err
	}
	c = c.withDefaults()
	h := &Hub{
		config: c, origins: origins,
		older: make(chan struct{}, olderReads), gone: make(chan struct{}, 1), idle: make(chan func(context.Context)),
		sockets: map[*socket]struct{}{}, waiting: newWaiting(c.MaxUnauthenticated), users: map[string][]*socket{}, rooms: map[string]*room{},
	}
	h.metrics = newMetrics(h)
	h.health = newHealth(c.Logger, h.metrics.degraded)
	h.topics = newTopics(c.Log, c.Logger)
	if c.Registerer != nil {
		if err := c.Registerer.Register(h.metrics); err != nil {
			return nil, fmt.Errorf("register the metrics: %w", err)
		}
	}
	return h, nil
}

// Ready returns why the Hub can't serve clients as it should, one reason each; empty: all is well.
func (h *Hub) Ready() []string {
	reasons := h.health.reasons()
	if !h.accepting() {
		reasons = append(reasons, "ws: not accepting connections")
	}
	return reasons
}

// Run serves until ctx ends; then it refuses new connections, closes the others spread over ShutdownGrace, and returns nil when
// all of them are gone.
func (h *Hub) Run(ctx context.Context) error {
	work, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	var group errgroup.Group
	spawn := func(f func(context.Context)) { group.Go(func() error { f(work); return nil }) }
	if !h.spawn.CompareAndSwap(nil, &spawn) {
		return errors.New("ws: Run was called twice")
	}
	group.Go(func() error { h.watch(work); return nil })
	group.Go(func() error { h.topics.run(work); return nil })
	group.Go(func() error { h.wakeRooms(work); return nil })
	group.Go(func() error { h.dismissIdle(work); return nil })

	<-ctx.Done()
	h.shutdown(cancel) // no socket is left to start anything
	cancel()
	return group.Wait()
}

// accepting reports whether a new connection would be served.
func (h *Hub) accepting() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.spawn.Load() != nil && !h.closing
}

// start runs f as a goroutine of Run. The caller runs under Run itself or holds a socket that hasn't gone.
func (h *Hub) start(f func(context.Context)) { (*h.spawn.Load())(f) }

// work is start for what comes often and is soon done. A goroutine that has done such and has nothing to do takes it: its stack has grown already,
// which would otherwise cost more than what there is to do.
func (h *Hub) work(f func(context.Context)) {
	select {
	case h.idle <- f:
		return
	default:
	}
	h.start(func(ctx context.Context) {
		for f != nil {
			f(ctx)
			select {
			case f = <-h.idle:
			case <-ctx.Done():
				return
			}
		}
	})
}

// dismissIdle ends, once a second, the goroutines of work that have nothing to do: a burst doesn't keep its memory.
func (h *Hub) dismissIdle(ctx context.Context) {
	every(ctx, time.Second, func() {
		for h.dismiss() {
		}
	})
}

// dismiss ends one of them, and reports false if there is none.
func (h *Hub) dismiss() bool {
	select {
	case h.idle <- nil:
		return true
	default:
		return false
	}
}

// watch reports wake-ups to rooms and users for as long as ctx lasts.
func (h *Hub) watch(ctx context.Context) {
	for backoff := minBackoff; ctx.Err() == nil; backoff = min(2*backoff, maxBackoff) {
		began := time.Now()
		h.health.set(stateWatch, nil)
		err := h.config.Log.Watch(ctx, h.wakeTopic)
		if ctx.Err() != nil {
			return
		}
		if err == nil {
			err = errors.New("ended")
		}
		h.health.set(stateWatch, fmt.Errorf("ws: the wake-ups from the log stopped: %w", err))
		if time.Since(began) > time.Minute {
			backoff = minBackoff
		}
		pause(ctx, jitter(backoff))
	}
}

// wakeTopic must not block.
func (h *Hub) wakeTopic(topic string, news News) {
	kind, name := splitTopic(topic)
	h.mu.Lock()
	defer h.mu.Unlock()
	switch kind {
	case programTopic:
		if r := h.rooms[name]; r != nil {
			r.hear(news)
		}
	case userTopic:
		for _, s := range h.users[name] {
			s.poke(func() { s.pending.recheck = true })
		}
	case NodesTopic:
		for _, r := range h.rooms {
			r.forget(news.After)
		}
		for s := range h.sockets {
			s.doubt(news.After)
		}
	}
}

// wakeRooms wakes each room every WakeInterval: a message that was lost on the bus only delays. All at once they would hold up everything else.
func (h *Hub) wakeRooms(ctx context.Context) {
	part := 0
	every(ctx, h.config.WakeInterval/wakeParts, func() {
		h.wakePart(part)
		part = (part + 1) % wakeParts
	})
}

// wakePart wakes one part of the rooms.
func (h *Hub) wakePart(part int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, r := range h.rooms {
		if r.part == part {
			r.hear(News{})
		}
	}
}

// every calls f every d until ctx ends.
func every(ctx context.Context, d time.Duration, f func()) {
	tick := time.NewTicker(d)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			f()
		}
	}
}

// join makes s a socket of the program's room, which begins at position if it isn't there yet.
func (h *Hub) join(s *socket, program string, position int64) *room {
	h.mu.Lock()
	defer h.mu.Unlock()
	r := h.rooms[program]
	if r == nil {
		r = &room{
			hub: h, program: program, part: rand.IntN(wakeParts), wake: make(chan struct{}, 1), older: make(chan struct{}, 1),
			sockets: map[*socket]struct{}{}, floor: position, newest: position,
		}
		h.rooms[program] = r
		h.topics.want(ProgramTopic(program), true)
		h.start(func(ctx context.Context) {
			ctx, cancel := context.WithCancel(ctx)
			defer cancel()
			r.started(cancel)
			r.run(ctx)
		})
	}
	r.mu.Lock()
	r.sockets[s] = struct{}{}
	r.roll = nil
	r.mu.Unlock()
	return r
}

// leave undoes join; the last one to leave ends the room.
func (h *Hub) leave(s *socket, r *room) {
	h.mu.Lock()
	defer h.mu.Unlock()
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.sockets, s)
	r.roll = nil
	if len(r.sockets) > 0 || h.rooms[r.program] != r {
		return
	}
	delete(h.rooms, r.program)
	h.topics.want(ProgramTopic(r.program), false)
	r.ended = true
	if r.cancel != nil {
		r.cancel()
	}
}

// after is Log.After with a deadline.
func (h *Hub) after(ctx context.Context, program string, after int64, limit int) (Page, error) {
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	return h.config.Log.After(ctx, program, after, limit)
}

// membership reads a user's memberships; the empty user gives the position alone.
func (h *Hub) membership(ctx context.Context, user string) (auth.Membership, error) {
	var m auth.Membership
	err := h.reading(ctx, func(ctx context.Context) (err error) {
		m, err = h.config.Store.Membership(ctx, user)
		return err
	})
	return m, err
}

// reading runs a read of the database; the store bounds how many there are at a time.
func (h *Hub) reading(ctx context.Context, read func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	h.metrics.membershipReads.Inc()
	began := time.Now()
	err := read(ctx)
	if errors.Is(err, context.Canceled) {
		return err
	}
	h.health.read(began, err)
	return err
}

// shutdown closes all sockets, spread over ShutdownGrace, and returns when they are gone. Those that have had their time are cut, with abort
// in the middle of whatever they wait for.
func (h *Hub) shutdown(abort func()) {
	h.mu.Lock()
	h.closing = true
	list := make([]*socket, 0, len(h.sockets))
	for s := range h.sockets {
		list = append(list, s)
	}
	h.mu.Unlock()
	began := time.Now()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for i, s := range list {
		timer.Reset(time.Until(began.Add(h.config.ShutdownGrace * time.Duration(i) / time.Duration(len(list)))))
		<-timer.C
		s.stop(endRestart)
	}
	timer.Reset(max(time.Until(began.Add(h.config.ShutdownGrace)), 2*time.Second))
	for h.open() > 0 {
		select {
		case <-h.gone:
		case <-timer.C:
			abort()
			h.mu.Lock()
			for s := range h.sockets {
				h.start(func(context.Context) { _ = s.conn.CloseNow() })
			}
			h.mu.Unlock()
			timer.Reset(time.Second)
		}
	}
}

func (h *Hub) open() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.sockets)
}

// jitter spreads d by ±10 %.
func jitter(d time.Duration) time.Duration {
	return d - d/10 + rand.N(d/5+1)
}

// pause waits for d or for ctx.
func pause(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	}
}
