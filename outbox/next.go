package outbox

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/outboxrelay/outboxrelay/outbox/internal/outboxdb"
)

// ErrLarge says that more rows, or more data, wait than Next returns: no tick was written; go on with CommitLarge and Replay.
var ErrLarge = errors.New("more rows wait than fit in one batch in memory")

// ErrDeleted says that rows of a batch are gone although its tick is there. Only hands do that: the positions of what is left can't be
// known any more.
var ErrDeleted = errors.New("rows of the outbox were deleted by hand")

// unread are the rows that the snapshot $1 of the last tick doesn't see. Its two halves, and OFFSET 0 as a fence around them, keep both on the
// index on xid; an OR with LIMIT would walk the whole primary key. What is still running has nothing to show, and may have written very much.
const unread = `
    SELECT * FROM relay.outbox a WHERE a.xid >= pg_snapshot_xmax($1::text::pg_snapshot)
    UNION ALL
    SELECT * FROM relay.outbox b WHERE b.xid = ANY (ARRAY(SELECT ended FROM ` + ended + `))
    OFFSET 0`

// ended are the transactions that the last tick saw running and that have ended.
const ended = `pg_snapshot_xip($1::text::pg_snapshot) ended WHERE pg_visible_in_snapshot(ended, (SELECT pg_current_snapshot()))`

// maxCuts bounds the batches that are cut from what waits. What is behind the last cut is one batch: in it control rows come first.
const maxCuts = "100"

// cuts are where what waits must be divided: what the transactions of membership changes saw as they committed, if that is something in the
// same program, an event or another change of the same user. Snapshots of one server form a chain: by xmax, then by how few were running.
// One that doesn't see all that the last tick saw was taken before that tick.
//
// However many changes and events wait, each is looked at a few times only: `earliest` has of each program the transactions of its first events, one
// more than can have been running at any time. If a snapshot sees none of them, it sees no event of the program. `repeated` has those of the
// first changes of each user in each program.
//
// One that runs for long holds the last tick's xmin back: what has been relayed since isn't looked at.
const cuts = `unseen AS MATERIALIZED (
    SELECT c.xid, c.snapshot FROM (
        SELECT * FROM relay.cuts a WHERE a.xid >= pg_snapshot_xmax($1::text::pg_snapshot)
        UNION ALL
        SELECT * FROM relay.cuts b WHERE b.xid = ANY (ARRAY(SELECT ended FROM ` + ended + `))
        OFFSET 0) c
    WHERE pg_snapshot_xmax(c.snapshot) >= pg_snapshot_xmax($1::text::pg_snapshot)
      AND NOT EXISTS (SELECT FROM pg_snapshot_xip(c.snapshot) running WHERE pg_visible_in_snapshot(running, $1::text::pg_snapshot))
), changes AS MATERIALIZED (
    SELECT c.xid, c.snapshot, k.program_id, k.performed_by_id
    FROM unseen c, LATERAL (SELECT o.program_id, o.performed_by_id FROM relay.outbox o WHERE o.xid = c.xid AND o.control OFFSET 0) k
), earliest AS MATERIALIZED (
    SELECT p.program_id, e.xid
    FROM (SELECT DISTINCT program_id FROM changes) p, LATERAL (
        SELECT ended AS xid FROM ` + ended + `
          AND EXISTS (SELECT FROM relay.outbox o WHERE o.program_id = p.program_id AND o.xid = ended AND NOT o.control)
        UNION ALL
        (SELECT DISTINCT o.xid FROM relay.outbox o
         WHERE o.program_id = p.program_id AND o.xid >= pg_snapshot_xmax($1::text::pg_snapshot) AND NOT o.control
         ORDER BY o.xid LIMIT ` + mostRunning + `)) e
), repeated AS MATERIALIZED (
    SELECT r.program_id, r.performed_by_id, r.xid
    FROM (
        SELECT m.*, row_number() OVER (PARTITION BY m.performed_by_id, m.program_id ORDER BY m.xid) AS n
        FROM (SELECT DISTINCT performed_by_id FROM changes) u, LATERAL (
            SELECT DISTINCT o.performed_by_id, o.program_id, o.xid FROM relay.outbox o
            WHERE o.control AND o.performed_by_id = u.performed_by_id AND o.xid >= pg_snapshot_xmin($1::text::pg_snapshot)
              AND NOT pg_visible_in_snapshot(o.xid, $1::text::pg_snapshot)) m
    ) r WHERE r.n <= ` + mostRunning + `
), cuts AS MATERIALIZED (
    SELECT c.snapshot, row_number() OVER (ORDER BY pg_snapshot_xmax(c.snapshot), (SELECT count(*) FROM pg_snapshot_xip(c.snapshot)) DESC, c.xid) - 1 AS n
    FROM unseen c
    WHERE c.xid IN (
        SELECT k.xid FROM changes k JOIN earliest e ON e.program_id = k.program_id
        WHERE e.xid < pg_snapshot_xmax(k.snapshot) AND pg_visible_in_snapshot(e.xid, k.snapshot)
        UNION ALL
        SELECT k.xid FROM changes k
        WHERE EXISTS (
            SELECT FROM repeated e WHERE e.program_id = k.program_id AND e.performed_by_id = k.performed_by_id
              AND e.xid < pg_snapshot_xmax(k.snapshot) AND pg_visible_in_snapshot(e.xid, k.snapshot)))
    ORDER BY n LIMIT ` + maxCuts + `)`

// mostRunning is more than the transactions that can be running at once.
const mostRunning = `(SELECT current_setting('max_connections')::bigint + current_setting('max_prepared_transactions')::bigint
        + current_setting('max_worker_processes')::bigint + 100)`

// segment is how many cuts don't see the row o. Whoever doesn't see a transaction doesn't see one that began after its end either, so that
// rows ordered by segment keep the order of commits.
const segment = `(SELECT count(*) FROM cuts WHERE NOT pg_visible_in_snapshot(o.xid, cuts.snapshot))`

// firstPosition of a tick is never below the clock, the last position, or the created_at of any row. It is for a select from the rows, or from groups of
// them with the greatest created_at of each.
const firstPosition = `greatest((extract(epoch FROM clock_timestamp()) * 1000000)::bigint, $2::bigint + 1, (extract(epoch FROM max(created_at)) * 1000000)::bigint)`

// insertTicks writes one tick for each of the CTE `counted` (segment, events, created_at), ascending. (sqlc can't resolve a derived table in
// INSERT … SELECT: hence by hand.)
const insertTicks = `
    INSERT INTO relay.ticks (position, after, base, snapshot, events, at, system_id, timeline)
    SELECT position, lag(position, 1, $2::bigint) OVER (ORDER BY position), $2::bigint,
           coalesce((SELECT snapshot FROM cuts WHERE n = segment), pg_current_snapshot()), events, clock_timestamp(), $3::bigint, $4::bigint
    FROM (SELECT segment, events, (first - 1 + sum(events) OVER (ORDER BY segment))::bigint AS position
          FROM counted, (SELECT ` + firstPosition + ` AS first FROM counted) f) p`

// nextQuery takes any $5 + 1 rows: if there are no more than $5, these are all, and only then are they sorted and sent. So that a backlog, however
// long, is recognised at once, and without a look at its membership changes. Batches with a membership change are nextCutQuery's: it does the
// same, with cuts. What isn't here needn't be set up for every tick: the less the query says, the sooner the events arrive.
const nextQuery = `WITH batch AS MATERIALIZED (
    SELECT * FROM (` + unread + `) o LIMIT $5::bigint + 1
), tick AS (
    INSERT INTO relay.ticks (position, after, base, snapshot, events, at, system_id, timeline)
    SELECT ` + firstPosition + ` + count(*) - 1, $2::bigint, $2::bigint, pg_current_snapshot(), count(*), clock_timestamp(), $3::bigint, $4::bigint
    FROM batch HAVING count(*) BETWEEN 1 AND $5::bigint AND sum(octet_length(data::text)) <= $6::bigint AND NOT bool_or(control)
    RETURNING position, snapshot, at
)
SELECT b.id, b.program_id, b.event, b.request_id, b.data::text, b.performed_by_id, b.performed_by_name, b.created_at, b.control,
       t.position, t.snapshot::text, t.at,
       CASE WHEN t.position IS NULL THEN (SELECT count(*) > $5::bigint OR sum(octet_length(data::text)) > $6::bigint FROM batch) ELSE false END
FROM batch b LEFT JOIN tick t ON true
WHERE t.position IS NOT NULL OR b.id = (SELECT id FROM batch LIMIT 1)
ORDER BY b.id`

const nextCutQuery = `WITH ` + cuts + `, batch AS MATERIALIZED (
    SELECT o.*, ` + segment + ` AS segment FROM (` + unread + `) o LIMIT $5::bigint + 1
), counted AS (
    SELECT segment, count(*) AS events, max(created_at) AS created_at FROM batch
    WHERE EXISTS (SELECT FROM batch HAVING count(*) <= $5::bigint AND sum(octet_length(data::text)) <= $6::bigint)
    GROUP BY segment
), tick AS (` + insertTicks + `
    RETURNING position, snapshot, at
)
SELECT b.id, b.program_id, b.event, b.request_id, b.data::text, b.performed_by_id, b.performed_by_name, b.created_at, b.control,
       t.position, t.snapshot::text, t.at, t.position IS NULL
FROM (SELECT *, dense_rank() OVER (ORDER BY segment) AS n FROM batch) b
LEFT JOIN (SELECT *, row_number() OVER (ORDER BY position) AS n FROM tick) t ON t.n = b.n
WHERE t.position IS NOT NULL OR b.id = (SELECT id FROM batch LIMIT 1)
ORDER BY b.segment, b.control DESC, b.id`

const commitLargeQuery = `WITH ` + cuts + `, counted AS (
    SELECT segment, count(*) AS events, max(created_at) AS created_at
    FROM (SELECT o.created_at, CASE WHEN EXISTS (SELECT FROM cuts) THEN ` + segment + ` ELSE 0 END AS segment FROM (` + unread + `) o) s
    GROUP BY segment
), tick AS (` + insertTicks + `
    RETURNING position, snapshot, events, at
)
SELECT position, snapshot::text, sum(events) OVER ()::bigint, at FROM tick ORDER BY position DESC LIMIT 1`

// batchBytes bounds the data that is held of a batch that is read at once.
const batchBytes = 32 * MaxDataBytes

// chunkBytes bounds a chunk of a replay: two are held at a time, one that is read and one that is sent. Of the largest rows it has 8.
const chunkBytes = 8 * MaxDataBytes

// Next reads the rows after last and commits their tick, in one statement and hence one snapshot. The tick is durable (the session
// must have synchronous_commit = on) when Next returns. No rows: the zero Tick. More than limit rows, or more than 8 MiB of data: ErrLarge,
// and nothing is written. Any other error leaves it open whether the tick was committed: read NewestTick again.
//
// Control rows stand first in their batch, and who is revoked gets nothing of it. What had been committed before the change is therefore a batch
// of its own: the rows are cut.
//
// Next must not be called inside a transaction, nor on a standby.
func Next(ctx context.Context, db DB, last Tick, cluster Cluster, limit int) (Tick, []Row, error) {
	var tick Tick
	var batch []Row
	for _, query := range []string{nextQuery, nextCutQuery} {
		rows, err := db.Query(ctx, query, last.Snapshot, last.Position, cluster.SystemID, cluster.Timeline, limit, batchBytes)
		if err != nil {
			return Tick{}, nil, fmt.Errorf("read the outbox: %w", err)
		}
		var large bool
		if tick, batch, large, err = scanBatch(rows); err != nil {
			return Tick{}, nil, fmt.Errorf("read the outbox: %w", err)
		}
		if len(batch) == 0 {
			return Tick{}, nil, nil
		}
		if tick.Position != 0 {
			tick.After, tick.AfterSnapshot, tick.Cluster = last.Position, last.Snapshot, cluster
			return tick, batch, nil
		}
		if large {
			break
		}
	}
	return Tick{}, nil, ErrLarge
}

// scanBatch returns the rows of a tick, numbered, or only one and the zero Tick if none was written, and whether that is because there is too much.
func scanBatch(rows pgx.Rows) (tick Tick, batch []Row, large bool, err error) {
	var position *int64
	var snapshot *string
	var at *time.Time
	var r Row
	_, err = pgx.ForEachRow(rows, []any{
		&r.ID, &r.Program, &r.Event, &r.Request, &r.Data, &r.ByID, &r.ByName, &r.CreatedAt, &r.Control, &position, &snapshot, &at, &large,
	}, func() error {
		if position != nil {
			r.TickThrough = *position
			tick = Tick{Position: *position, Snapshot: *snapshot, At: *at, Replayable: true}
		}
		batch = append(batch, r)
		return nil
	})
	tick.Events = int64(len(batch))
	for i := range batch {
		batch[i].Position = tick.Position - tick.Events + int64(i) + 1
	}
	return tick, batch, large, err
}

// CommitLarge commits the tick of all rows after last, however many, without reading them; Replay does that. No rows: the zero Tick.
func CommitLarge(ctx context.Context, db DB, last Tick, cluster Cluster) (Tick, error) {
	t := Tick{After: last.Position, AfterSnapshot: last.Snapshot, Cluster: cluster, Replayable: true}
	err := db.QueryRow(ctx, commitLargeQuery, last.Snapshot, last.Position, cluster.SystemID, cluster.Timeline).
		Scan(&t.Position, &t.Snapshot, &t.Events, &t.At)
	if errors.Is(err, pgx.ErrNoRows) {
		return Tick{}, nil
	}
	if err != nil {
		return Tick{}, fmt.Errorf("commit the tick of a large batch: %w", err)
	}
	return t, nil
}

const declareReplay = `DECLARE relay_replay NO SCROLL CURSOR WITH HOLD FOR
SELECT id, program_id, event, request_id, data::text, performed_by_id, performed_by_name, created_at, control,
       count(*) OVER (), max(octet_length(data::text)) OVER ()
FROM (
    SELECT * FROM relay.outbox a WHERE a.xid >= pg_snapshot_xmax($1::text::pg_snapshot) AND a.xid < pg_snapshot_xmax($2::text::pg_snapshot)
       AND pg_visible_in_snapshot(a.xid, $2::text::pg_snapshot)
    UNION ALL
    SELECT * FROM relay.outbox b WHERE b.xid = ANY (ARRAY(
        SELECT ended FROM pg_snapshot_xip($1::text::pg_snapshot) ended WHERE pg_visible_in_snapshot(ended, $2::text::pg_snapshot)))
    OFFSET 0) o
ORDER BY control DESC, id`

// Replay reads the rows of a committed tick again, in chunks of at most limit rows and 2 MiB of data, and calls use with each. The cursor is
// WITH HOLD: the server keeps a sorted batch on its disk, this process holds one chunk, and no transaction is open while use works, so
// that a slow use holds back neither vacuum nor the session. An error of use ends the replay and is returned. A chunk that doesn't come within
// patience is an error, too; to sort a batch beforehand the server has a millisecond more for each of its events.
func Replay(ctx context.Context, conn *pgx.Conn, tick Tick, limit int, patience time.Duration, use func([]Row) error) error {
	if !tick.Replayable || tick.Events == 0 {
		return nil
	}
	batches, err := within(ctx, patience, func(ctx context.Context) ([]outboxdb.TicksAfterRow, error) {
		return queries.TicksAfter(ctx, conn, tick.After)
	})
	if err != nil {
		return fmt.Errorf("read the batches of tick %d: %w", tick.Position, err)
	}
	after := tick.AfterSnapshot
	for _, b := range batches {
		if b.Position > tick.Position {
			break
		}
		if err := replayBatch(ctx, conn, after, b, limit, patience, use); err != nil {
			return err
		}
		after = b.Snapshot
	}
	return nil
}

func replayBatch(
	ctx context.Context, conn *pgx.Conn, after string, batch outboxdb.TicksAfterRow, limit int, patience time.Duration, use func([]Row) error,
) (err error) {
	if err := execWithin(ctx, conn, patience+time.Duration(batch.Events)*time.Millisecond, declareReplay, after, batch.Snapshot); err != nil {
		return fmt.Errorf("open the batch of tick %d: %w", batch.Position, err)
	}
	defer func() {
		if conn.IsClosed() {
			return
		}
		if closeErr := execWithin(ctx, conn, patience, "CLOSE relay_replay"); closeErr != nil && err == nil {
			err = fmt.Errorf("close the batch of tick %d: %w", batch.Position, closeErr)
		}
	}()
	chunk := min(limit, chunkBytes/MaxDataBytes)
	for before := int64(0); ; {
		rows, total, widest, err := fetch(ctx, conn, patience, chunk)
		if err != nil {
			return fmt.Errorf("read the batch of tick %d: %w", batch.Position, err)
		}
		if before == 0 && total != batch.Events {
			return fmt.Errorf("%w: tick %d has %d events, of which %d are left; if that is meant, run: UPDATE relay.ticks SET events = %[4]d WHERE position = %[2]d",
				ErrDeleted, batch.Position, batch.Events, total)
		}
		if len(rows) == 0 {
			return nil
		}
		chunk = min(limit, chunkBytes/max(widest, 1))
		for i := range rows {
			before++
			rows[i].Position, rows[i].TickThrough = batch.Position-batch.Events+before, batch.Position
		}
		if err := use(rows); err != nil {
			return err
		}
	}
}

// fetch returns the next rows of the cursor, how many rows the whole batch has, and the bytes of the largest data among them.
func fetch(ctx context.Context, conn *pgx.Conn, patience time.Duration, limit int) (batch []Row, total int64, widest int, err error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
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

func execWithin(ctx context.Context, conn *pgx.Conn, d time.Duration, query string, args ...any) error {
	ctx, cancel := context.WithTimeout(ctx, d)
	defer cancel()
	_, err := conn.Exec(ctx, query, args...)
	return err
}
