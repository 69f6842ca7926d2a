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

// ReadEvent returns one event with its place in the log. ErrNoEvent if there is none with that id, ErrNotRelayed if it has no place yet.
func ReadEvent(ctx context.Context, db interface {
	DB
	Beginner
}, id int64,
) (Row, error) {
	var program string
	var base, tick *int64
	err := db.QueryRow(ctx, `SELECT o.program_id, t.position - t.events, t.position
		FROM relay.outbox o LEFT JOIN LATERAL (
			SELECT t.position, t.events FROM relay.ticks t
			WHERE pg_snapshot_xmax(t.snapshot) > o.xid AND pg_visible_in_snapshot(o.xid, t.snapshot)
			ORDER BY pg_snapshot_xmax(t.snapshot), t.position LIMIT 1
		) t ON true
		WHERE o.id = $1 AND NOT o.control`, id).Scan(&program, &base, &tick)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return Row{}, fmt.Errorf("event %d: %w", id, ErrNoEvent)
	case err != nil:
		return Row{}, fmt.Errorf("find the tick of event %d: %w", id, err)
	case tick == nil:
		return Row{}, fmt.Errorf("event %d: %w", id, ErrNotRelayed)
	}
	for cursor := *base; cursor < *tick; {
		rows, through, err := ReadHistory(ctx, db, program, cursor, 1000, batchBytes)
		if err != nil {
			return Row{}, err
		}
		for _, r := range rows {
			if r.ID == id {
				return r, nil
			}
		}
		if through <= cursor {
			break
		}
		cursor = through
	}
	return Row{}, fmt.Errorf("event %d: %w", id, ErrNoEvent) // deleted meanwhile
}
