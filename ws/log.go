package ws

import (
	"context"
	"errors"
)

// ErrExpired is returned by Log.After and Log.Before for a position that lies below what the outbox still holds: what lies
// between cannot be sent, and the client is told by a gap.
var ErrExpired = errors.New("position is below the retention of the outbox")

// Log is where rooms and sockets read a program's entries from: Redis for the last minutes, Postgres for what is older. Which of
// the two answers is the implementation's business; both give the same entries with the same positions.
//
// A wake-up may be lost or repeated, and a read may be told too little (Redis lost the end of a log and the relay hasn't repaired
// it yet). It is never told entries that lie behind a hole: who keeps its cursor and reads again gets everything.
type Log interface {
	// After returns at most limit entries of the program with position > after, ascending. Both may return fewer, because of their bytes, but
	// not none if there are any.
	After(ctx context.Context, program string, after int64, limit int) (Page, error)
	// Before returns at most limit entries of the program with after < position < before, descending.
	Before(ctx context.Context, program string, before, after int64, limit int) (Page, error)
	// Watch blocks until ctx ends. It calls wake(topic, news) for every message on a topic that Subscribe named and, without news, every time
	// a subscription to it is confirmed, also after a reconnect. wake must not block.
	Watch(ctx context.Context, wake func(topic string, news News)) error
	// Subscribe adds topics (ProgramTopic, UserTopic) to those that Watch reports. It does not wait for the confirmation.
	Subscribe(ctx context.Context, topics ...string) error
	// Unsubscribe removes topics.
	Unsubscribe(ctx context.Context, topics ...string) error
}

// NodesTopic is the topic on which nodes learn that they must forget what they have buffered and read all memberships again, because an
// event was erased or a new history has begun. Watch reports it without being asked, and at every confirmation: a node that was away for a
// moment may have missed it.
const NodesTopic = "nodes"

// ProgramTopic is the topic on which a program's room is woken.
func ProgramTopic(program string) string { return programTopic + ":" + program }

// UserTopic is the topic on which nodes learn that a user's memberships changed.
func UserTopic(user string) string { return userTopic + ":" + user }

// News is what a wake-up may bring: all entries of the program that lie behind After, up to the last of Entries. Who has everything up to
// After needn't read the log. Without entries there is something to read, up to After at least; 0 if unknown.
type News struct {
	After   int64
	Entries []Entry // ascending
}

// Page is the answer to one read.
type Page struct {
	Entries []Entry
	// Through is the position up to which the page is known to be complete: nothing else of this program lies between the
	// read's `after` and Through. At least the last entry's position; more only where the source vouches for it (Postgres).
	// A cursor may be set to it.
	Through int64
	// More says that the answer was cut off, by its limit or its bytes; of After, false: it has all that there was when the page was read.
	More bool
	// Newest is the position of the newest entry that the log held when the page was read; 0 if it is empty or wasn't asked (an
	// answer from Postgres). Less than what a room has seen: the log has lost its end, and Head means nothing.
	Newest int64
	// Head is the position up to which everything, in all programs, had been published when the page was read; 0 if unknown.
	// It makes checkpoints and is never a reason to move a room's cursor: the key of one program can be lost alone.
	Head int64
}

// Entry is one entry of a program's log: an event's frame, or a membership change.
type Entry struct {
	Position int64
	Frame    []byte   // the event frame as sent to clients; nil for a control entry
	Control  *Control // nil for an event

	sealed message // of Frame, where a room keeps the entry
}

// seal makes the entry's message, of which Frame is then a part.
func (e *Entry) seal() {
	if e.Control == nil {
		e.sealed = seal(e.Frame)
		e.Frame = e.sealed.payload()
	}
}

// message returns what clients are sent of an event.
func (e *Entry) message() message {
	if e.sealed != nil {
		return e.sealed
	}
	return seal(e.Frame)
}

// Control is the change of one user's effective membership at its place in the log.
type Control struct {
	ID     int64 // of the row, as an event's; those of one batch stand in the order of their INSERTs
	UserID string
	In     bool // member from here on; false: no longer a member
	// Through is the position of the last row of the batch that the change was relayed in. Changes stand at the head of their
	// batch: how their COMMITs lie between those of the events up to Through isn't known.
	Through int64
}
