package outbox

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
)

// ErrLarge says that more rows, or more data, wait than Next returns, or that they may have to be cut: no tick was written; go on with CommitLarge
// and Replay.
var ErrLarge = errors.New("more rows wait than fit in one batch in memory, or a batch must be cut at a membership change")

// ErrDeleted says that rows of a batch are gone although its tick is there. Only hands do that: the positions of what is left can't be
// known any more.
var ErrDeleted = errors.New("rows of the outbox were deleted by hand")

// unread are the rows that the snapshot $1 of the last tick doesn't see. Its two halves, and OFFSET 0 as a fence around them, keep both on the
// index on xid; an OR with LIMIT would walk the whole primary key.
const unread = `
    SELECT * FROM relay.outbox a WHERE a.xid >= pg_snapshot_xmax($1::text::pg_snapshot)
    UNION ALL
    SELECT * FROM relay.outbox b WHERE b.xid = ANY (ARRAY(SELECT pg_snapshot_xip($1::text::pg_snapshot)))
    OFFSET 0`

// insertTick writes the tick of the given rows (a derived table or a CTE, with a condition on the whole) up to a snapshot. The first position is never
// below the clock, the last position, or the created_at of any row of the batch. (sqlc can't resolve a derived table in INSERT … SELECT: hence by hand.)
func insertTick(snapshot, rows string) string {
	return `INSERT INTO relay.ticks (position, after, snapshot, events, at, system_id, timeline)
    SELECT first + events - 1, $2::bigint, ` + snapshot + `, events, clock_timestamp(), $3::bigint, $4::bigint
    FROM (SELECT count(*) AS events,
                 greatest((extract(epoch FROM clock_timestamp()) * 1000000)::bigint, $2::bigint + 1,
                          (extract(epoch FROM max(created_at)) * 1000000)::bigint) AS first
          FROM ` + rows + `) summary`
}

// nextQuery takes any $5 + 1 rows: if there are no more than $5, these are all, and only then are they sorted and sent. So that a backlog, however
// long, is recognised at once. What may have to be cut isn't taken either.
var nextQuery = `WITH batch AS MATERIALIZED (
    SELECT * FROM (` + unread + `) o LIMIT $5::bigint + 1
), tick AS (` + insertTick("pg_current_snapshot()", `batch
          HAVING count(*) BETWEEN 1 AND $5::bigint AND sum(octet_length(data::text)) <= $6::bigint AND NOT EXISTS (
              SELECT FROM batch c JOIN batch e ON e.program_id = c.program_id AND e.xid <> c.xid
              WHERE c.control AND (NOT e.control OR e.performed_by_id = c.performed_by_id))`) + `
    RETURNING position, snapshot, at
)
SELECT b.id, b.program_id, b.event, b.request_id, b.data::text, b.performed_by_id, b.performed_by_name, b.created_at, b.control,
       t.position, t.snapshot::text, t.at
FROM batch b LEFT JOIN tick t ON true
WHERE t.position IS NOT NULL OR b.id = (SELECT id FROM batch LIMIT 1)
ORDER BY b.control DESC, b.id`

// cutQuery finds the first membership change that isn't relayed yet and that has something before it in its program: an event, or another change
// of the same user. What its transaction saw as it committed is where the batch may end. Snapshots of one server form a chain: by xmax, then
// by how few were running. One that doesn't see all that the last tick saw was taken before that tick.
const cutQuery = `
    SELECT c.snapshot FROM relay.cuts c
    WHERE $5::boolean AND c.xid >= pg_snapshot_xmin($1::text::pg_snapshot) AND NOT pg_visible_in_snapshot(c.xid, $1::text::pg_snapshot)
      AND pg_snapshot_xmax(c.snapshot) >= pg_snapshot_xmax($1::text::pg_snapshot)
      AND NOT EXISTS (SELECT FROM pg_snapshot_xip(c.snapshot) running WHERE pg_visible_in_snapshot(running, $1::text::pg_snapshot))
      AND EXISTS (
        SELECT FROM relay.outbox k JOIN relay.outbox e ON e.program_id = k.program_id
        WHERE k.xid = c.xid AND k.control AND (NOT e.control OR e.performed_by_id = k.performed_by_id)
          AND e.xid >= pg_snapshot_xmin($1::text::pg_snapshot) AND e.xid < pg_snapshot_xmax(c.snapshot)
          AND NOT pg_visible_in_snapshot(e.xid, $1::text::pg_snapshot) AND pg_visible_in_snapshot(e.xid, c.snapshot))
    ORDER BY pg_snapshot_xmax(c.snapshot), (SELECT count(*) FROM pg_snapshot_xip(c.snapshot)) DESC
    LIMIT 1`

var commitLargeQuery = `WITH cut AS MATERIALIZED (` + cutQuery + `), tick AS (` +
	insertTick("coalesce((SELECT snapshot FROM cut), pg_current_snapshot())", `(
          SELECT * FROM (`+unread+`) u WHERE (SELECT snapshot FROM cut) IS NULL OR pg_visible_in_snapshot(u.xid, (SELECT snapshot FROM cut))
          ) o HAVING count(*) > 0`) + `
    RETURNING position, snapshot::text, events, at
)
SELECT tick.*, EXISTS (SELECT FROM cut) FROM tick`

// batchBytes bounds the data that is held of a batch or a chunk of one. The least chunk, of rows as large as a row may be, has 32.
const batchBytes = 32 * MaxDataBytes

// Next reads the rows after last and commits their tick, in one statement and hence one snapshot. The tick is durable (the session
// must have synchronous_commit = on) when Next returns. No rows: the zero Tick. More than limit rows, or more than 8 MiB of data: ErrLarge,
// and nothing is written. Any other error leaves it open whether the tick was committed: read NewestTick again.
//
// Next must not be called inside a transaction, nor on a standby.
func Next(ctx context.Context, db DB, last Tick, cluster Cluster, limit int) (Tick, []Row, error) {
	rows, err := db.Query(ctx, nextQuery, last.Snapshot, last.Position, cluster.SystemID, cluster.Timeline, limit, batchBytes)
	if err != nil {
		return Tick{}, nil, fmt.Errorf("read the outbox: %w", err)
	}
	defer rows.Close()
	var (
		batch    []Row
		position *int64
		snapshot *string
		at       *time.Time
	)
	for rows.Next() {
		var r Row
		err := rows.Scan(&r.ID, &r.Program, &r.Event, &r.Request, &r.Data, &r.ByID, &r.ByName, &r.CreatedAt, &r.Control,
			&position, &snapshot, &at)
		if err != nil {
			return Tick{}, nil, fmt.Errorf("read an outbox row: %w", err)
		}
		batch = append(batch, r)
	}
	if err := rows.Err(); err != nil {
		return Tick{}, nil, fmt.Errorf("read the outbox: %w", err)
	}
	if len(batch) == 0 {
		return Tick{}, nil, nil
	}
	if position == nil {
		return Tick{}, nil, ErrLarge
	}
	tick := Tick{
		Position: *position, After: last.Position, Snapshot: *snapshot, AfterSnapshot: last.Snapshot,
		Events: int64(len(batch)), At: *at, Cluster: cluster, Replayable: true,
	}
	number(batch, tick, 0)
	return tick, batch, nil
}

// number gives rows their positions: the first of them is the one after the first `before` rows of the tick.
func number(rows []Row, tick Tick, before int64) {
	for i := range rows {
		rows[i].Position = tick.Position - tick.Events + before + int64(i) + 1
		rows[i].TickThrough = tick.Position
	}
}

// CommitLarge commits the tick of the rows after last, however many, without reading them; Replay does that. If cut is set and one of them is a
// membership change, the tick may end at what had been committed before that change: more says so. Control rows stand first in their
// batch, and who is revoked gets nothing of it; so what came before must be in a batch of its own. No rows: the zero Tick.
func CommitLarge(ctx context.Context, db DB, last Tick, cluster Cluster, cut bool) (t Tick, more bool, err error) {
	t = Tick{After: last.Position, AfterSnapshot: last.Snapshot, Cluster: cluster, Replayable: true}
	err = db.QueryRow(ctx, commitLargeQuery, last.Snapshot, last.Position, cluster.SystemID, cluster.Timeline, cut).
		Scan(&t.Position, &t.Snapshot, &t.Events, &t.At, &more)
	if errors.Is(err, pgx.ErrNoRows) {
		return Tick{}, false, nil
	}
	if err != nil {
		return Tick{}, false, fmt.Errorf("commit the tick of a large batch: %w", err)
	}
	return t, more, nil
}

const declareReplay = `DECLARE relay_replay NO SCROLL CURSOR WITH HOLD FOR
SELECT id, program_id, event, request_id, data::text, performed_by_id, performed_by_name, created_at, control,
       count(*) OVER (), max(octet_length(data::text)) OVER ()
FROM (
    SELECT * FROM relay.outbox a WHERE a.xid >= pg_snapshot_xmax($1::text::pg_snapshot) AND a.xid < pg_snapshot_xmax($2::text::pg_snapshot)
       AND pg_visible_in_snapshot(a.xid, $2::text::pg_snapshot)
    UNION ALL
    SELECT * FROM relay.outbox b WHERE b.xid = ANY (ARRAY(SELECT pg_snapshot_xip($1::text::pg_snapshot)))
       AND pg_visible_in_snapshot(b.xid, $2::text::pg_snapshot)
    OFFSET 0) o
ORDER BY control DESC, id`

// Replay reads the batch of a committed tick again, in chunks of at most limit rows and 8 MiB of data, and calls use with each. The cursor is
// WITH HOLD: the server keeps the sorted batch on its disk, this process holds one chunk, and no transaction is open while use works, so
// that a slow use holds back neither vacuum nor the session. An error of use ends the replay and is returned.
func Replay(ctx context.Context, conn *pgx.Conn, tick Tick, limit int, use func([]Row) error) (err error) {
	if !tick.Replayable || tick.Events == 0 {
		return nil
	}
	if _, err := conn.Exec(ctx, declareReplay, tick.AfterSnapshot, tick.Snapshot); err != nil {
		return fmt.Errorf("open the batch of tick %d: %w", tick.Position, err)
	}
	defer func() {
		if conn.IsClosed() {
			return
		}
		if _, closeErr := conn.Exec(ctx, "CLOSE relay_replay"); closeErr != nil && err == nil {
			err = fmt.Errorf("close the batch of tick %d: %w", tick.Position, closeErr)
		}
	}()
	chunk := min(limit, batchBytes/MaxDataBytes)
	for before := int64(0); ; {
		rows, total, widest, err := fetch(ctx, conn, chunk)
		if err != nil {
			return fmt.Errorf("read the batch of tick %d: %w", tick.Position, err)
		}
		if before == 0 && total != tick.Events {
			return fmt.Errorf("%w: tick %d has %d events, of which %d are left", ErrDeleted, tick.Position, tick.Events, total)
		}
		if len(rows) == 0 {
			return nil
		}
		chunk = min(limit, batchBytes/max(widest, 1))
		number(rows, tick, before)
		before += int64(len(rows))
		if err := use(rows); err != nil {
			return err
		}
	}
}

// fetch returns the next rows of the cursor, how many rows the whole batch has, and the bytes of the largest data among them.
func fetch(ctx context.Context, conn *pgx.Conn, limit int) (batch []Row, total int64, widest int, err error) {
	rows, err := conn.Query(ctx, fmt.Sprintf("FETCH %d FROM relay_replay", limit), pgx.QueryExecModeDescribeExec)
	if err != nil {
		return nil, 0, 0, err
	}
	batch, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (Row, error) {
		var r Row
		err := row.Scan(&r.ID, &r.Program, &r.Event, &r.Request, &r.Data, &r.ByID, &r.ByName, &r.CreatedAt, &r.Control, &total, &widest)
		return r, err
	})
	return batch, total, widest, err
}
