-- Waking the relay: NOTIFY only while it sleeps, and never in a way that could fail a COMMIT.

-- +goose Up

-- The version of this schema; outbox-relay refuses to run on another one.
CREATE FUNCTION relay.schema_version() RETURNS integer
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN 4;

-- may_notify says whether a NOTIFY in this transaction is harmless: it takes a cluster-wide lock at COMMIT (so no short
-- timeout may be set), fails when the queue is full, and makes PREPARE TRANSACTION fail.
-- Who doesn't notify is found by the relay's fallback poll.
-- +goose StatementBegin
CREATE FUNCTION relay.may_notify() RETURNS boolean
    LANGUAGE plpgsql VOLATILE
AS $$
BEGIN
    RETURN (pg_catalog.current_setting('max_prepared_transactions') = '0'
            OR pg_catalog.current_setting('relay.notify', true) IS NOT DISTINCT FROM 'on')
       AND (pg_catalog.current_setting('lock_timeout') = '0'
            OR pg_catalog.current_setting('lock_timeout')::interval >= interval '1 second')
       AND (pg_catalog.current_setting('statement_timeout') = '0'
            OR pg_catalog.current_setting('statement_timeout')::interval >= interval '1 second')
       AND pg_catalog.pg_notification_queue_usage() < 0.5;
END
$$;
-- +goose StatementEnd

-- wake notifies the relay if it sleeps: a sleeping relay holds the advisory lock (1919249529, 2) exclusively, so the try fails.
-- The two session-level calls leave nothing behind; a transaction-level lock would be held until COMMIT and keep the relay from
-- falling asleep.
-- +goose StatementBegin
CREATE FUNCTION relay.wake() RETURNS trigger
    LANGUAGE plpgsql
AS $$
BEGIN
    IF NOT (pg_catalog.pg_try_advisory_lock_shared(1919249529, 2) AND pg_catalog.pg_advisory_unlock_shared(1919249529, 2)) THEN
        IF relay.may_notify() THEN
            PERFORM pg_catalog.pg_notify('relay_outbox', '');
        END IF;
    END IF;
    RETURN NULL;
END
$$;
-- +goose StatementEnd

-- The transaction already locks the table, by which the relay finds it. (AFTER would do as well, and costs more.)
CREATE TRIGGER wake
    BEFORE INSERT ON relay.outbox
    FOR EACH STATEMENT EXECUTE FUNCTION relay.wake();
-- Rows that logical replication applies must wake the relay too.
ALTER TABLE relay.outbox ENABLE ALWAYS TRIGGER wake;

-- An event is never changed, with two exceptions for the relay's role: after a restore into another cluster it gives the rows that
-- were not relayed yet its own xid, and for legal reasons it may blank an event's data (`outbox-relay erase`).
-- +goose StatementBegin
CREATE FUNCTION relay.refuse_update() RETURNS trigger
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF pg_catalog.pg_has_role(current_user, 'relay_relay', 'USAGE')
       AND (NEW.xid = pg_catalog.pg_current_xact_id() AND NEW.data::text = OLD.data::text
            OR NEW.xid = OLD.xid AND NEW.data::text = '{}' AND NOT OLD.control)
       AND (NEW.id, NEW.program_id, NEW.event, NEW.request_id, NEW.performed_by_id, NEW.performed_by_name,
            NEW.created_at, NEW.traceparent, NEW.control)
           IS NOT DISTINCT FROM
           (OLD.id, OLD.program_id, OLD.event, OLD.request_id, OLD.performed_by_id, OLD.performed_by_name,
            OLD.created_at, OLD.traceparent, OLD.control) THEN
        RETURN NEW;
    END IF;
    RAISE EXCEPTION 'relay.outbox: an event is never updated'
        USING ERRCODE = 'restrict_violation', HINT = 'Emit a new event instead.';
END
$$;
-- +goose StatementEnd

CREATE TRIGGER refuse_update
    BEFORE UPDATE ON relay.outbox
    FOR EACH ROW EXECUTE FUNCTION relay.refuse_update();
ALTER TABLE relay.outbox ENABLE ALWAYS TRIGGER refuse_update;

-- emit is the same INSERT for every language that can call a function. Errors are raised: the transaction fails with its event. (A function
-- in SQL would be planned anew by every call.)
-- +goose StatementBegin
CREATE FUNCTION relay.emit(
    program_id        text,
    event             text,
    data              json DEFAULT '{}',
    request_id        text DEFAULT NULL,
    performed_by_id   text DEFAULT NULL,
    performed_by_name text DEFAULT NULL
) RETURNS bigint
    LANGUAGE plpgsql VOLATILE
AS $$
DECLARE
    event_id bigint;
BEGIN
    INSERT INTO relay.outbox (program_id, event, request_id, data, performed_by_id, performed_by_name)
    VALUES (emit.program_id, emit.event, emit.request_id, emit.data, emit.performed_by_id, emit.performed_by_name)
    RETURNING id INTO event_id;
    RETURN event_id;
END
$$;
-- +goose StatementEnd

-- +goose Down
DROP TRIGGER wake ON relay.outbox;
DROP TRIGGER refuse_update ON relay.outbox;
DROP FUNCTION relay.emit(text, text, json, text, text, text);
DROP FUNCTION relay.refuse_update();
DROP FUNCTION relay.wake();
DROP FUNCTION relay.may_notify();
DROP FUNCTION relay.schema_version();
