package ws

import (
	"context"
	"errors"
)

// locate sets the cursor at which a seat begins, once its room has read: where the client left off, or at the position of the
// memberships. What the client can't be given is told by one gap.
func (s *socket) locate(ctx context.Context, st *seat) error {
	read, failed, newest, head := st.room.state()
	if read < st.demand {
		if failed >= st.demand {
			return endTryLater
		}
		return nil
	}
	j := st.settled // of the memberships that it was taken with: those known by now may lie beyond events that it hasn't seen
	top := max(j, head, newest)
	st.target, st.cursor, st.way = newest, j, passage{member: true}
	c, isTime, ok := s.ask.cursor(st.program)
	switch {
	case !ok, isTime && c > top:
	case c > top:
		st.gap = &gap{reason: "unknown_position"}
	case c > j: // ahead of the memberships: their changes since j must be met, the events are known
		st.way.skip = c
	default:
		if err := s.resume(ctx, st, c); err != nil {
			return err
		}
	}
	st.located, st.past = true, past{}
	return nil
}

// resume places a seat behind what its client has: at c, or later if that has been replaced or deleted, if too much was missed, or if
// part of it can't be told from what isn't the user's. The first reason that holds is the one told.
func (s *socket) resume(ctx context.Context, st *seat, c int64) error {
	from, reason := c, ""
	for _, r := range s.member.Resets {
		if r.After < c && c < r.Before-1 { // the new history begins at Before-1: a checkpoint may say so
			from, reason = r.Before-1, "reset"
		}
	}
	cut, err := s.countBack(ctx, st, max(from, s.member.Oldest))
	if errors.Is(err, ErrExpired) { // deleted since the memberships were read
		m, rerr := s.membership(ctx, s.user)
		if rerr != nil {
			return rerr
		}
		if m.Oldest <= s.member.Oldest {
			return err
		}
		s.member.Oldest = m.Oldest
		cut, err = s.countBack(ctx, st, max(from, s.member.Oldest))
	}
	if err != nil {
		return err
	}
	note := func(at int64, why string) {
		if at > from {
			from = at
			if reason == "" {
				reason = why
			}
		}
	}
	note(s.member.Oldest, "expired")
	note(cut, "limit")
	if ends := st.past.flips(from); len(ends) > 1 || len(ends) == 1 && reason != "" {
		note(ends[len(ends)-1], "membership") // one gap, not several
	}
	st.cursor, st.way = from, st.past.at(from)
	if reason == "" && st.way.member && from < st.way.lost {
		reason = "membership"
	}
	if reason != "" {
		st.gap = &gap{after: c, reason: reason}
	}
	return nil
}

// countBack counts the user's events with from < position <= that of the seat's memberships, newest first. It returns from, or the place
// behind which no more than MaxCatchup of them lie.
func (s *socket) countBack(ctx context.Context, st *seat, from int64) (int64, error) {
	j := st.settled
	t := tally{past: &st.past, max: s.hub.config.MaxCatchup}
	for before := j + 1; ; {
		recent, floor := st.room.between(from, before-1)
		for i := len(recent) - 1; i >= 0; i-- {
			if !t.add(recent[i]) {
				return t.first - 1, nil
			}
		}
		if before = min(before, floor+1); before-1 <= from {
			return from, nil
		}
		room, limit := st.room, t.max+batchCount
		page, err := await(ctx, s, func(ctx context.Context) (*Page, error) {
			return room.deepBefore(ctx, s.done, before, from, limit)
		})
		switch {
		case err != nil:
			return 0, err
		case page == nil:
			continue
		case len(page.Entries) == 0:
			return from, nil
		}
		for _, e := range page.Entries {
			if !t.add(e) {
				return t.first - 1, nil
			}
			before = e.Position
		}
	}
}
