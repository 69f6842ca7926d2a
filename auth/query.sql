-- name: Memberships :many
-- One statement, hence one snapshot for all who are asked for: the users as of now, the programs as of the newest tick. What that tick doesn't
-- contain yet is undone: the first such change of a program tells what came before it. Ids are compared byte for byte, as in the log, whatever the
-- collation of a view's column says.
WITH tick AS (
    SELECT n.position, n.snapshot FROM relay.ticks n ORDER BY n.position DESC LIMIT 1
), base AS (
    SELECT coalesce((SELECT position FROM tick), 0)::bigint AS position,
           coalesce((SELECT snapshot FROM tick), '1:1:'::pg_snapshot) AS snapshot
)
SELECT (u.id IS NOT NULL)::boolean AS found,
       coalesce(u.is_active, false)::boolean AS active,
       coalesce(u.role, '')::text AS role,
       coalesce(btrim(u.first_name || ' ' || u.last_name), '')::text AS name,
       ARRAY(SELECT p.program_id FROM (
           SELECT m.program_id::text COLLATE "C" AS program_id
           FROM relay.program_members m
           WHERE m.user_id = asked.user_id AND m.user_id COLLATE "C" = asked.user_id AND m.is_active AND u.is_active AND m.program_id IS NOT NULL
           EXCEPT
           SELECT unnest(pending.programs) COLLATE "C"
           UNION
           SELECT unnest(pending.were) COLLATE "C"
       ) p ORDER BY p.program_id)::text[] AS programs,
       base.position::bigint AS position,
       coalesce((SELECT CASE WHEN t.after <> 0 THEN t.position ELSE 0 END
                 FROM relay.ticks t ORDER BY t.position LIMIT 1), 0)::bigint AS oldest,
       ARRAY(SELECT t.rebased_from FROM relay.ticks t WHERE t.rebased_from IS NOT NULL ORDER BY t.position)::bigint[] AS reset_after,
       ARRAY(SELECT t.position - t.events + 1 FROM relay.ticks t
             WHERE t.rebased_from IS NOT NULL ORDER BY t.position)::bigint[] AS reset_before
FROM base CROSS JOIN unnest(@user_ids::text[]) WITH ORDINALITY AS asked(user_id, n)
LEFT JOIN relay.users u ON u.id = asked.user_id AND u.id COLLATE "C" = asked.user_id
CROSS JOIN LATERAL (
    SELECT coalesce(array_agg(d.program_id), '{}')::text[] AS programs,
           coalesce(array_agg(d.program_id) FILTER (WHERE d.was_member), '{}')::text[] AS were
    FROM (
        SELECT DISTINCT ON (o.program_id) o.program_id::text AS program_id, o.data ->> 'change' = 'out' AS was_member
        FROM relay.outbox o
        WHERE o.control AND o.performed_by_id = asked.user_id
          AND o.xid >= pg_snapshot_xmin(base.snapshot) AND NOT pg_visible_in_snapshot(o.xid, base.snapshot)
        ORDER BY o.program_id, o.id
    ) d
) pending
ORDER BY asked.n;

-- name: Changes :many
-- Users' membership changes in the batches with after < position <= through, one row per user, program and batch. The tick of a change
-- is the first whose snapshot sees it, looked for once for all changes of a transaction; what the base's snapshot saw before any of its open
-- transactions needn't be looked at.
WITH changes AS MATERIALIZED (
    SELECT asked.n, asked.after, asked.through, c.id, c.xid, c.program_id, c.data ->> 'change' AS change
    FROM (
        SELECT generate_subscripts(@user_ids::text[], 1) AS n, unnest(@user_ids::text[]) AS user_id,
               unnest(@afters::bigint[]) AS after, unnest(@throughs::bigint[]) AS through
    ) asked
    CROSS JOIN LATERAL (
        SELECT coalesce((SELECT pg_snapshot_xmin(b.snapshot) FROM relay.ticks b
                         WHERE b.position <= asked.after ORDER BY b.position DESC LIMIT 1), '0'::xid8) AS low
    ) base
    JOIN relay.outbox c ON c.control AND c.performed_by_id = asked.user_id AND c.xid >= base.low
), relayed AS MATERIALIZED (
    SELECT x.xid, t.position, t.events
    FROM (SELECT DISTINCT xid FROM changes) x
    CROSS JOIN LATERAL (
        SELECT k.position, k.events FROM relay.ticks k
        WHERE pg_snapshot_xmax(k.snapshot) > x.xid AND pg_visible_in_snapshot(x.xid, k.snapshot)
        ORDER BY pg_snapshot_xmax(k.snapshot), k.position LIMIT 1
    ) t
)
SELECT c.n::bigint AS n, c.program_id, (t.position - t.events)::bigint AS after, t.position::bigint AS through, max(c.id)::bigint AS id,
       ((array_agg(c.change ORDER BY c.id))[1] = 'in')::boolean AS first_in,
       ((array_agg(c.change ORDER BY c.id DESC))[1] = 'in')::boolean AS last_in,
       bool_or(c.change = 'out')::boolean AS any_out
FROM changes c JOIN relayed t ON t.xid = c.xid
WHERE t.position > c.after AND t.position <= c.through
GROUP BY c.n, c.program_id, t.position, t.events
ORDER BY c.n, t.position, c.program_id;
