package ws

import (
	"context"
	"errors"
	"time"
)

// await runs a read of the socket's that may take a while: of Postgres, and before that for its turn. Meanwhile the pump goes on with what must
// not wait for it; it gives the read up if that ends the connection, with the ending as its error.
//
// read runs in a goroutine of its own, which may outlast the pump: it must not touch what the pump owns. A read that is under way when its
// socket ends isn't cut off. That would cost a connection to Postgres each time, and other sockets may be waiting for what it brings.
func await[T any](ctx context.Context, s *socket, read func(context.Context) (T, error)) (T, error) {
	type answer struct {
		value T
		err   error
	}
	var none T
	if err := s.flush(); err != nil { // what has been sent must not wait either
		return none, err
	}
	done := make(chan answer, 1)
	s.hub.start(func(context.Context) {
		value, err := read(ctx)
		done <- answer{value, err}
	})
	wake := make(chan struct{}, 1)
	s.setWake(wake)
	defer s.setWake(nil)
	for {
		if err := s.attend(ctx); err != nil {
			return none, err
		}
		select {
		case a := <-done:
			return a.value, a.err
		case <-wake:
		}
	}
}

// setWake names the channel that poke wakes the pump by while it waits for a read.
func (s *socket) setWake(wake chan struct{}) {
	s.mu.Lock()
	s.wake = wake
	s.mu.Unlock()
}

// attend does what must not wait for a read, nor for a client that takes its messages slowly. The rest of what is pending, and all of it while there
// is no user, is left for the next turn.
func (s *socket) attend(ctx context.Context) error {
	s.mu.Lock()
	p := s.pending
	if s.user != "" {
		s.pending = pending{recheck: p.recheck, end: p.end}
	}
	s.mu.Unlock()
	if p.end != nil {
		return p.end
	}
	now := time.Now()
	if s.user == "" {
		p = pending{}
	}
	renewed, err := s.answer(ctx, p)
	if renewed {
		s.poke(func() { s.pending.recheck = true })
	}
	if err == nil {
		err = s.clock(now)
	}
	if err == nil {
		err = s.flush()
	}
	s.attended, s.busy = now, false
	s.arm(s.nextClock())
	return err
}

// answer answers pings and takes renewals.
func (s *socket) answer(ctx context.Context, p pending) (renewed bool, err error) {
	for range p.pongs {
		if err := s.send(pongMessage); err != nil {
			return renewed, err
		}
	}
	if p.pong != nil {
		if err := s.write(append(appendHeader(nil, finalPong, len(p.pong)), p.pong...)); err != nil {
			return renewed, err
		}
	}
	for _, f := range p.auth {
		if err := s.renew(ctx, f); err != nil {
			return renewed, err
		}
		renewed = true
	}
	return renewed, nil
}

// clock does what time alone demands.
func (s *socket) clock(now time.Time) error {
	silence := now.Sub(time.Unix(0, s.heard.Load()))
	switch {
	case !now.Before(s.until):
		return endTokenExpired
	case silence >= s.hub.config.PingTimeout:
		return endNoPong
	case !now.Before(s.nextPing):
		s.nextPing = now.Add(s.hub.config.PingInterval)
		s.pingDue = true
		s.pings.Add(1)
		return s.write(pingFrame) // the answer is a sign of life like any other
	}
	return nil
}

// nextClock returns when clock has something to do next.
func (s *socket) nextClock() time.Time {
	next := time.Unix(0, s.heard.Load()).Add(s.hub.config.PingTimeout)
	for _, t := range []time.Time{s.until, s.nextPing} {
		if t.Before(next) {
			next = t
		}
	}
	return next
}

// arm sets the timer that pokes the socket.
func (s *socket) arm(next time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.ended && s.timer != nil {
		s.timer.Reset(max(time.Until(next), time.Millisecond))
	}
}

// isEnding tells the end of the connection from a read that went wrong.
func isEnding(err error) bool {
	var end *ending
	return errors.As(err, &end)
}
