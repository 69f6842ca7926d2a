-- name: NewestTick :one
-- The newest tick, taken together with those that were committed with it.
SELECT t.position, t.base, t.snapshot::text AS snapshot, coalesce(p.snapshot::text, '1:1:')::text AS base_snapshot,
       (SELECT sum(k.events) FROM relay.ticks k WHERE k.position > t.base)::bigint AS events,
       t.at, t.system_id, t.timeline, (p.position IS NOT NULL OR t.base = 0)::boolean AS replayable
FROM relay.ticks t LEFT JOIN relay.ticks p ON p.position = t.base
ORDER BY t.position DESC
LIMIT 1;

-- name: TicksAfter :many
-- The ticks that can be read: all above the oldest, which is only a base.
SELECT t.position, t.events, t.snapshot::text AS snapshot
FROM relay.ticks t
WHERE t.position > @after
ORDER BY t.position;

-- name: Stretch :one
-- The last of the ticks above a position, and not above upto, that have together at most max_events events; at least the first. events is how many.
SELECT t.position, t.snapshot, t.through::bigint AS events
FROM (
    SELECT n.position, n.snapshot, n.events, sum(n.events) OVER (ORDER BY n.position) AS through
    FROM (
        SELECT k.position, k.events, k.snapshot::text AS snapshot FROM relay.ticks k
        WHERE k.position > @after AND k.position <= @upto
        ORDER BY k.position
        LIMIT @max_ticks
    ) n
) t
WHERE t.through <= @max_events::bigint OR t.through = t.events
ORDER BY t.position DESC
LIMIT 1;

-- name: Base :one
-- The tick from whose snapshot a reader at the cursor goes on: the last at or below it. expired: the batches above the cursor have
-- been deleted.
SELECT coalesce(b.position, 0)::bigint AS position,
       coalesce(b.snapshot::text, '1:1:')::text AS snapshot,
       (b.position IS NULL AND coalesce((SELECT o.after FROM relay.ticks o ORDER BY o.position LIMIT 1), 0) <> 0)::boolean AS expired
FROM (SELECT) one LEFT JOIN LATERAL (
    SELECT t.position, t.snapshot FROM relay.ticks t WHERE t.position <= @cursor ORDER BY t.position DESC LIMIT 1
) b ON true;

-- name: Upper :one
-- The snapshot of the first tick whose position reaches the given one, else of the newest.
(SELECT t.snapshot::text AS snapshot FROM relay.ticks t WHERE t.position >= @position ORDER BY t.position LIMIT 1)
UNION ALL
(SELECT t.snapshot::text AS snapshot FROM relay.ticks t ORDER BY t.position DESC LIMIT 1)
LIMIT 1;

-- name: OldestRows :many
-- The ticks of a program's first rows between two snapshots, by xid: ascending, they bound how far a page must look. A transaction's tick is looked for
-- once, not for each of its rows: if it was open for long, the way there is past all the ticks of that time. It also holds back the xmin of their
-- snapshots: what lies between two of them is what began after the lower one, and what was running in it and has ended.
SELECT tick.position, tick.snapshot
FROM (
    SELECT f.xid, count(*) AS rows FROM (
        (SELECT b.xid FROM pg_snapshot_xip(@lower::pg_snapshot) AS ended (xid), LATERAL (
             SELECT o.xid FROM relay.outbox o WHERE o.program_id = @program AND o.xid = ended.xid LIMIT @max_rows
         ) b WHERE pg_visible_in_snapshot(ended.xid, @upper::pg_snapshot))
        UNION ALL
        (SELECT a.xid FROM relay.outbox a
         WHERE a.program_id = @program AND a.xid >= pg_snapshot_xmax(@lower) AND a.xid < pg_snapshot_xmax(@upper) AND pg_visible_in_snapshot(a.xid, @upper)
         ORDER BY a.xid
         LIMIT @max_rows)
        ORDER BY xid
        LIMIT @max_rows
    ) f GROUP BY f.xid
) r, LATERAL (
    SELECT t.position, t.snapshot::text AS snapshot FROM relay.ticks t
    WHERE pg_snapshot_xmax(t.snapshot) > r.xid AND pg_visible_in_snapshot(r.xid, t.snapshot)
    ORDER BY pg_snapshot_xmax(t.snapshot), t.position
    LIMIT 1
) tick, generate_series(1, r.rows)
ORDER BY tick.position;

-- name: NewestRows :many
-- The same from the other end: the ticks of a program's last rows, descending; of each the snapshot that it extends.
SELECT coalesce(before.snapshot::text, '1:1:')::text AS before_snapshot
FROM (
    SELECT l.xid, count(*) AS rows FROM (
        (SELECT b.xid FROM pg_snapshot_xip(@lower::pg_snapshot) AS ended (xid), LATERAL (
             SELECT o.xid FROM relay.outbox o WHERE o.program_id = @program AND o.xid = ended.xid LIMIT @max_rows
         ) b WHERE pg_visible_in_snapshot(ended.xid, @upper::pg_snapshot))
        UNION ALL
        (SELECT a.xid FROM relay.outbox a
         WHERE a.program_id = @program AND a.xid >= pg_snapshot_xmax(@lower) AND a.xid < pg_snapshot_xmax(@upper) AND pg_visible_in_snapshot(a.xid, @upper)
         ORDER BY a.xid DESC
         LIMIT @max_rows)
        ORDER BY xid DESC
        LIMIT @max_rows
    ) l GROUP BY l.xid
) r, LATERAL (
    SELECT t.position, t.after FROM relay.ticks t
    WHERE pg_snapshot_xmax(t.snapshot) > r.xid AND pg_visible_in_snapshot(r.xid, t.snapshot)
    ORDER BY pg_snapshot_xmax(t.snapshot), t.position
    LIMIT 1
) tick LEFT JOIN relay.ticks before ON before.position = tick.after, generate_series(1, r.rows)
ORDER BY tick.position DESC;

-- name: ProgramRows :many
-- At most max_rows of a program's rows between two snapshots with after < position < before, in the order of the log (direction 1) or
-- from its end (-1), with their positions: a row's tick is the first whose snapshot sees its xid, and its position follows from its rank in
-- that tick's batch. total is how many there are. A row that would make more than max_bytes of data is left out, unless it is the first.
WITH transactions AS MATERIALIZED (
    SELECT DISTINCT a.xid FROM relay.outbox a
    WHERE a.program_id = @program AND a.xid >= pg_snapshot_xmax(@lower::pg_snapshot) AND a.xid < pg_snapshot_xmax(@upper::pg_snapshot)
      AND pg_visible_in_snapshot(a.xid, @upper)
    UNION ALL
    SELECT ended.xid FROM pg_snapshot_xip(@lower) AS ended (xid)
    WHERE pg_visible_in_snapshot(ended.xid, @upper) AND EXISTS (SELECT FROM relay.outbox b WHERE b.program_id = @program AND b.xid = ended.xid)
), ranked AS (
    SELECT batch.id, (t.position - t.events + row_number() OVER (PARTITION BY t.position ORDER BY batch.control DESC, batch.id))::bigint AS position,
           (batch.program_id = @program)::boolean AS wanted, t.position AS tick
    FROM (
        SELECT DISTINCT tick.position FROM transactions x, LATERAL (
            SELECT k.position FROM relay.ticks k
            WHERE pg_snapshot_xmax(k.snapshot) > x.xid AND pg_visible_in_snapshot(x.xid, k.snapshot)
            ORDER BY pg_snapshot_xmax(k.snapshot), k.position
            LIMIT 1
        ) tick
    ) d
    JOIN relay.ticks t ON t.position = d.position
    LEFT JOIN relay.ticks p ON p.position = t.after
    CROSS JOIN LATERAL (
        SELECT a.id, a.control, a.program_id FROM relay.outbox a
        WHERE a.xid >= pg_snapshot_xmax(coalesce(p.snapshot, '1:1:')) AND a.xid < pg_snapshot_xmax(t.snapshot) AND pg_visible_in_snapshot(a.xid, t.snapshot)
        UNION ALL
        SELECT b.id, b.control, b.program_id FROM relay.outbox b
        WHERE b.xid = ANY (ARRAY(SELECT ended.xid FROM pg_snapshot_xip(p.snapshot) AS ended (xid) WHERE pg_visible_in_snapshot(ended.xid, t.snapshot)))
        OFFSET 0
    ) batch
), page AS (
    SELECT ranked.id, ranked.position, ranked.tick, count(*) OVER () AS total
    FROM ranked
    WHERE ranked.wanted AND ranked.position > @after::bigint AND ranked.position < @before::bigint
    ORDER BY ranked.position * @direction::bigint
    LIMIT @max_rows
)
SELECT found.position, found.tick, found.id, found.program_id, found.event, found.request_id, found.data, found.performed_by_id,
       found.performed_by_name, found.created_at, found.control, found.total
FROM (
    SELECT r.position, r.tick, r.total, o.id, o.program_id, o.event, o.request_id, o.data::text AS data, o.performed_by_id,
           o.performed_by_name, o.created_at, o.control,
           sum(octet_length(o.data::text)) OVER (ORDER BY r.position * @direction::bigint) - octet_length(o.data::text) AS bytes_before,
           octet_length(o.data::text) AS bytes
    FROM page r JOIN relay.outbox o ON o.id = r.id
) found
WHERE found.bytes_before = 0 OR found.bytes_before + found.bytes <= @max_bytes::bigint
ORDER BY found.position * @direction::bigint;

-- name: Event :one
-- An event and its place in the log: its tick is the first that sees it, and its position follows from how many rows of the batch stand before it.
-- expired: the batch may lack rows.
SELECT o.id, o.program_id, o.event, o.request_id, o.data::text AS data, o.performed_by_id, o.performed_by_name, o.created_at,
       coalesce(t.position, 0)::bigint AS tick, (t.position IS NOT NULL AND t.after <> 0 AND t.before IS NULL)::boolean AS expired,
       coalesce(t.position - t.events + (
           SELECT count(*) FROM (
               SELECT a.id, a.control FROM relay.outbox a
               WHERE a.xid >= pg_snapshot_xmax(coalesce(t.before, '1:1:')) AND a.xid < pg_snapshot_xmax(t.snapshot) AND pg_visible_in_snapshot(a.xid, t.snapshot)
               UNION ALL
               SELECT b.id, b.control FROM relay.outbox b
               WHERE b.xid = ANY (ARRAY(SELECT ended.xid FROM pg_snapshot_xip(t.before) AS ended (xid) WHERE pg_visible_in_snapshot(ended.xid, t.snapshot)))
               OFFSET 0
           ) batch WHERE batch.control OR batch.id <= o.id), 0)::bigint AS position
FROM relay.outbox o LEFT JOIN LATERAL (
    SELECT k.position, k.after, k.events, k.snapshot, (SELECT p.snapshot FROM relay.ticks p WHERE p.position = k.after) AS before
    FROM relay.ticks k
    WHERE pg_snapshot_xmax(k.snapshot) > o.xid AND pg_visible_in_snapshot(o.xid, k.snapshot)
    ORDER BY pg_snapshot_xmax(k.snapshot), k.position
    LIMIT 1
) t ON true
WHERE o.id = @id AND NOT o.control;

-- name: RowsByID :many
-- In the order of the ids. Those that aren't there any more are left out.
SELECT o.id, o.program_id, o.event, o.request_id, o.data::text AS data, o.performed_by_id, o.performed_by_name, o.created_at, o.control
FROM unnest(@ids::bigint[]) WITH ORDINALITY AS wanted (id, n) JOIN relay.outbox o ON o.id = wanted.id
ORDER BY wanted.n;

-- name: RetentionBase :one
-- The newest tick that is old enough to become the oldest: never one that may have to be replayed, and never the very first, whose
-- after = 0 says that nothing has been deleted yet.
SELECT t.position, t.snapshot::text AS snapshot
FROM relay.ticks t
WHERE t.at <= clock_timestamp() - @retention::interval AND t.after <> 0
  AND t.position <= (SELECT n.base FROM relay.ticks n ORDER BY n.position DESC LIMIT 1)
ORDER BY t.position DESC
LIMIT 1;

-- name: DeleteTicks :execrows
DELETE FROM relay.ticks WHERE position IN (
    SELECT t.position FROM relay.ticks t WHERE t.position < @base::bigint ORDER BY t.position LIMIT @max_rows);

-- name: DeleteRows :execrows
-- Rows of deleted batches, in small transactions: what the base's snapshot sees.
DELETE FROM relay.outbox WHERE id = ANY (ARRAY(
    SELECT o.id FROM relay.outbox o
    WHERE o.xid >= @low::xid8 AND o.xid < pg_snapshot_xmax(@snapshot::pg_snapshot) AND pg_visible_in_snapshot(o.xid, @snapshot)
    ORDER BY o.xid
    LIMIT @max_rows));

-- name: DeleteCuts :execrows
-- Cuts of deleted batches, in small transactions.
DELETE FROM relay.cuts WHERE xid = ANY (ARRAY(
    SELECT c.xid FROM relay.cuts c
    WHERE c.xid >= @low::xid8 AND c.xid < pg_snapshot_xmax(@snapshot::pg_snapshot) AND pg_visible_in_snapshot(c.xid, @snapshot)
    ORDER BY c.xid
    LIMIT @max_rows));
