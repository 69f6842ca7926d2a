package ws

import (
	"context"
	"errors"
	"slices"
)

// seat is a socket's place in a room: a cursor, and what the user sees from there.
type seat struct {
	room      *room
	program   string
	cursor    int64 // everything up to here has been handled
	way       passage
	announced bool   // the client takes itself for a member: ready or joined named the program, and no left has
	located   bool   // cursor and way are set
	past      past   // until end
	count     *tally // of what the client has missed, until located
	demand    uint64 // the room's read that must have ended before that
	target    int64  // the room's newest position when the socket joined
	reached   bool
	end       bool  // the cursor has everything that the room has
	vouched   int64 // the room's, at that moment
	settled   int64 // the memberships as of this position agree with the seat
	barrier   int64 // position of a revocation that the memberships read so far don't contain; 0: none
	changed   int64 // position of the last change of the user's own membership
	lostAt    int64 // … of the last revocation
	gap       *gap  // to be told before the next event, or when there is none
}

// gap is a stretch of which the client may miss events; it ends with the next event that is sent.
type gap struct {
	after  int64 // 0: left out
	reason string
	batch  int64 // end of the batch that took a live socket's membership away and gave it back; 0: another reason
}

// advance reads on at every seat, and reports whether there is more.
func (s *socket) advance(ctx context.Context) (more bool, err error) {
	for i := 0; i < len(s.seats); {
		if s.busy {
			if err := s.attend(ctx); err != nil {
				return false, err
			}
		}
		st := s.seats[i]
		if !st.located {
			again, err := s.locate(ctx, st)
			if err != nil {
				return false, err
			}
			more = more || again
		}
		again, err := s.advanceSeat(ctx, st)
		if err != nil {
			return false, err
		}
		more = more || again
		if err := s.settle(st); err != nil {
			return false, err
		}
		if i < len(s.seats) && s.seats[i] == st { // not dropped
			i++
		}
	}
	return more, nil
}

// advanceSeat handles the next entries of one seat.
func (s *socket) advanceSeat(ctx context.Context, st *seat) (more bool, err error) {
	st.end = false
	if !st.located || st.barrier != 0 {
		return false, nil
	}
	if !st.way.member {
		st.cursor = st.past.next(st.cursor)
	}
	v := st.room.after(st.cursor, batchCount, batchBytes)
	if !v.covered {
		return s.readOlder(ctx, st)
	}
	if s.doubtful() { // asked when what is to be sent has been read
		return false, nil
	}
	done := true
	if len(v.entries) > 1 && v.events && st.gap == nil && st.announced && st.way.sees(v.entries[0]) {
		err = s.sendAll(st, v)
	} else {
		done, err = s.handle(ctx, st, v.entries)
	}
	if !done || err != nil {
		return false, err
	}
	if !v.end {
		return true, nil
	}
	st.cursor = max(st.cursor, v.newest)
	st.end, st.reached, st.vouched, st.past = true, true, v.vouched, past{}
	return false, s.tellGap(st, max(st.cursor, st.way.lost)+1)
}

// doubtful reports whether the memberships are to be read before anything is sent.
func (s *socket) doubtful() bool { return s.doubts.Load() != s.sure }

// sendAll sends several events of which the user sees the first, and so all, in the bytes that the room's other sockets get too.
func (s *socket) sendAll(st *seat, v view) error {
	if err := s.flush(); err != nil {
		return err
	}
	if err := s.write(st.room.bundle(v, s.ask.batch)); err != nil {
		return err
	}
	s.hub.metrics.events.Add(float64(len(v.entries)))
	st.cursor = v.entries[len(v.entries)-1].Position
	st.reached = st.reached || st.cursor >= st.target
	return nil
}

// readOlder handles entries that the room no longer has. In a room without anything newer to offer that can take a while: the room's next
// wake-up is the next try.
func (s *socket) readOlder(ctx context.Context, st *seat) (more bool, err error) {
	room, cursor := st.room, st.cursor
	page, err := await(ctx, s, func(ctx context.Context) (Page, error) { return room.deep(ctx, s.done, cursor, batchCount) })
	switch {
	case errors.Is(err, ErrExpired):
		return s.expired(ctx, st)
	case err != nil && (!s.live || isEnding(err)):
		return false, err
	case err != nil:
		s.hub.metrics.readErrors.Inc()
		return false, nil
	case s.doubtful():
		return false, nil
	}
	if done, err := s.handle(ctx, st, page.Entries); !done || err != nil {
		return false, err
	}
	if page.Through > st.cursor {
		st.cursor = page.Through
		return true, nil
	}
	return len(page.Entries) > 0 || st.room.after(st.cursor, 1, 1).covered, nil
}

// handle sends what the user sees of entries and moves the cursor over them; done is false if it stopped at a revocation, or because the memberships
// are to be read first.
func (s *socket) handle(ctx context.Context, st *seat, entries []Entry) (done bool, err error) {
	for i := range entries {
		e := &entries[i]
		if e.Position <= st.cursor {
			continue
		}
		if s.busy {
			if err := s.attend(ctx); err != nil {
				return false, err
			}
			if s.doubtful() {
				return false, nil
			}
		}
		switch {
		case e.Control == nil:
			if !st.announced || !st.way.sees(*e) {
				break
			}
			if err := s.tellGap(st, e.Position); err != nil {
				return false, err
			}
			if err := s.makeRoom(len(e.Frame)); err != nil { // before the message is made: who reads nothing would hold it too
				return false, err
			}
			if err := s.send(e.message()); err != nil {
				return false, err
			}
			s.hub.metrics.events.Inc()
		case e.Control.UserID == s.user:
			if barrier, err := s.change(st, e); barrier || err != nil {
				return false, err
			}
		}
		st.cursor = e.Position
		st.reached = st.reached || st.cursor >= st.target
	}
	return true, nil
}

// change applies a change of the user's own membership. A revocation that isn't contained in the memberships known so far is a
// barrier: nothing behind it is looked at before they have been read again.
func (s *socket) change(st *seat, e *Entry) (barrier bool, err error) {
	c := e.Control
	if !c.In && st.way.member && e.Position > s.member.Position {
		st.barrier = e.Position
		s.poke(func() { s.pending.recheck = true })
		return true, nil
	}
	st.changed = e.Position
	flip := st.way.change(e.Position, c)
	if !c.In {
		st.lostAt = e.Position
		if st.gap != nil && st.gap.batch == c.Through {
			st.gap = nil // taken away for good: nothing of this batch is missing
		}
		if st.announced && !slices.Contains(s.member.Programs, st.program) {
			err = s.left(st, e.Position)
		}
		return false, err
	}
	if flip && st.gap == nil {
		st.gap = &gap{after: max(st.lostAt-1, 0), reason: "membership", batch: c.Through}
	}
	if !st.announced {
		err = s.joined(st, e.Position)
	}
	return false, err
}

// settle makes a seat that has passed the position of the memberships agree with them. Usually it does already, by the changes in the
// log; it doesn't if somebody has changed memberships behind the triggers' back.
func (s *socket) settle(st *seat) error {
	known := s.member.Position
	if !st.located || st.settled >= known || st.barrier != 0 {
		return nil
	}
	if st.cursor < known && !(st.end && st.vouched >= known) {
		return nil
	}
	st.settled = known
	if st.changed > known {
		return nil // the log has said more since
	}
	switch is := slices.Contains(s.member.Programs, st.program); {
	case is:
		st.way.member = true
		if !st.announced {
			return s.joined(st, known)
		}
	case st.announced:
		st.way.member = false
		return s.left(st, known)
	default:
		s.drop(st)
	}
	return nil
}

func (s *socket) joined(st *seat, position int64) error {
	st.announced = true
	return s.send(seal(marshal(placeFrame{Type: "joined", Program: st.program, Position: digits(position)})))
}

func (s *socket) left(st *seat, position int64) error {
	if err := s.tellGap(st, position); err != nil {
		return err
	}
	st.announced, st.gap = false, nil
	return s.send(seal(marshal(placeFrame{Type: "left", Program: st.program, Position: digits(position)})))
}

func (s *socket) drop(st *seat) {
	s.hub.leave(s, st.room)
	s.seats = slices.DeleteFunc(s.seats, func(other *seat) bool { return other == st })
}

// tellGap sends the gap that is pending, if any, ending before the given position.
func (s *socket) tellGap(st *seat, before int64) error {
	g := st.gap
	if g == nil || !st.announced {
		return nil
	}
	st.gap = nil
	s.hub.metrics.gaps.WithLabelValues(g.reason).Inc()
	return s.send(seal(marshal(gapFrame{"gap", st.program, digits(g.after), digits(before), g.reason})))
}

// expired continues a seat at the oldest position there is, because what follows its cursor is no longer held.
func (s *socket) expired(ctx context.Context, st *seat) (more bool, err error) {
	if err := s.recheck(ctx); err != nil {
		return false, err
	}
	oldest := s.member.Oldest
	if oldest <= st.cursor {
		return false, nil // the one who was asked lags behind the one who says so
	}
	changes, err := s.changes(ctx, oldest, s.member.Position)
	if err != nil {
		return false, err
	}
	if st.gap == nil {
		st.gap = &gap{after: st.cursor, reason: "expired"}
	}
	member := slices.Contains(s.member.Programs, st.program) // a revocation may have expired too
	before := past{member: member, changes: byProgram(changes)[st.program]}
	st.cursor, st.way = oldest, before.at(oldest)
	return true, nil
}

// report says what is known about the socket as a whole: live, and from time to time a position.
func (s *socket) report(ctx context.Context) error {
	for _, st := range s.seats {
		if !st.located || !st.reached && st.announced || st.barrier != 0 {
			return nil
		}
	}
	if !s.live {
		s.live = true
		s.checkpoint = s.position()
		return s.send(seal(marshal(placeFrame{Type: "live", Position: digits(s.checkpoint)})))
	}
	if !s.pingDue {
		return nil
	}
	s.pingDue = false
	if s.ahead() { // a program may have been joined since the memberships were read: only what they cover can be vouched for
		if err := s.recheck(ctx); err != nil {
			return err
		}
	}
	if p := s.position(); p > s.checkpoint {
		s.checkpoint = p
		return s.send(seal(marshal(placeFrame{Type: "position", Position: digits(p)})))
	}
	return nil
}

// position returns the checkpoint: everything up to it, in all programs of the connection, has been sent or lies before its beginning. 0: not
// known, because a gap hasn't been told. Where no room can vouch for more than its entries (Redis Cluster) it stays where the quietest of them began.
func (s *socket) position() int64 {
	p := s.member.Position
	for _, st := range s.seats {
		switch {
		case st.end:
			p = min(p, max(st.cursor, st.vouched))
		case st.gap == nil:
			p = min(p, st.cursor)
		default:
			return 0
		}
	}
	return p
}

// ahead reports whether the rooms vouch for more than the memberships cover.
func (s *socket) ahead() bool {
	for _, st := range s.seats {
		if !st.end || st.vouched <= s.member.Position {
			return false
		}
	}
	return len(s.seats) > 0
}
