package ws

import (
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/outboxrelay/outboxrelay/auth"
)

// Withheld says in words why an event of a program isn't a user's; "" if it is. It is the rule of every connection, of one that was open then and of
// one that comes back. m and changes are a Store's answers for the user; the changes begin below the event's position and end at m.Position.
func Withheld(m auth.Membership, changes []auth.Change, program string, position, id int64) string {
	p := past{member: slices.Contains(m.Programs, program), changes: byProgram(changes)[program]}
	way := p.at(position)
	switch {
	case way.sees(Entry{Position: position, Frame: strconv.AppendInt(slices.Clone(idPrefix), id, 10)}):
		return ""
	case position <= way.lost:
		return fmt.Sprintf("the membership of %s was taken away in the batch that ends at %s, and the event lies in it", program, moment(way.lost))
	case way.member:
		return fmt.Sprintf("the membership of %s was given by change %d, after the event had been inserted", program, way.gain.id)
	}
	why, since := "no member of "+program+" then", ""
	for _, c := range p.changes {
		switch {
		case c.After < position:
			since = ", since " + moment(c.Through)
		case c.First || c.Last:
			return why + since + "; became one at " + moment(c.Through)
		}
	}
	return why + since + ", nor now"
}

// moment is a position and about when that was.
func moment(position int64) string {
	return fmt.Sprintf("%d (%s)", position, time.UnixMicro(position).UTC().Format(time.RFC3339))
}
