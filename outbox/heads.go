package outbox

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/outboxrelay/outboxrelay/outbox/internal/outboxdb"
)

// ranked are the rows of the CTE `batches` (position, events, snapshot, before: of the tick before), each with its position in the log: they stand one
// after the other up to the tick's. What runs for long is in the snapshots of all the ticks of that time: it is looked at only where it has ended.
const ranked = `
    SELECT batch.id, batch.program_id, t.position AS tick,
           t.position - t.events + row_number() OVER (PARTITION BY t.position ORDER BY batch.control DESC, batch.id) AS position
    FROM batches t, LATERAL (
        SELECT a.id, a.control, a.program_id FROM relay.outbox a
        WHERE a.xid >= pg_snapshot_xmax(coalesce(t.before, '1:1:')) AND a.xid < pg_snapshot_xmax(t.snapshot) AND pg_visible_in_snapshot(a.xid, t.snapshot)
        UNION ALL
        SELECT b.id, b.control, b.program_id FROM relay.outbox b
        WHERE b.xid = ANY (ARRAY(SELECT ended FROM pg_snapshot_xip(t.before) ended WHERE pg_visible_in_snapshot(ended, t.snapshot)))
        OFFSET 0
    ) batch`

const headsQuery = `WITH batches AS MATERIALIZED (
    SELECT k.position, k.events, k.snapshot, (SELECT p.snapshot FROM relay.ticks p WHERE p.position = k.after) AS before
    FROM relay.ticks k WHERE k.position > $1 AND k.position <= $2
)
SELECT program_id, max(position) FROM (` + ranked + `) r GROUP BY program_id`

// ReadHeads returns the newest position of every program that has an event in the ticks above the cursor `after` and up to the tick
// upto: what a new leader must know of the log before it goes on. Where the outbox holds less, it starts at the oldest tick. The server ranks about limit
// events at a time, of whole ticks, and sends a row for each of their programs.
func ReadHeads(ctx context.Context, db DB, after int64, upto Tick, limit int) (map[string]int64, error) {
	heads := map[string]int64{}
	base, err := queries.Base(ctx, db, after)
	if err != nil {
		return nil, fmt.Errorf("find the tick below position %d: %w", after, err)
	}
	lower := base.Position
	if base.Expired {
		if lower, err = Oldest(ctx, db); err != nil {
			return nil, err
		}
	}
	for lower < upto.Position {
		upper, err := queries.Stretch(ctx, db, outboxdb.StretchParams{After: lower, Upto: upto.Position, MaxTicks: int32(limit), MaxEvents: int64(limit)})
		if errors.Is(err, pgx.ErrNoRows) {
			break
		}
		if err != nil {
			return nil, fmt.Errorf("find the ticks above position %d: %w", lower, err)
		}
		rows, err := db.Query(ctx, headsQuery, lower, upper.Position)
		if err != nil {
			return nil, fmt.Errorf("read the heads through tick %d: %w", upper.Position, err)
		}
		var program string
		var position int64
		_, err = pgx.ForEachRow(rows, []any{&program, &position}, func() error {
			heads[program] = position
			return nil
		})
		if err != nil {
			return nil, fmt.Errorf("read the heads through tick %d: %w", upper.Position, err)
		}
		lower = upper.Position
	}
	return heads, nil
}
