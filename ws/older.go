package ws

import (
	"context"
	"slices"
)

// question is what a read below a buffer asks for, and answered by.
type question struct {
	before, after int64 // before is 0 in a read forwards
	limit, forgot int   // forgot: how often the buffer had been forgotten, for an older answer may hold what was erased
}

// shared is the last answer, for those who wait with the same question: they come one after the other, each with its next question when all
// others have had the last one, so that one answer is enough. It is kept for as long as somebody waits.
type shared struct {
	question question
	page     Page
}

// deep reads below the buffer, one socket at a time: a storm of old cursors costs one read after the other, and one for all whose cursor is the same.
//
// Where the log has nothing behind the cursor, and can't vouch for a later position, the room goes back to the cursor and watches
// from there: an entry that turns up later (the log's end had been lost and is repaired) is not missed, and other sockets find the place covered.
//
// Who waits for its turn gives up when gone is closed; so it does in deepBefore.
func (r *room) deep(ctx context.Context, gone <-chan struct{}, cursor int64, limit int) (Page, error) {
	release, err := r.lockOlder(ctx, gone)
	if err != nil {
		return Page{}, err
	}
	defer release()
	if v := r.after(cursor, limit, bufferBytes); v.covered { // somebody else has been here
		return Page{Entries: v.entries, Through: cursor}, nil
	}
	_, forgot := r.bottom(0)
	q := question{after: cursor, limit: limit, forgot: forgot}
	if q == r.shared.question {
		return r.shared.page, nil
	}
	r.hub.metrics.deepReads.Inc()
	page, err := r.hub.after(ctx, r.program, cursor, limit)
	if err != nil {
		return page, err
	}
	if len(page.Entries) > 0 || page.Through <= cursor {
		r.lower(cursor, page, !page.More, forgot)
	}
	if len(page.Entries) > 0 || page.Through > cursor { // else the same question will be asked again, and must be answered anew
		r.shared = shared{q, page}
	}
	return page, nil
}

// deepBefore is deep, backwards. No page: the buffer has come down below before, and is to be looked at again. It does whenever the log answers:
// those who come back after a cut all missed the same, or the newest part of it.
func (r *room) deepBefore(ctx context.Context, gone <-chan struct{}, before, after int64, limit int) (*Page, error) {
	release, err := r.lockOlder(ctx, gone)
	if err != nil {
		return nil, err
	}
	defer release()
	if r.covers(before - 2) { // somebody else has been here
		return nil, nil
	}
	first, forgot := r.bottom(before)
	q := question{before, after, limit, forgot}
	if q == r.shared.question {
		page := r.shared.page
		return &page, nil
	}
	r.hub.metrics.deepReads.Inc()
	timeout, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	page, err := r.hub.config.Log.Before(timeout, r.program, max(before, first+1), after, limit)
	if err != nil {
		return nil, err
	}
	if n := len(page.Entries); n >= batchCount || n > 0 && page.More {
		newest := slices.Clone(page.Entries)
		slices.Reverse(newest)
		if r.lower(newest[0].Position-1, Page{Entries: newest, Through: newest[n-1].Position}, true, forgot) && r.covers(before-2) {
			r.hear(News{}) // it may have gone back
			return nil, nil
		}
	} else if few, err := r.hub.after(ctx, r.program, after, batchCount); err == nil {
		r.lower(after, few, !few.More, forgot)
	}
	page.Entries = slices.DeleteFunc(page.Entries, func(e Entry) bool { return e.Position >= before })
	r.shared = shared{q, page}
	return &page, nil
}

// bottom returns the position of the first entry in the buffer if it is the next one from before on, else 0, and how often the buffer was
// forgotten.
func (r *room) bottom(before int64) (first int64, forgot int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.entries) > 0 && before > r.floor {
		first = r.entries[0].Position
	}
	return first, r.forgot
}

// covers reports whether the buffer reaches down to cursor.
func (r *room) covers(cursor int64) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return cursor >= r.floor
}

// lockOlder waits for the turn to read below the buffer.
func (r *room) lockOlder(ctx context.Context, gone <-chan struct{}) (release func(), err error) {
	r.queue.Add(1)
	defer r.queue.Add(-1)
	enter := func(c chan struct{}) error {
		select {
		case c <- struct{}{}:
			return nil
		case <-gone:
			return context.Canceled
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	if err := enter(r.older); err != nil {
		return nil, err
	}
	if err := enter(r.hub.older); err != nil {
		<-r.older
		return nil, err
	}
	return func() {
		if r.queue.Load() == 0 {
			r.shared = shared{} // nobody is there to want it
		}
		<-r.hub.older
		<-r.older
	}, nil
}

// lower brings the buffer down to cursor, behind which page lies, or as far as there is room: an empty one goes back there and begins with page,
// if that is all there is (end); else page must reach the first entry, or what lies between isn't known. It reports false if nothing of page was
// taken; so it is if the buffer was forgotten since, for then page may hold what was erased.
func (r *room) lower(cursor int64, page Page, end bool, forgot int) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if cursor >= r.floor || len(r.entries) == 0 && !end || r.forgot != forgot {
		return false
	}
	if len(r.entries) == 0 {
		r.floor, r.newest, r.last, r.vouched = cursor, cursor, 0, 0
		r.absorb(page, 0, end)
		if r.newest < r.told { // it was known here, and has come since page was read
			r.stale = true
			token(r.wake)
		}
		return true
	}
	n := slices.IndexFunc(page.Entries, func(e Entry) bool { return e.Position == r.entries[0].Position })
	if n < 0 {
		return false
	}
	older, bytes := page.Entries[:n], 0
	for i := range older {
		older[i].seal()
		bytes += len(older[i].Frame)
	}
	for len(older) > 0 && (len(older)+len(r.entries) > bufferCount || bytes+r.bytes > bufferBytes) {
		cursor, bytes = older[0].Position, bytes-len(older[0].Frame)
		older = older[1:]
	}
	r.floor, r.bytes = cursor, r.bytes+bytes
	r.entries = slices.Concat(older, r.entries)
	return true
}
