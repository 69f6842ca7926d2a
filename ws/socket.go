package ws

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/coder/websocket"
	"golang.org/x/time/rate"

	"github.com/outboxrelay/outboxrelay/auth"
)

const (
	maxPendingAuth  = 4  // auth frames not yet looked at
	maxPendingPongs = 16 // pings not yet answered; more are answered by fewer pongs
	batchCount      = 64 // frames in one message to a client that takes several
	batchBytes      = 64 << 10
	attendEvery     = time.Second // of writing, between two looks at what must not wait for it
	shortGoodbye    = time.Second // for the close handshake of a client without a good token; the library's is 5 s
)

// socket is one connection. One goroutine waits for as long as it lasts; another one reads while there is something to read, and a third, the pump,
// exists only while there is something to do. Everything that is sent is read from the rooms at that moment: nothing is queued.
type socket struct {
	hub     *Hub
	conn    *websocket.Conn // reads, and closes
	wire    *wire           // under conn: what is sent goes to it directly
	addr    string          // of the client, host:port
	limiter *rate.Limiter
	pings   atomic.Int32  // sent and not answered
	heard   atomic.Int64  // when the peer last said anything, Unix nanoseconds
	done    chan struct{} // closed when the pump has said the last word

	doubts atomic.Int64 // how often the memberships may have become those of another history
	least  int64        // position that a reading of them must have since; guarded by mu

	placed   bool    // it counts for MaxConnections; guarded by the hub's mu
	admitted string  // the user that the hub counts it for; guarded by the hub's mu
	waiter   *waiter // its place among those that haven't sent a token; guarded by the hub's mu

	mu      sync.Mutex
	pending pending
	due     bool // the pump has something to do
	pumping bool
	wake    chan struct{} // one token: the pump waits for a read and has something to do meanwhile; nil: it doesn't
	ended   bool          // no pump any more
	timer   *time.Timer

	// Owned by the pump.
	ask         ask
	user        string // empty: not authenticated
	member      auth.Membership
	sure        int64 // the doubts that it has been read after
	seats       []*seat
	until       time.Time // the token's
	authBy      time.Time
	nextPing    time.Time
	nextRecheck time.Time
	retry       time.Duration // wait after a recheck that brought nothing new
	pingDue     bool          // a position frame may be sent
	live        bool          // has been sent
	checkpoint  int64         // the last that was sent
	admission   *admission    // from the Authorization header, until it is used
	out         []message     // not yet written
	outBytes    int
	attended    time.Time // when what must not wait was last looked at
	busy        bool      // writes have taken attendEvery since
}

// pending is what the others want from the pump.
type pending struct {
	auth    []clientFrame
	pongs   int
	pong    []byte // payload of the protocol's last ping, not yet answered; nil: none
	clock   bool   // the timer has fired
	recheck bool
	end     *ending
}

// urgent reports whether it must not wait for a read.
func (p *pending) urgent() bool {
	return p.end != nil || p.clock || p.pongs > 0 || p.pong != nil || len(p.auth) > 0
}

// admission is a token that was found good before the upgrade.
type admission struct {
	identity auth.Identity
	ask      ask
}

// poke changes what is pending and sees to it that a pump looks at it.
func (s *socket) poke(change func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change()
	s.due = true
	if s.wake != nil && s.pending.urgent() { // a room's wake-up, for one, is not
		token(s.wake)
	}
	if s.pumping || s.ended {
		return
	}
	s.pumping = true
	s.hub.work(s.pump)
}

// stop ends the socket for a reason, unless there is one already.
func (s *socket) stop(end *ending) {
	s.poke(func() {
		if s.pending.end == nil {
			s.pending.end = end
		}
	})
}

// run is the socket's life: it waits and reads until the connection is finished.
func (s *socket) run(context.Context) {
	s.mu.Lock()
	s.timer = time.AfterFunc(s.hub.config.AuthTimeout, func() { s.poke(func() { s.pending.clock = true }) })
	s.mu.Unlock()
	s.poke(func() {})
	end := s.read() // some may have come with the request
	for end == nil {
		if err := s.wire.await(); err != nil {
			end = readEnding(err)
		} else {
			end = s.read()
		}
	}
	s.stop(end)
	<-s.done
	for _, st := range s.seats {
		s.hub.leave(s, st.room)
	}
	s.hub.remove(s)
}

// read takes the messages that have come, on another goroutine's stack: that of who waits stays as small as waiting needs.
func (s *socket) read() (end *ending) {
	done := make(chan struct{})
	s.hub.work(func(ctx context.Context) {
		defer close(done)
		end = s.readAll(context.WithoutCancel(ctx))
	})
	<-done
	return end
}

// readAll takes the client's messages until there is a reason to stop, or, nil, none to go on.
func (s *socket) readAll(ctx context.Context) *ending {
	for {
		kind, r, err := s.conn.Reader(ctx)
		switch {
		case errors.Is(err, errIdle):
			return nil
		case err != nil:
			return readEnding(err)
		}
		s.hear()
		if !s.limiter.Allow() {
			return endRateLimited
		}
		if kind != websocket.MessageText {
			return endBinary
		}
		// A frame may announce any length and then send nothing.
		late := time.AfterFunc(messageTimeout, func() { s.stop(endProtocolError) })
		b, err := io.ReadAll(io.LimitReader(r, maxMessage+1))
		late.Stop()
		if err != nil {
			return readEnding(err)
		}
		if len(b) > maxMessage {
			return endTooBig
		}
		f, err := parseClientFrame(b)
		if err != nil {
			return endBadFrame
		}
		if end := s.take(f); end != nil {
			return end
		}
	}
}

// take hands a frame to the pump.
func (s *socket) take(f clientFrame) (end *ending) {
	s.poke(func() {
		switch {
		case f.ping:
			s.pending.pongs = min(s.pending.pongs+1, maxPendingPongs)
		case len(s.pending.auth) == maxPendingAuth:
			end = endRateLimited
		default:
			s.pending.auth = append(s.pending.auth, f)
		}
	})
	if !f.ping {
		s.hub.sent(s)
	}
	return end
}

// readEnding tells a peer that broke the protocol from one that is gone.
func readEnding(err error) *ending {
	var netErr net.Error
	switch {
	case errors.Is(err, errTooBig):
		return endTooBig
	case errors.Is(err, errBadReason):
		return endBadFrame
	case websocket.CloseStatus(err) != -1, errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, net.ErrClosed),
		errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded), errors.Is(err, syscall.ECONNRESET),
		errors.Is(err, syscall.EPIPE), errors.As(err, &netErr):
		return endGone
	}
	return endProtocolError
}

// pinged is called by the reader for each protocol ping. The pump answers, and only the last one (RFC 6455 section 5.5.3).
func (s *socket) pinged(_ context.Context, payload []byte) (answer bool) {
	s.hear()
	if !s.limiter.Allow() {
		s.stop(endRateLimited)
		return false
	}
	pong := append([]byte{}, payload...)
	s.poke(func() { s.pending.pong = pong })
	return false
}

// ponged is called by the reader for each protocol pong. One that nobody asked for counts as a message.
func (s *socket) ponged(context.Context, []byte) {
	s.hear()
	if s.pings.Add(-1) >= 0 {
		return
	}
	s.pings.Add(1)
	if !s.limiter.Allow() {
		s.stop(endRateLimited)
	}
}

func (s *socket) hear() { s.heard.Store(time.Now().UnixNano()) }

// pump does what there is to do, and ends when there is nothing.
func (s *socket) pump(ctx context.Context) {
	for {
		s.mu.Lock()
		if !s.due {
			s.pumping = false
			s.mu.Unlock()
			return
		}
		s.due = false
		p := s.pending
		s.pending = pending{}
		s.mu.Unlock()

		end := p.end
		if end == nil {
			err := s.turn(ctx, p)
			if err == nil {
				continue
			}
			end = s.ending(ctx, err)
		}
		s.finish(end)
		return
	}
}

// ending makes a close code of an error: unless it is one, something that is needed to go on isn't there.
func (s *socket) ending(ctx context.Context, err error) *ending {
	var end *ending
	if errors.As(err, &end) {
		return end
	}
	if ctx.Err() != nil {
		return endRestart
	}
	s.hub.config.Logger.Debug("ws: connection given up", "client", s.addr, "user", s.user, "error", err)
	return endTryLater
}

// finish says why and closes.
func (s *socket) finish(end *ending) {
	s.mu.Lock()
	s.ended = true
	if s.timer != nil {
		s.timer.Stop()
	}
	s.mu.Unlock()
	ending := s.hub.end(s)
	s.hub.metrics.closed(end)
	s.hub.config.Logger.Debug("ws: connection closed", "client", s.addr, "user", s.user, "code", int(end.status), "reason", end.code)
	if end.code != "" {
		_ = s.wire.send(seal(marshal(errorFrame{"error", end.code, end.message})), time.Now())
	}
	if s.user == "" { // its place has been given away: it must not pile up here
		wait := shortGoodbye
		if ending > s.hub.config.MaxUnauthenticated {
			wait = 0
		}
		_ = s.wire.SetReadDeadline(time.Now().Add(wait))
	}
	s.wire.block()
	if end == endGone {
		_ = s.conn.CloseNow()
	} else {
		_ = s.conn.Close(end.status, end.code)
	}
	close(s.done)
}

// turn is one round of the pump.
func (s *socket) turn(ctx context.Context, p pending) error {
	now := time.Now()
	if s.user == "" {
		if err := s.handshake(ctx, now, &p); err != nil || s.user == "" {
			return err
		}
	}
	renewed, err := s.answer(ctx, p)
	if err != nil {
		return err
	}
	if err := s.clock(now); err != nil {
		return err
	}
	s.attended, s.busy = now, false
	if p.recheck || renewed || !now.Before(s.nextRecheck) {
		if err := s.recheck(ctx); err != nil {
			return err
		}
	}
	more, err := s.advance(ctx)
	if err == nil && !more {
		err = s.report(ctx)
	}
	if err == nil {
		err = s.flush()
	}
	s.sleep(more)
	return err
}

// sleep sets the timer to the next moment at which there is something to do by itself.
func (s *socket) sleep(more bool) {
	if more {
		s.poke(func() {})
		return
	}
	next := s.authBy
	if s.user != "" {
		if next = s.nextClock(); s.nextRecheck.Before(next) {
			next = s.nextRecheck
		}
	}
	s.arm(next)
}

// send puts a message into the next write; the client sees messages in the order of the calls.
func (s *socket) send(m message) error {
	if err := s.makeRoom(len(m)); err != nil {
		return err
	}
	s.out = append(s.out, m)
	s.outBytes += len(m)
	return nil
}

// makeRoom writes what send has collected if n more bytes would be too many for one write.
func (s *socket) makeRoom(n int) error {
	if s.outBytes+n <= batchBytes && len(s.out) < batchCount {
		return nil
	}
	return s.flush()
}

// flush writes what send has collected.
func (s *socket) flush() error {
	var frames []byte
	switch len(s.out) {
	case 0:
		return nil
	case 1:
		frames = s.out[0]
	default:
		frames = join(s.out, s.ask.batch)
	}
	s.out, s.outBytes = nil, 0
	return s.write(frames)
}

// write writes whole frames. Past WriteTimeout the client is a slow consumer; it is told so if they got through after all.
func (s *socket) write(frames []byte) error {
	began := time.Now()
	err := s.wire.send(frames, began)
	took := time.Since(began)
	s.busy = s.busy || began.Add(took).Sub(s.attended) >= attendEvery
	switch late := took >= s.hub.config.WriteTimeout; {
	case late:
		return endSlowConsumer
	case err != nil:
		return endGone
	}
	return nil
}
