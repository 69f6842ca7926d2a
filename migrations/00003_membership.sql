-- Membership changes take their place in the log: control rows, written in the transaction of the change, and only when the
-- effective membership (user active and membership active) changes.

-- +goose Up

-- lock_user serialises the membership changes of one user until the end of the transaction, so that "user deactivated" and
-- "member added" can't both be decided on a state that the other one is changing. A row, not an advisory lock: ten thousand
-- changes in one transaction don't fill the lock table, and under REPEATABLE READ the loser gets a serialization failure instead
-- of a decision on stale data. (A function in SQL would be planned anew for every row: that was most of the time of loading users.)
-- +goose StatementBegin
CREATE FUNCTION relay.lock_user(user_id text) RETURNS void
    LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    INSERT INTO relay.user_locks AS l (user_id, xid) VALUES (lock_user.user_id, pg_current_xact_id())
    ON CONFLICT ON CONSTRAINT user_locks_pkey DO UPDATE SET xid = excluded.xid WHERE l.xid <> excluded.xid;
END
$$;
-- +goose StatementEnd

-- membership_changed writes one control row, unless the log has been told so already. Whoever calls it says what is true; check_membership
-- and check_user below look for themselves.
-- +goose StatementBegin
CREATE FUNCTION relay.membership_changed(user_id text, program_id text, change text) RETURNS void
    LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF change IS NULL OR change NOT IN ('in', 'out') THEN
        RAISE EXCEPTION 'relay.membership_changed: change must be ''in'' or ''out'', not %', quote_nullable(change)
            USING ERRCODE = 'invalid_parameter_value';
    END IF;
    PERFORM relay.lock_user(user_id);
    IF change = 'in' THEN
        INSERT INTO relay.effective_members VALUES (user_id, program_id) ON CONFLICT DO NOTHING;
    ELSE
        DELETE FROM relay.effective_members e
        WHERE e.user_id = membership_changed.user_id AND e.program_id = membership_changed.program_id;
    END IF;
    IF FOUND THEN
        INSERT INTO relay.outbox (program_id, event, data, performed_by_id, control)
        VALUES (program_id, 'relay:membership', json_build_object('userId', user_id, 'change', change), user_id, true);
        INSERT INTO relay.cuts VALUES (pg_current_xact_id(), pg_current_snapshot()) ON CONFLICT DO NOTHING;
    END IF;
END
$$;
-- +goose StatementEnd

-- note_cut keeps what a transaction with control rows sees when it commits; under REPEATABLE READ that is what it saw at its beginning. The
-- transaction's own id is not in its own snapshot's list of running ones, and would count as seen. (A trigger of relay.outbox would have to look
-- at every event.)
-- +goose StatementBegin
CREATE FUNCTION relay.note_cut() RETURNS trigger
    LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    seen pg_snapshot := pg_current_snapshot();
BEGIN
    UPDATE relay.cuts c SET snapshot = (SELECT format('%s:%s:%s', least(pg_snapshot_xmin(seen), NEW.xid), pg_snapshot_xmax(seen),
            string_agg(running.xid::text, ',' ORDER BY running.xid) FILTER (WHERE running.xid < pg_snapshot_xmax(seen)))
        FROM (SELECT pg_snapshot_xip(seen) UNION SELECT NEW.xid) running (xid))::pg_snapshot
    WHERE c.xid = NEW.xid;
    RETURN NULL;
END
$$;
-- +goose StatementEnd

-- Deferred: it fires as the transaction commits.
CREATE CONSTRAINT TRIGGER note_cut
    AFTER INSERT ON relay.cuts DEFERRABLE INITIALLY DEFERRED
    FOR EACH ROW EXECUTE FUNCTION relay.note_cut();
ALTER TABLE relay.cuts ENABLE ALWAYS TRIGGER note_cut;

-- check_membership tells the log what the two tables, or the application's views in their place, say of one user and program now. The
-- user's lock comes first: what is read then is the last word until this transaction ends.
-- +goose StatementBegin
CREATE FUNCTION relay.check_membership(user_id text, program_id text) RETURNS void
    LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    member boolean;
BEGIN
    PERFORM relay.lock_user(user_id);
    member := EXISTS (
        SELECT FROM relay.users u, relay.program_members m
        WHERE u.id = check_membership.user_id AND u.is_active
          AND m.user_id = check_membership.user_id AND m.program_id = check_membership.program_id AND m.is_active);
    PERFORM relay.membership_changed(user_id, program_id, CASE WHEN member THEN 'in' ELSE 'out' END);
END
$$;
-- +goose StatementEnd

-- check_user does the same for all programs of one user.
-- +goose StatementBegin
CREATE FUNCTION relay.check_user(user_id text) RETURNS void
    LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM relay.lock_user(user_id);
    PERFORM relay.check_membership(check_user.user_id, p.program_id) FROM (
        SELECT e.program_id FROM relay.effective_members e WHERE e.user_id = check_user.user_id
        UNION
        SELECT m.program_id FROM relay.program_members m WHERE m.user_id = check_user.user_id AND m.is_active
        ORDER BY 1) p;
END
$$;
-- +goose StatementEnd

-- sync_memberships tells the log of every difference between what it has been told and what the tables say, and returns how many there
-- were. It is for whoever has just put views in the place of the tables, or changed memberships behind the triggers' back.
-- +goose StatementBegin
CREATE FUNCTION relay.sync_memberships() RETURNS bigint
    LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    d     record;
    found bigint := 0;
BEGIN
    FOR d IN
        WITH now AS (
            SELECT m.user_id, m.program_id FROM relay.program_members m JOIN relay.users u ON u.id = m.user_id AND u.is_active WHERE m.is_active AND m.program_id IS NOT NULL
        )
        SELECT x.user_id, x.program_id FROM (
            (SELECT e.user_id, e.program_id FROM relay.effective_members e EXCEPT SELECT n.user_id, n.program_id FROM now n)
            UNION ALL
            (SELECT n.user_id, n.program_id FROM now n EXCEPT SELECT e.user_id, e.program_id FROM relay.effective_members e)) x
        ORDER BY x.user_id, x.program_id
    LOOP
        PERFORM relay.check_membership(d.user_id, d.program_id);
        found := found + 1;
    END LOOP;
    RETURN found;
END
$$;
-- +goose StatementEnd

-- naming is the statement that takes the named columns of the row $1 as text. It reads them by the output functions of their types, as format does,
-- for whoever owns a table may have casts of his own, which would work as the owner of this function. A name that isn't one of a column is
-- refused: a trigger with a misspelt argument would otherwise see no change, ever.
-- +goose StatementBegin
CREATE FUNCTION relay.naming(relation oid, names text[]) RETURNS text
    LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    list text := '';
    name text;
BEGIN
    FOREACH name IN ARRAY names LOOP
        IF NOT EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = relation AND a.attname = name AND a.attnum > 0 AND NOT a.attisdropped) THEN
            RAISE EXCEPTION 'relay: the table has no column %', quote_ident(name)
                USING ERRCODE = 'undefined_column', HINT = 'The arguments of the triggers track_user and track_membership name columns.';
        END IF;
        list := list || format(', CASE WHEN ($1).%1$I IS NOT NULL THEN format(''%%s'', ($1).%1$I) END', name);
    END LOOP;
    RETURN format('SELECT ARRAY[%s]', substr(list, 3));
END
$$;
-- +goose StatementEnd

-- track_membership(user column, program column [, columns that matter]): an AFTER ROW trigger for a table that memberships come from. It only
-- says whose membership may have changed; relay.users and relay.program_members say what it is. If columns that matter are named, an
-- UPDATE that changes neither them nor the first two costs nothing more.
-- +goose StatementBegin
CREATE FUNCTION relay.track_membership() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    naming text;
    before text[];
    after  text[];
BEGIN
    IF TG_NARGS < 2 THEN
        RAISE EXCEPTION 'relay.track_membership: the arguments must name the columns of the user and the program';
    END IF;
    naming := relay.naming(TG_RELID, TG_ARGV);
    IF TG_OP <> 'INSERT' THEN
        EXECUTE naming INTO before USING OLD;
    END IF;
    IF TG_OP <> 'DELETE' THEN
        EXECUTE naming INTO after USING NEW;
    END IF;
    IF TG_OP = 'UPDATE' AND TG_NARGS > 2 AND before = after THEN
        RETURN NULL;
    END IF;
    IF before[1] IS NOT NULL AND before[2] IS NOT NULL THEN
        PERFORM relay.check_membership(before[1], before[2]);
    END IF;
    IF after[1] IS NOT NULL AND after[2] IS NOT NULL AND (before[1], before[2]) IS DISTINCT FROM (after[1], after[2]) THEN
        PERFORM relay.check_membership(after[1], after[2]);
    END IF;
    RETURN NULL;
END
$$;
-- +goose StatementEnd

-- track_user(id column [, columns that matter]): the same for a table that users come from.
-- +goose StatementBegin
CREATE FUNCTION relay.track_user() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    naming text;
    before text[];
    after  text[];
BEGIN
    IF TG_NARGS < 1 THEN
        RAISE EXCEPTION 'relay.track_user: the argument must name the column of the user''s id';
    END IF;
    naming := relay.naming(TG_RELID, TG_ARGV);
    IF TG_OP <> 'INSERT' THEN
        EXECUTE naming INTO before USING OLD;
    END IF;
    IF TG_OP <> 'DELETE' THEN
        EXECUTE naming INTO after USING NEW;
    END IF;
    IF TG_OP = 'UPDATE' AND TG_NARGS > 1 AND before = after THEN
        RETURN NULL;
    END IF;
    IF before[1] IS NOT NULL THEN
        PERFORM relay.check_user(before[1]);
    END IF;
    IF after[1] IS NOT NULL AND before[1] IS DISTINCT FROM after[1] THEN
        PERFORM relay.check_user(after[1]);
    END IF;
    RETURN NULL;
END
$$;
-- +goose StatementEnd

-- TRUNCATE fires no row trigger: it would revoke access without a trace in the log.
-- +goose StatementBegin
CREATE FUNCTION relay.refuse_truncate() RETURNS trigger
    LANGUAGE plpgsql
AS $$
BEGIN
    RAISE EXCEPTION '%.%: TRUNCATE would change memberships without a trace', TG_TABLE_SCHEMA, TG_TABLE_NAME
        USING ERRCODE = 'restrict_violation', HINT = 'Use DELETE.';
END
$$;
-- +goose StatementEnd

CREATE TRIGGER track_user
    AFTER INSERT OR DELETE OR UPDATE ON relay.users
    FOR EACH ROW EXECUTE FUNCTION relay.track_user('id', 'is_active');
CREATE TRIGGER refuse_truncate
    BEFORE TRUNCATE ON relay.users
    FOR EACH STATEMENT EXECUTE FUNCTION relay.refuse_truncate();
CREATE TRIGGER track_membership
    AFTER INSERT OR DELETE OR UPDATE ON relay.program_members
    FOR EACH ROW EXECUTE FUNCTION relay.track_membership('user_id', 'program_id', 'is_active');
CREATE TRIGGER refuse_truncate
    BEFORE TRUNCATE ON relay.program_members
    FOR EACH STATEMENT EXECUTE FUNCTION relay.refuse_truncate();
ALTER TABLE relay.users ENABLE ALWAYS TRIGGER track_user;
ALTER TABLE relay.users ENABLE ALWAYS TRIGGER refuse_truncate;
ALTER TABLE relay.program_members ENABLE ALWAYS TRIGGER track_membership;
ALTER TABLE relay.program_members ENABLE ALWAYS TRIGGER refuse_truncate;

-- +goose Down
DROP TRIGGER track_user ON relay.users;
DROP TRIGGER refuse_truncate ON relay.users;
DROP TRIGGER track_membership ON relay.program_members;
DROP TRIGGER refuse_truncate ON relay.program_members;
DROP TRIGGER note_cut ON relay.cuts;
DROP FUNCTION relay.note_cut();
DROP FUNCTION relay.refuse_truncate();
DROP FUNCTION relay.track_user();
DROP FUNCTION relay.track_membership();
DROP FUNCTION relay.naming(oid, text[]);
DROP FUNCTION relay.sync_memberships();
DROP FUNCTION relay.check_user(text);
DROP FUNCTION relay.check_membership(text, text);
DROP FUNCTION relay.membership_changed(text, text, text);
DROP FUNCTION relay.lock_user(text);
