package ws

import (
	"bytes"
	"strconv"

	"github.com/outboxrelay/outboxrelay/auth"
)

// passage is one user's way through one program's log, read forward: which events are the user's. The log says everything; no
// event is shown because some later answer of the database allows it.
type passage struct {
	member bool  // the user is a member at the cursor
	lost   int64 // end of the batch that last took the membership away: none of its events is the user's
	skip   int64 // events at or below are the client's already
	gain   gain
}

// gain is the change that last gave the membership. It stands before all events of its batch, those too that had been committed before
// its transaction began; but they were inserted earlier, and whose transaction began after its COMMIT inserted later.
type gain struct {
	id      int64
	through int64 // end of the batch
}

func (g gain) covers(e Entry) bool { return e.Position > g.through || e.id() > g.id }

var idPrefix = []byte(`{"type":"event","id":"`)

// id returns an event's id; 0 if the frame has none.
func (e Entry) id() int64 {
	rest, _ := bytes.CutPrefix(e.Frame, idPrefix)
	digits, _, _ := bytes.Cut(rest, []byte{'"'})
	id, err := strconv.ParseInt(string(digits), 10, 64)
	if err != nil {
		return 0
	}
	return id
}

// sees reports whether the event is the user's.
func (p *passage) sees(e Entry) bool {
	return p.member && e.Position > p.lost && e.Position > p.skip && p.gain.covers(e)
}

// change applies a membership change of the user at its place. flip: the batch that took the membership away gives it back, so that
// events may be missing for the user which nobody can tell from those that must not be sent.
func (p *passage) change(position int64, c *Control) (flip bool) {
	if c.In && !p.member {
		p.gain = gain{c.ID, c.Through}
	}
	p.member = c.In
	if !c.In {
		p.lost = max(p.lost, c.Through)
		return false
	}
	return position <= p.lost
}

// past is what is known of a user's membership of one program up to a position, from the database: batch by batch.
type past struct {
	member  bool          // at the end
	changes []auth.Change // of this program, ascending
}

// at returns the passage of a cursor at position c: as a forward reader would have it that had come from far below.
func (p *past) at(c int64) passage {
	way := passage{member: p.member}
	for i, change := range p.changes {
		if change.After >= c {
			way.member = p.before(i)
			break
		}
		// Behind the first entry of a batch, c lies behind or among its changes: this is what holds for the batch's events.
		if change.First {
			way.gain = gain{change.ID, change.Through}
		}
		way.member = change.Last
		if change.Lost {
			way.lost = change.Through
		}
	}
	return way
}

// sees reports whether the event was the user's.
func (p *past) sees(e Entry) bool {
	way := p.at(e.Position)
	return way.sees(e)
}

// before reports whether the user was a member before the i-th change.
func (p *past) before(i int) bool {
	if i == 0 {
		return !p.changes[0].First
	}
	return p.changes[i-1].Last
}

// next returns c, or, if the user isn't a member there, the place before the batch that gives the membership: nothing between is the user's.
func (p *past) next(c int64) int64 {
	if way := p.at(c); way.member {
		return c
	}
	for _, change := range p.changes {
		if change.After >= c && change.Last {
			return change.After
		}
	}
	return c
}

// previous returns the place at or below which the user's next event lies, going back from one that isn't the user's.
func (p *past) previous(position int64) int64 {
	i := len(p.changes)
	for i > 0 && p.changes[i-1].After >= position {
		i--
	}
	// The event lies in the batch of the last change before it, of which what was inserted earlier isn't the user's either, or that change
	// took the membership away.
	for i--; i >= 0; i-- {
		if p.before(i) {
			return p.changes[i].After
		}
	}
	return 0
}

// flips returns the ends of the batches in (c, end] that took the membership away and gave it back, oldest first.
func (p *past) flips(c int64) []int64 {
	var ends []int64
	for _, change := range p.changes {
		if change.Lost && change.Last && change.Through > c {
			ends = append(ends, change.Through)
		}
	}
	return ends
}

// tally counts, backwards, the events that a cursor has missed.
type tally struct {
	past   *past
	max    int
	before int64 // none of the user's events lies between here and what has been added
	count  int
	first  int64 // the oldest event counted
	over   bool  // there are more than max: first is the oldest that may be sent
}

// add counts an entry and reports false when there are more than max.
func (t *tally) add(e Entry) bool {
	if e.Position >= t.before {
		return true
	}
	t.before = e.Position
	switch {
	case e.Control != nil:
	case !t.past.sees(e):
		t.before = t.past.previous(e.Position) + 1
	case t.count == t.max:
		t.over = true
	default:
		t.count++
		t.first = e.Position
	}
	return !t.over
}
