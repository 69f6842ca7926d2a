package outbox

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"
)

// ErrNoEvent says that the outbox doesn't hold an event with that id: it never did, retention has deleted it, or it is a membership change.
var ErrNoEvent = errors.New("no such event in the outbox")

// ErrNotRelayed says that an event hasn't been relayed yet and so has no position.
var ErrNotRelayed = errors.New("the event hasn't been relayed yet")

// Erase blanks the data of one event to {}, for legal reasons; everything else of it stays, its place in the log too. It may be repeated.
// ErrNoEvent if there is none with that id.
func Erase(ctx context.Context, db DB, id int64) error {
	done, err := db.Exec(ctx, "UPDATE relay.outbox SET data = '{}' WHERE id = $1 AND NOT control", id)
	if err != nil {
		return fmt.Errorf("blank event %d: %w", id, err)
	}
	if done.RowsAffected() == 0 {
		return fmt.Errorf("event %d: %w", id, ErrNoEvent)
	}
	return nil
}

// ReadEvent returns one event with its place in the log. ErrNoEvent if there is none with that id, ErrNotRelayed if it has no place yet, ErrExpired if
// retention is deleting its batch. The cost grows with the batch that it lies in.
func ReadEvent(ctx context.Context, db DB, id int64) (Row, error) {
	o, err := queries.Event(ctx, db, id)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return Row{}, fmt.Errorf("event %d: %w", id, ErrNoEvent)
	case err != nil:
		return Row{}, fmt.Errorf("find event %d: %w", id, err)
	case o.Tick == 0:
		return Row{}, fmt.Errorf("event %d: %w", id, ErrNotRelayed)
	case o.Expired:
		return Row{}, fmt.Errorf("event %d: %w", id, ErrExpired)
	}
	return Row{
		Position: o.Position, TickThrough: o.Tick, ID: o.ID, Program: o.ProgramID, Event: o.Event, Request: o.RequestID, Data: o.Data,
		ByID: o.PerformedByID, ByName: o.PerformedByName, CreatedAt: o.CreatedAt.Time,
	}, nil
}
