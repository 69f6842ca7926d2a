-- name: Membership :one
-- One statement, hence one snapshot: the user as of now, the programs as of the newest tick. What that tick doesn't contain yet is
-- undone: the first such change of a program tells what came before it.
WITH tick AS (
    SELECT n.position, n.snapshot FROM relay.ticks n ORDER BY n.position DESC LIMIT 1
), base AS (
    SELECT coalesce((SELECT position FROM tick), 0)::bigint AS position,
           coalesce((SELECT snapshot FROM tick), '1:1:'::pg_snapshot) AS snapshot
), person AS (
    SELECT u.id, u.is_active, u.role, btrim(u.first_name || ' ' || u.last_name) AS name
    FROM relay.users u WHERE u.id = @user_id::text
), pending AS (
    SELECT DISTINCT ON (o.program_id) o.program_id, o.data ->> 'change' = 'out' AS was_member
    FROM relay.outbox o, base b
    WHERE o.control AND o.performed_by_id = @user_id::text
      AND o.xid >= pg_snapshot_xmin(b.snapshot) AND NOT pg_visible_in_snapshot(o.xid, b.snapshot)
    ORDER BY o.program_id, o.id
), member AS (
    SELECT m.program_id::text COLLATE "C" AS program_id
    FROM relay.program_members m, person p
    WHERE m.user_id = @user_id::text AND m.is_active AND p.is_active
      AND NOT EXISTS (SELECT FROM pending x WHERE x.program_id = m.program_id)
    UNION
    SELECT x.program_id FROM pending x WHERE x.was_member
)
SELECT EXISTS (SELECT FROM person)::boolean AS found,
       coalesce((SELECT p.is_active FROM person p), false)::boolean AS active,
       coalesce((SELECT p.role FROM person p), '')::text AS role,
       coalesce((SELECT p.name FROM person p), '')::text AS name,
       ARRAY(SELECT m.program_id FROM member m ORDER BY m.program_id)::text[] AS programs,
       base.position::bigint AS position,
       coalesce((SELECT CASE WHEN t.after <> 0 THEN t.position ELSE 0 END
                 FROM relay.ticks t ORDER BY t.position LIMIT 1), 0)::bigint AS oldest,
       clock_timestamp()::timestamptz AS now,
       ARRAY(SELECT t.rebased_from FROM relay.ticks t WHERE t.rebased_from IS NOT NULL ORDER BY t.position)::bigint[] AS reset_after,
       ARRAY(SELECT t.position - t.events + 1 FROM relay.ticks t
             WHERE t.rebased_from IS NOT NULL ORDER BY t.position)::bigint[] AS reset_before
FROM base;

-- name: Changes :many
-- A user's membership changes in the batches with after < position <= through, one row per program and batch. The tick of a change
-- is the first whose snapshot sees it; what the base's snapshot saw before any of its open transactions needn't be looked at.
SELECT c.program_id, (t.position - t.events)::bigint AS after, t.position::bigint AS through, max(c.id)::bigint AS id,
       ((array_agg(c.data ->> 'change' ORDER BY c.id))[1] = 'in')::boolean AS first_in,
       ((array_agg(c.data ->> 'change' ORDER BY c.id DESC))[1] = 'in')::boolean AS last_in,
       bool_or(c.data ->> 'change' = 'out')::boolean AS any_out
FROM relay.outbox c, LATERAL (
    SELECT k.position, k.events FROM relay.ticks k
    WHERE pg_snapshot_xmax(k.snapshot) > c.xid AND pg_visible_in_snapshot(c.xid, k.snapshot)
    ORDER BY pg_snapshot_xmax(k.snapshot), k.position LIMIT 1
) t
WHERE c.control AND c.performed_by_id = @user_id::text
  AND c.xid >= coalesce((SELECT pg_snapshot_xmin(b.snapshot) FROM relay.ticks b
                         WHERE b.position <= @after::bigint ORDER BY b.position DESC LIMIT 1), '0'::xid8)
  AND t.position > @after::bigint AND t.position <= @through::bigint
GROUP BY c.program_id, t.position, t.events
ORDER BY t.position, c.program_id;
