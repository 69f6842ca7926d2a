package outbox

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/outboxrelay/outboxrelay/outbox/internal/outboxdb"
)

// refillQuery ranks the batches between the snapshots $2 and $3 of two ticks in which one of the programs $1 has rows, as ProgramRows does, but each
// once for all programs; only then it drops the others' rows. next is how many of the rows that follow have at most $4 bytes of data together.
//
// OFFSET 0 is a fence: whatever the planner thinks of how many rows there are, they are looked up one by one.
const refillQuery = `WITH transactions AS MATERIALIZED (
    SELECT DISTINCT xid FROM (
        SELECT mine.xid FROM unnest($1::text[]) program, LATERAL (
            SELECT a.xid FROM relay.outbox a
            WHERE a.program_id = program AND a.xid >= pg_snapshot_xmax($2::text::pg_snapshot) AND a.xid < pg_snapshot_xmax($3::text::pg_snapshot)
              AND pg_visible_in_snapshot(a.xid, $3::text::pg_snapshot)
            OFFSET 0) mine
        UNION ALL
        SELECT ended FROM pg_snapshot_xip($2::text::pg_snapshot) ended
        WHERE pg_visible_in_snapshot(ended, $3::text::pg_snapshot) AND EXISTS (SELECT FROM relay.outbox b WHERE b.xid = ended)
    ) x
), batches AS MATERIALIZED (
    SELECT t.position, t.events, t.snapshot, (SELECT p.snapshot FROM relay.ticks p WHERE p.position = t.after) AS before
    FROM (
        SELECT DISTINCT tick.position FROM transactions x, LATERAL (
            SELECT k.position FROM relay.ticks k
            WHERE pg_snapshot_xmax(k.snapshot) >= pg_snapshot_xmax($2::text::pg_snapshot) AND pg_snapshot_xmax(k.snapshot) > x.xid
              AND pg_visible_in_snapshot(x.xid, k.snapshot)
            ORDER BY pg_snapshot_xmax(k.snapshot), k.position
            LIMIT 1
        ) tick
    ) d, LATERAL (SELECT * FROM relay.ticks k WHERE k.position = d.position OFFSET 0) t
), ranked AS (` + ranked + `)
SELECT id, position, tick, count(*) OVER (ORDER BY bytes RANGE BETWEEN 1 FOLLOWING AND $4::bigint FOLLOWING) AS next
FROM (
    SELECT r.id, r.position, r.tick, sum(o.bytes) OVER (ORDER BY r.program_id, r.position) AS bytes
    FROM (SELECT * FROM ranked WHERE program_id IN (SELECT unnest($1::text[])) OFFSET 0) r,
         LATERAL (SELECT octet_length(d.data::text) AS bytes FROM relay.outbox d WHERE d.id = r.id OFFSET 0) o
) found
ORDER BY bytes`

// stretchChunks is how many chunks are ranked and sorted together.
const stretchChunks = 5

// ReplayPrograms reads the rows of programs again, each program's in the order of the log, and calls use with chunks of at most limit rows and 2 MiB of
// data: all from the first batch on that ends above the position after, through the tick upto. It goes through the batches once, however many
// programs there are, and its cost grows with the batches in which one of them has rows. They are read in stretches of about 5 * limit rows, which are
// sorted by program: use gets few programs at a time, and much of each. As with Replay the cursor is WITH HOLD (it has no data), and what a statement
// may take is patience, to sort a stretch a millisecond more for each of its events. ErrExpired if after lies below what is held, or what
// follows is deleted meanwhile.
func ReplayPrograms(ctx context.Context, conn *pgx.Conn, programs []string, after int64, upto Tick, limit int, patience time.Duration, use func([]Row) error) error {
	base, err := within(ctx, patience, func(ctx context.Context) (outboxdb.BaseRow, error) { return queries.Base(ctx, conn, after) })
	if err != nil {
		return fmt.Errorf("find the tick below position %d: %w", after, err)
	}
	if base.Expired {
		return ErrExpired
	}
	for lower := (outboxdb.StretchRow{Position: base.Position, Snapshot: base.Snapshot}); lower.Position < upto.Position; {
		upper, err := within(ctx, patience, func(ctx context.Context) (outboxdb.StretchRow, error) {
			return queries.Stretch(ctx, conn, outboxdb.StretchParams{
				After: lower.Position, Upto: upto.Position, MaxTicks: int32(stretchChunks * limit), MaxEvents: int64(stretchChunks * limit),
			})
		})
		if err != nil {
			return fmt.Errorf("find the ticks above position %d: %w", lower.Position, err)
		}
		if err := replayStretch(ctx, conn, programs, lower, upper, limit, patience, use); err != nil {
			return err
		}
		lower = upper
	}
	return nil
}

func replayStretch(
	ctx context.Context, conn *pgx.Conn, programs []string, lower, upper outboxdb.StretchRow, limit int, patience time.Duration, use func([]Row) error,
) (err error) {
	err = execWithin(ctx, conn, patience+time.Duration(upper.Events)*time.Millisecond,
		"DECLARE relay_refill NO SCROLL CURSOR WITH HOLD FOR "+refillQuery, programs, lower.Snapshot, upper.Snapshot, chunkBytes)
	if err != nil {
		return fmt.Errorf("open the batches through tick %d: %w", upper.Position, err)
	}
	defer func() {
		if conn.IsClosed() {
			return
		}
		if closeErr := execWithin(ctx, conn, patience, "CLOSE relay_refill"); closeErr != nil && err == nil {
			err = fmt.Errorf("close the batches through tick %d: %w", upper.Position, closeErr)
		}
	}()
	// A batch is whole as long as the tick before it is there. It was when the cursor was opened if it still is.
	oldest, err := within(ctx, patience, func(ctx context.Context) (int64, error) { return Oldest(ctx, conn) })
	if err != nil {
		return err
	}
	if oldest > lower.Position {
		return ErrExpired
	}
	for chunk := min(limit, chunkBytes/MaxDataBytes); chunk > 0; {
		var next int
		rows, err := within(ctx, patience, func(ctx context.Context) (rows []Row, err error) {
			rows, next, err = fetchRefill(ctx, conn, chunk)
			return rows, err
		})
		if err != nil {
			return fmt.Errorf("read the batches through tick %d: %w", upper.Position, err)
		}
		if len(rows) > 0 {
			if err := use(rows); err != nil {
				return err
			}
		}
		chunk = min(limit, next)
	}
	return nil
}

// fetchRefill returns the next rows of the cursor, and how many can be fetched after them: 0 if they were the last.
func fetchRefill(ctx context.Context, conn *pgx.Conn, limit int) (rows []Row, next int, err error) {
	found, err := conn.Query(ctx, fmt.Sprintf("FETCH %d FROM relay_refill", limit), pgx.QueryExecModeDescribeExec)
	if err != nil {
		return nil, 0, err
	}
	var ids []int64
	var r Row
	_, err = pgx.ForEachRow(found, []any{&r.ID, &r.Position, &r.TickThrough, &next}, func() error {
		ids, rows = append(ids, r.ID), append(rows, r)
		return nil
	})
	if err != nil || len(ids) == 0 {
		return nil, 0, err
	}
	read, err := queries.RowsByID(ctx, conn, ids)
	if err == nil && len(read) < len(ids) {
		err = ErrExpired
	}
	if err != nil {
		return nil, 0, err
	}
	for i, o := range read {
		rows[i] = Row{
			Position: rows[i].Position, TickThrough: rows[i].TickThrough, ID: o.ID, Program: o.ProgramID, Event: o.Event, Request: o.RequestID, Data: o.Data,
			ByID: o.PerformedByID, ByName: o.PerformedByName, CreatedAt: o.CreatedAt.Time, Control: o.Control,
		}
	}
	return rows, next, nil
}

// within bounds what a statement may take.
func within[T any](ctx context.Context, d time.Duration, do func(context.Context) (T, error)) (T, error) {
	ctx, cancel := context.WithTimeout(ctx, d)
	defer cancel()
	return do(ctx)
}
