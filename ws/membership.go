package ws

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/outboxrelay/outboxrelay/auth"
)

// handshake authenticates the socket once it has what it needs for that; else it leaves user empty.
func (s *socket) handshake(ctx context.Context, now time.Time, p *pending) error {
	a := s.admission
	if a == nil {
		switch {
		case p.pongs > 0 && len(p.auth) == 0:
			return endAuthRequired
		case len(p.auth) == 0 && !now.Before(s.authBy):
			return endAuthTimeout
		case len(p.auth) == 0:
			return nil
		}
		f := p.auth[0]
		p.auth = p.auth[1:]
		if f.vague {
			return endBadFrame
		}
		identity, err := s.hub.verify(ctx, f.token)
		if err != nil {
			return err
		}
		a = &admission{identity: identity, ask: f.ask}
	}
	s.admission = nil
	if !s.hub.admit(s, a.identity.UserID) {
		return endConnectionLimit
	}
	s.until, s.nextPing = a.identity.Until, now.Add(jitter(s.hub.config.PingInterval))
	// Only from here on is it told of changes: what a look at the header has read before may be out of date for good.
	asked, least := s.doubts.Load(), s.leastPosition()
	m, err := s.membership(ctx, a.identity.UserID)
	if err != nil {
		return err
	}
	if m.Position >= least {
		s.sure = asked
	}
	if !m.Found || !m.Active {
		return endUserInactive
	}
	s.user, s.ask, s.member = a.identity.UserID, a.ask, m
	s.nextRecheck = now.Add(jitter(s.hub.config.Recheck))
	if s.doubtful() { // what asked for it may have come before there was a user
		s.poke(func() { s.pending.recheck = true })
	}
	return s.enter(ctx, a.identity)
}

// verify checks a token; the error is an ending.
func (h *Hub) verify(ctx context.Context, token string) (auth.Identity, error) {
	if token == "" {
		return auth.Identity{}, endAuthRequired
	}
	identity, err := h.config.Auth.Verify(ctx, token)
	if err == nil {
		return identity, nil
	}
	h.config.Logger.Debug("ws: token refused", "error", err) // which doesn't hold the token
	switch {
	case errors.Is(err, auth.ErrExpired):
		return auth.Identity{}, endTokenExpired
	case errors.Is(err, auth.ErrUnavailable):
		return auth.Identity{}, endTryLater
	}
	return auth.Identity{}, endInvalidToken
}

// enter takes the seats of the programs that the user is a member of, and sends ready.
func (s *socket) enter(ctx context.Context, identity auth.Identity) error {
	j := s.member.Position
	programs, lowest := []string{}, j
	for _, program := range s.member.Programs {
		if !s.ask.wants(program) {
			continue
		}
		programs = append(programs, program)
		st := s.sit(program, j)
		st.announced, st.settled = true, j
		if c, _, ok := s.ask.cursor(program); ok {
			lowest = min(lowest, max(c, s.member.Oldest))
		}
	}
	var changes []auth.Change
	if lowest < j {
		var err error
		if changes, err = s.changes(ctx, lowest, j); err != nil {
			return err
		}
	}
	of := byProgram(changes)
	for _, st := range s.seats {
		st.past = past{member: true, changes: of[st.program]}
	}
	return s.send(seal(marshal(readyFrame{"ready", s.user, s.member.Role, programs, identity.ExpiresAt})))
}

// sit takes a seat in a program's room, which begins at position if it is new.
func (s *socket) sit(program string, position int64) *seat {
	st := &seat{room: s.hub.join(s, program, position), program: program, cursor: position}
	if n := len(s.member.Resets); n > 0 {
		st.room.begin(s.member.Resets[n-1].Before - 1)
	}
	st.demand = st.room.demand()
	s.seats = append(s.seats, st)
	return st
}

// membership reads a user's memberships.
func (s *socket) membership(ctx context.Context, user string) (auth.Membership, error) {
	return await(ctx, s, func(ctx context.Context) (auth.Membership, error) { return s.hub.membership(ctx, user) })
}

// changes reads the changes of the user's memberships.
func (s *socket) changes(ctx context.Context, after, through int64) ([]auth.Change, error) {
	user := s.user
	return await(ctx, s, func(ctx context.Context) ([]auth.Change, error) { return s.hub.changes(ctx, user, after, through) })
}

// changes reads a user's membership changes.
func (h *Hub) changes(ctx context.Context, user string, after, through int64) (changes []auth.Change, err error) {
	err = h.reading(ctx, func(ctx context.Context) error {
		changes, err = h.config.Store.Changes(ctx, user, after, through)
		return err
	})
	return changes, err
}

// byProgram returns the changes of each program.
func byProgram(changes []auth.Change) map[string][]auth.Change {
	of := map[string][]auth.Change{}
	for _, c := range changes {
		of[c.Program] = append(of[c.Program], c)
	}
	return of
}

// renew takes an auth frame on an open connection; the caller reads the memberships again.
func (s *socket) renew(ctx context.Context, f clientFrame) error {
	identity, err := s.hub.verify(ctx, f.token)
	switch {
	case errors.Is(err, endTokenExpired), errors.Is(err, endTryLater):
		return err
	case err != nil, identity.UserID != s.user:
		return endInvalidToken
	}
	s.until = identity.Until
	return nil
}

// recheck reads the memberships again. Programs gained since the last reading are joined at its position, so that nothing is
// missed however late this is; programs lost are left where the log says so.
func (s *socket) recheck(ctx context.Context) error {
	asked, least := s.doubts.Load(), s.leastPosition()
	m, err := s.membership(ctx, s.user)
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case isEnding(err):
		return err
	case err != nil, m.Position < max(s.member.Position, least): // a replica may lag behind the one asked before
		s.recheckSoon()
		return nil
	case !m.Found, !m.Active:
		return endUserInactive
	}
	before := s.member.Position
	changes, err := s.changesSince(ctx, m)
	switch {
	case isEnding(err):
		return err
	case err != nil:
		s.recheckSoon()
		return ctx.Err()
	}
	gained := s.gained(m, changes)
	s.member = m
	s.nextRecheck = time.Now().Add(jitter(s.hub.config.Recheck))
	for _, program := range gained {
		s.sit(program, before).located = true
		s.poke(func() {})
	}
	if err := s.startOver(before, changes); err != nil {
		return err
	}
	s.sure = asked
	behind := false
	for _, st := range s.seats {
		if st.barrier > m.Position {
			behind = true
		} else if st.barrier != 0 {
			st.barrier = 0
			s.poke(func() {})
		}
	}
	if behind {
		s.recheckSoon()
	} else {
		s.retry = 0
	}
	return nil
}

// doubt makes the socket send no event until the memberships have been read anew, at position or later: a new history may have begun, in which
// other memberships hold. What is sent from then on may be of it.
func (s *socket) doubt(position int64) {
	s.poke(func() {
		s.least = max(s.least, position)
		s.doubts.Add(1)
		s.pending.recheck = true
	})
}

func (s *socket) leastPosition() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.least
}

// startOver sees to it that the client learns of histories that have begun since the memberships were read at before, for it may hold what hasn't
// survived; and that it is shown what has come since as those memberships have it that have survived, which no entry of the log tells.
func (s *socket) startOver(before int64, changes []auth.Change) error {
	resets := s.member.Resets
	i := slices.IndexFunc(resets, func(r auth.Reset) bool { return r.Before-1 > before })
	if i < 0 {
		return nil
	}
	lost, began := resets[i].After, resets[len(resets)-1].Before-1
	of := byProgram(slices.DeleteFunc(changes, func(c auth.Change) bool { return c.After < began }))
	for _, st := range s.seats {
		st.room.begin(began)
		switch {
		case st.cursor <= lost:
			continue
		case !st.located:
			return endTryLater // where it was to begin, and as what, was of the history before
		}
		after := lost
		if st.gap != nil { // not told yet
			after = min(after, st.gap.after)
		}
		st.gap = &gap{after: after, reason: "reset"}
		now := past{member: slices.Contains(s.member.Programs, st.program), changes: of[st.program]}
		st.way, st.past = now.at(max(st.cursor, began)), past{}
		s.poke(func() {})
	}
	return nil
}

// changesSince reads the changes that a new reading of the memberships contains and the last one didn't.
func (s *socket) changesSince(ctx context.Context, m auth.Membership) ([]auth.Change, error) {
	if m.Position <= s.member.Position {
		return nil, nil
	}
	return s.changes(ctx, s.member.Position, m.Position)
}

// gained returns the programs in which the socket has no seat, and in which the user is a member now, or was at some time since the
// last reading: that time's events are the user's too.
func (s *socket) gained(m auth.Membership, changes []auth.Change) []string {
	seen := make(map[string]bool, len(s.seats))
	for _, st := range s.seats {
		seen[st.program] = true
	}
	programs := slices.Clone(m.Programs)
	for _, c := range changes {
		programs = append(programs, c.Program)
	}
	return slices.DeleteFunc(programs, func(program string) bool {
		skip := seen[program] || !s.ask.wants(program)
		seen[program] = true
		return skip
	})
}

// recheckSoon makes the next recheck come after a wait that doubles up to the ordinary one.
func (s *socket) recheckSoon() {
	s.retry = min(max(2*s.retry, minBackoff), maxBackoff, s.hub.config.Recheck)
	s.nextRecheck = time.Now().Add(jitter(s.retry))
}
