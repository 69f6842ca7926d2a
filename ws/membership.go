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
	m, err := s.membership(ctx, a.identity.UserID)
	if err != nil {
		return err
	}
	if !m.Found || !m.Active {
		return endUserInactive
	}
	s.user, s.ask, s.member = a.identity.UserID, a.ask, m
	s.nextRecheck = now.Add(jitter(s.hub.config.Recheck))
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
	for _, st := range s.seats {
		st.past = s.pastOf(st.program, changes)
	}
	return s.send(seal(marshal(readyFrame{"ready", s.user, s.member.Role, programs, identity.ExpiresAt})))
}

// sit takes a seat in a program's room, which begins at position if it is new.
func (s *socket) sit(program string, position int64) *seat {
	st := &seat{room: s.hub.join(s, program, position), program: program, cursor: position}
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

// pastOf returns what is known of one program.
func (s *socket) pastOf(program string, changes []auth.Change) past {
	p := past{member: true}
	for _, c := range changes {
		if c.Program == program {
			p.changes = append(p.changes, c)
		}
	}
	return p
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
	m, err := s.membership(ctx, s.user)
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case isEnding(err):
		return err
	case err != nil, m.Position < s.member.Position: // a replica may lag behind the one asked before
		s.recheckSoon()
		return nil
	case !m.Found, !m.Active:
		return endUserInactive
	}
	before := s.member.Position
	gained, err := s.gained(ctx, m)
	switch {
	case isEnding(err):
		return err
	case err != nil:
		s.recheckSoon()
		return ctx.Err()
	}
	s.member = m
	s.nextRecheck = time.Now().Add(jitter(s.hub.config.Recheck))
	s.tellResets(before)
	behind := false
	for _, st := range s.seats {
		if st.barrier > m.Position {
			behind = true
		} else if st.barrier != 0 {
			st.barrier = 0
			s.poke(func() {})
		}
	}
	for _, program := range gained {
		s.sit(program, before).located = true
		s.poke(func() {})
	}
	if behind {
		s.recheckSoon()
	} else {
		s.retry = 0
	}
	return nil
}

// tellResets sees to it that the client learns of histories that have begun since the memberships were read at before: it may hold
// what hasn't survived.
func (s *socket) tellResets(before int64) {
	for _, r := range s.member.Resets {
		if r.Before-1 <= before {
			continue
		}
		for _, st := range s.seats {
			if st.cursor <= r.After {
				continue
			}
			after := r.After
			if st.gap != nil { // not told yet
				after = min(after, st.gap.after)
			}
			st.gap = &gap{after: after, reason: "reset"}
			s.poke(func() {})
		}
	}
}

// gained returns the programs in which the socket has no seat, and in which the user is a member now, or was at some time since the
// last reading: that time's events are the user's too.
func (s *socket) gained(ctx context.Context, m auth.Membership) ([]string, error) {
	seen := make(map[string]bool, len(s.seats))
	for _, st := range s.seats {
		seen[st.program] = true
	}
	programs := slices.Clone(m.Programs)
	if m.Position > s.member.Position {
		changes, err := s.changes(ctx, s.member.Position, m.Position)
		if err != nil {
			return nil, err
		}
		for _, c := range changes {
			programs = append(programs, c.Program)
		}
	}
	return slices.DeleteFunc(programs, func(program string) bool {
		skip := seen[program] || !s.ask.wants(program)
		seen[program] = true
		return skip
	}), nil
}

// recheckSoon makes the next recheck come after a wait that doubles up to the ordinary one.
func (s *socket) recheckSoon() {
	s.retry = min(max(2*s.retry, minBackoff), maxBackoff, s.hub.config.Recheck)
	s.nextRecheck = time.Now().Add(jitter(s.retry))
}
