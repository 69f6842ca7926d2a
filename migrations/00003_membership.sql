-- Membership changes take their place in the log: control rows, written in the transaction of the change, and only when the
-- effective membership (user active and membership active) changes.

-- +goose Up

-- lock_user serialises the membership changes of one user until the end of the transaction, so that "user deactivated" and
-- "member added" can't both be decided on a state that the other one is changing. A row, not an advisory lock: ten thousand
-- changes in one transaction don't fill the lock table, and under REPEATABLE READ the loser gets a serialization failure instead
-- of a decision on stale data.
-- +goose StatementBegin
CREATE FUNCTION relay.lock_user(user_id text) RETURNS void
    LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
    INSERT INTO relay.user_locks AS l (user_id, xid) VALUES (lock_user.user_id, pg_current_xact_id())
    ON CONFLICT ON CONSTRAINT user_locks_pkey DO UPDATE SET xid = excluded.xid WHERE l.xid <> excluded.xid
$$;
-- +goose StatementEnd

-- membership_changed writes one control row, unless the transaction's last one for this user and program says the same. The triggers
-- below call it; an application whose memberships are derived from other data calls it itself, after relay.lock_user, in the transaction of
-- the change and only when the effective membership changed.
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
    IF change IS NOT DISTINCT FROM (
        SELECT o.data ->> 'change' FROM relay.outbox o
        WHERE o.control AND o.performed_by_id = membership_changed.user_id AND o.xid = pg_current_xact_id()
          AND o.program_id = membership_changed.program_id
        ORDER BY o.id DESC
        LIMIT 1
    ) THEN
        RETURN;
    END IF;
    INSERT INTO relay.outbox (program_id, event, data, performed_by_id, control)
    VALUES (program_id, 'relay:membership', json_build_object('userId', user_id, 'change', change), user_id, true);
END
$$;
-- +goose StatementEnd

-- user_is_active reads the table, or the application's view in its place.
-- +goose StatementBegin
CREATE FUNCTION relay.user_is_active(user_id text) RETURNS boolean
    LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RETURN EXISTS (SELECT FROM relay.users u WHERE u.id = user_is_active.user_id AND u.is_active);
END
$$;
-- +goose StatementEnd

-- track_membership(user column, program column [, active column]): an AFTER ROW trigger for a table with at most one row per user and
-- program. Without an active column a row is a membership by being there.
-- +goose StatementBegin
CREATE FUNCTION relay.track_membership() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    o           jsonb := CASE WHEN TG_OP = 'INSERT' THEN NULL ELSE to_jsonb(OLD) END;
    n           jsonb := CASE WHEN TG_OP = 'DELETE' THEN NULL ELSE to_jsonb(NEW) END;
    old_user    text := o ->> TG_ARGV[0];
    old_program text := o ->> TG_ARGV[1];
    new_user    text := n ->> TG_ARGV[0];
    new_program text := n ->> TG_ARGV[1];
    was         boolean := o IS NOT NULL;
    becomes     boolean := n IS NOT NULL;
    touched     boolean;
BEGIN
    IF TG_NARGS = 3 THEN
        was := coalesce((o ->> TG_ARGV[2])::boolean, false);
        becomes := coalesce((n ->> TG_ARGV[2])::boolean, false);
    END IF;
    IF was AND becomes AND (old_user, old_program) IS NOT DISTINCT FROM (new_user, new_program) THEN
        RETURN NULL;
    END IF;
    IF was THEN
        -- One statement may deactivate user and membership together. Whichever trigger comes first, neither sees the other still active; what
        -- the log was last told of the user, or that this transaction has just told it, does.
        touched := EXISTS (SELECT FROM relay.user_locks l WHERE l.user_id = old_user AND l.xid = pg_current_xact_id());
        PERFORM relay.lock_user(old_user);
        IF touched OR relay.user_is_active(old_user)
           OR EXISTS (SELECT FROM relay.user_locks l WHERE l.user_id = old_user AND l.active) THEN
            PERFORM relay.membership_changed(old_user, old_program, 'out');
        END IF;
    END IF;
    IF becomes THEN
        PERFORM relay.lock_user(new_user);
        IF relay.user_is_active(new_user) THEN
            PERFORM relay.membership_changed(new_user, new_program, 'in');
        END IF;
    END IF;
    RETURN NULL;
END
$$;
-- +goose StatementEnd

-- track_user(id column [, active column]): an AFTER ROW trigger for the table of users.
-- +goose StatementBegin
CREATE FUNCTION relay.track_user() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    o        jsonb := CASE WHEN TG_OP = 'INSERT' THEN NULL ELSE to_jsonb(OLD) END;
    n        jsonb := CASE WHEN TG_OP = 'DELETE' THEN NULL ELSE to_jsonb(NEW) END;
    old_user text := o ->> TG_ARGV[0];
    new_user text := n ->> TG_ARGV[0];
    was      boolean := o IS NOT NULL;
    becomes  boolean := n IS NOT NULL;
BEGIN
    IF TG_NARGS = 2 THEN
        was := coalesce((o ->> TG_ARGV[1])::boolean, false);
        becomes := coalesce((n ->> TG_ARGV[1])::boolean, false);
    END IF;
    IF was AND becomes AND old_user IS NOT DISTINCT FROM new_user THEN
        RETURN NULL;
    END IF;
    IF was THEN
        PERFORM relay.lock_user(old_user);
        PERFORM relay.membership_changed(old_user, m.program_id::text, 'out')
        FROM relay.program_members m WHERE m.user_id = old_user AND m.is_active ORDER BY m.program_id;
        UPDATE relay.user_locks l SET active = false WHERE l.user_id = old_user;
    END IF;
    IF becomes THEN
        PERFORM relay.lock_user(new_user);
        PERFORM relay.membership_changed(new_user, m.program_id::text, 'in')
        FROM relay.program_members m WHERE m.user_id = new_user AND m.is_active ORDER BY m.program_id;
        UPDATE relay.user_locks l SET active = true WHERE l.user_id = new_user;
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
DROP FUNCTION relay.refuse_truncate();
DROP FUNCTION relay.track_user();
DROP FUNCTION relay.track_membership();
DROP FUNCTION relay.user_is_active(text);
DROP FUNCTION relay.membership_changed(text, text, text);
DROP FUNCTION relay.lock_user(text);
