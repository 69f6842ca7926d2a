package ws

import (
	"context"
	"errors"
)

// locate sets the cursor at which a seat begins, once its room has read: where the client left off, or at the position of the
// memberships. What the client can't be given is told by one gap. more: it goes on with the next call.
func (s *socket) locate(ctx context.Context, st *seat) (more bool, err error) {
	read, failed, newest, head := st.room.state()
	if read < st.demand {
		if failed >= st.demand {
			return false, endTryLater
		}
		return false, nil
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
		if more, err := s.resume(ctx, st, c); more || err != nil {
			return more, err
		}
	}
	st.located, st.count = true, nil
	return false, nil
}

// resume places a seat behind what its client has: at c, or later if that has been replaced or deleted, if too much was missed, or if
// part of it can't be told from what isn't the user's. The first reason that holds is the one told. What passes without the membership isn't
// read, and is no reason. more: it is to be called again.
func (s *socket) resume(ctx context.Context, st *seat, c int64) (more bool, err error) {
	from, reason := c, ""
	for _, r := range s.member.Resets {
		if r.After < c && c < r.Before-1 { // the new history begins at Before-1: a checkpoint may say so
			from, reason = r.Before-1, "reset"
		}
	}
	first := func() int64 { return st.past.next(max(from, s.member.Oldest)) }
	more, err = s.countBack(ctx, st, first())
	if errors.Is(err, ErrExpired) { // deleted since the memberships were read
		m, rerr := s.membership(ctx, s.user)
		if rerr != nil {
			return false, rerr
		}
		if m.Oldest <= s.member.Oldest {
			return false, err
		}
		s.member.Oldest = m.Oldest
		more, err = s.countBack(ctx, st, first())
	}
	if more || err != nil {
		return more, err
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
	from = first()
	if st.count.over {
		note(st.count.first-1, "limit")
	}
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
	return false, nil
}

// countBack counts the user's events with from < position <= that of the seat's memberships, newest first, until there are more than MaxCatchup
// of them. It reads one page; more: it is to be called again, so that the other seats needn't wait for all of it.
func (s *socket) countBack(ctx context.Context, st *seat, from int64) (more bool, err error) {
	if st.count == nil {
		st.count = &tally{past: &st.past, max: s.hub.config.MaxCatchup, before: st.settled + 1}
	}
	t := st.count
	look := func() (more bool) { // at what the room has
		recent, floor := st.room.between(from, t.before-1)
		for i := len(recent) - 1; i >= 0; i-- {
			if !t.add(recent[i]) {
				return false
			}
		}
		t.before = min(t.before, floor+1)
		return t.before-1 > from
	}
	if !look() {
		return false, nil
	}
	room, before, limit := st.room, t.before, min(t.max+batchCount, bufferCount)
	page, err := await(ctx, s, func(ctx context.Context) (*Page, error) {
		return room.deepBefore(ctx, s.done, before, from, limit)
	})
	switch {
	case err != nil:
		return false, err
	case page == nil:
		return look(), nil
	case len(page.Entries) == 0:
		return false, nil
	}
	for _, e := range page.Entries {
		if !t.add(e) {
			return false, nil
		}
	}
	return t.before-1 > from, nil
}
