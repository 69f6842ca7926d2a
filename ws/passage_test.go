package ws

import (
	"fmt"
	"math"
	"testing"

	"pgregory.net/rapid"

	"github.com/outboxrelay/outboxrelay/auth"
)

// history is a made-up log of one program with one user's changes, and what the rule says of each event.
type history struct {
	entries []Entry
	changes []auth.Change
	visible map[int64]bool
	end     bool // member at the end
}

func drawHistory(t *rapid.T) history {
	member := rapid.Bool().Draw(t, "member")
	h := history{visible: map[int64]bool{}}
	position, id := int64(0), int64(0)
	for range rapid.IntRange(0, 8).Draw(t, "batches") {
		flips := rapid.SampledFrom([]int{0, 0, 0, 1, 1, 2, 3}).Draw(t, "changes")
		events := rapid.IntRange(0, 4).Draw(t, "events")
		others := rapid.IntRange(0, 2).Draw(t, "others") // rows of other programs, and changes of other users
		c := auth.Change{Program: "p", After: position, Through: position + int64(flips+events+others)}
		if c.Through == position {
			continue
		}
		before := rapid.IntRange(0, events).Draw(t, "events before the last change") // in the order of INSERTs
		for i := range flips {
			position++
			member = !member
			if i == 0 {
				c.First = member
			}
			c.Last, c.Lost = member, c.Lost || !member
			c.ID = id + int64(before+1+i)
			h.entries = append(h.entries, Entry{Position: position, Control: &Control{ID: c.ID, UserID: "u", In: member, Through: c.Through}})
		}
		if flips > 0 {
			h.changes = append(h.changes, c)
		}
		position += int64(others)
		for i := range events {
			position++
			e := id + int64(1+i)
			if i >= before {
				e += int64(flips)
			}
			h.entries = append(h.entries, Entry{Position: position, Frame: fmt.Appendf(nil, `{"type":"event","id":"%d"}`, e)})
			h.visible[position] = member && !c.Lost && (!c.First || i >= before)
		}
		id += int64(events + flips)
	}
	h.end = member
	return h
}

// Whatever the cursor, reading forward from the state that the database gives for it shows the events that reading everything shows; so does
// passing over what lies without the membership.
func TestPassageFromAnyCursor(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		h := drawHistory(t)
		last := int64(1)
		if n := len(h.entries); n > 0 {
			last = h.entries[n-1].Position
		}
		cursor := rapid.Int64Range(0, last).Draw(t, "cursor")
		changes := h.changes
		for len(changes) > 0 && changes[0].Through <= cursor { // the database is asked for what lies behind the cursor
			changes = changes[1:]
		}
		known, from := past{member: h.end, changes: changes}, cursor
		jumping := rapid.Bool().Draw(t, "jumping")
		way := known.at(cursor)
		for _, e := range h.entries {
			if jumping && !way.member {
				cursor = known.next(cursor)
			}
			if e.Position <= cursor {
				if e.Position > from && h.visible[e.Position] {
					t.Fatalf("from %d: event %d is passed over", from, e.Position)
				}
				continue
			}
			cursor = e.Position
			switch {
			case e.Control != nil:
				way.change(e.Position, e.Control)
			case way.sees(e) != h.visible[e.Position]:
				t.Fatalf("from %d: event %d is shown: %v, want %v", from, e.Position, way.sees(e), h.visible[e.Position])
			case known.sees(e) != h.visible[e.Position]:
				t.Fatalf("from %d: event %d is counted: %v, want %v", from, e.Position, known.sees(e), h.visible[e.Position])
			}
		}
	})
}

// The count from behind stops exactly where the newest max events begin.
func TestTally(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		h := drawHistory(t)
		count := tally{past: &past{member: h.end, changes: h.changes}, max: rapid.IntRange(1, 6).Draw(t, "max"), before: math.MaxInt64}
		var mine []int64
		for _, e := range h.entries {
			if h.visible[e.Position] {
				mine = append(mine, e.Position)
			}
		}
		cut := int64(0)
		for i := len(h.entries) - 1; i >= 0; i-- {
			if !count.add(h.entries[i]) {
				cut = count.first - 1
				break
			}
		}
		left := 0
		for _, p := range mine {
			if p > cut {
				left++
			}
		}
		if want := min(len(mine), count.max); left != want || (cut == 0) != (len(mine) <= count.max) {
			t.Fatalf("cut at %d leaves %d of %v, max %d", cut, left, mine, count.max)
		}
	})
}
