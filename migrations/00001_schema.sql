-- The schema of outbox-relay: the outbox, the ticks, the two membership tables and
-- the roles. Everything lives in the schema "relay"; nothing outside of it is touched.

-- +goose Up

-- Roles are cluster-wide: created only if absent, never dropped. A concurrent creator is tolerated.
-- +goose StatementBegin
DO $$
DECLARE
    missing text;
BEGIN
    FOR missing IN
        SELECT r FROM unnest(ARRAY['relay_emitter', 'relay_relay', 'relay_migrator']) AS r
        WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = r)
    LOOP
        BEGIN
            EXECUTE format('CREATE ROLE %I NOLOGIN', missing);
        EXCEPTION
            WHEN duplicate_object OR unique_violation THEN
                NULL;
            WHEN insufficient_privilege THEN
                RAISE EXCEPTION 'the role % is missing and % may not create it', missing, current_user
                    USING ERRCODE = 'insufficient_privilege',
                          HINT = 'As a role with CREATEROLE run once: CREATE ROLE relay_emitter NOLOGIN; CREATE ROLE relay_relay NOLOGIN; CREATE ROLE relay_migrator NOLOGIN;';
        END;
    END LOOP;
END
$$;
-- +goose StatementEnd

CREATE SCHEMA IF NOT EXISTS relay;

-- One row per event. Written by applications in the transaction of the change itself, read by the relay.
-- xid is the writer's transaction: the relay's cursor is a snapshot, and a row is new if that snapshot doesn't see xid.
-- data is json, not jsonb: it keeps the bytes, costs the writer less and takes \u0000.
CREATE TABLE relay.outbox (
    id                bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    xid               xid8        NOT NULL DEFAULT pg_current_xact_id(),
    program_id        text        COLLATE "C" NOT NULL,
    event             text        COLLATE "C" NOT NULL,
    request_id        text        COLLATE "C",
    data              json        NOT NULL DEFAULT '{}',
    performed_by_id   text        COLLATE "C",
    performed_by_name text,
    created_at        timestamptz NOT NULL DEFAULT clock_timestamp(),
    traceparent       text        COLLATE "C",
    control           boolean     NOT NULL DEFAULT false
);

-- event_fault says what is wrong with an event; NULL: nothing. Its operators are bound here, whatever the search_path of who inserts, and the
-- planner puts its body in the place of the call. (A pinned search_path is set and reset for every row, and CHECK constraints are read anew
-- by every INSERT statement: both cost more than the checks themselves. Lengths stand apart, because {0,127} is slow to match.)
CREATE FUNCTION relay.event_fault(
    program_id        text,
    event             text,
    request_id        text,
    data              json,
    performed_by_id   text,
    performed_by_name text,
    traceparent       text,
    control           boolean
) RETURNS text
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN CASE
        WHEN NOT (program_id ~ '^[A-Za-z0-9][A-Za-z0-9._:-]*$' AND length(program_id) <= 128)
            THEN 'program_id must be 1 to 128 of A-Z a-z 0-9 . _ : - and begin with a letter or digit'
        WHEN NOT (event ~ '^[a-z][a-z0-9_]*:[a-z][a-z0-9_]*$' AND length(event) <= 64)
            THEN 'event must be noun:verb in lower case, at most 64 characters'
        WHEN control <> starts_with(event, 'relay:') THEN 'event must not begin with relay:, which is reserved'
        WHEN NOT length(request_id) BETWEEN 1 AND 128 THEN 'request_id must be 1 to 128 characters'
        WHEN json_typeof(data) <> 'object' THEN 'data must be a JSON object'
        WHEN octet_length(data::text) > 262144 THEN 'data must be at most 256 KiB'
        WHEN NOT length(performed_by_id) BETWEEN 1 AND 128 THEN 'performed_by_id must be 1 to 128 characters'
        WHEN length(performed_by_name) > 256 THEN 'performed_by_name must be at most 256 characters'
        WHEN length(traceparent) > 128 THEN 'traceparent must be at most 128 characters'
    END;

-- check_event refuses what can't be sent. Every name in it is qualified, that of the type too: pg_temp would come first, and the trigger also works
-- as the owner of functions that insert.
-- +goose StatementBegin
CREATE FUNCTION relay.check_event() RETURNS trigger
    LANGUAGE plpgsql
AS $$
DECLARE
    fault pg_catalog.text := relay.event_fault(NEW.program_id, NEW.event, NEW.request_id, NEW.data,
        NEW.performed_by_id, NEW.performed_by_name, NEW.traceparent, NEW.control);
BEGIN
    IF fault IS NOT NULL THEN
        RAISE EXCEPTION 'relay.outbox: %', fault
            USING ERRCODE = 'check_violation', SCHEMA = 'relay', TABLE = 'outbox', COLUMN = pg_catalog.split_part(fault, ' ', 1), CONSTRAINT = fault;
    END IF;
    RETURN NEW;
END
$$;
-- +goose StatementEnd

CREATE TRIGGER check_event
    BEFORE INSERT ON relay.outbox
    FOR EACH ROW EXECUTE FUNCTION relay.check_event();
ALTER TABLE relay.outbox ENABLE ALWAYS TRIGGER check_event;

-- Both halves of the relay's read, and retention.
CREATE INDEX outbox_xid_idx ON relay.outbox (xid);
-- Deep catch-up of one program.
CREATE INDEX outbox_program_id_xid_idx ON relay.outbox (program_id, xid);
-- A user's membership changes that aren't relayed yet: only control rows are in it, so that an event pays nothing.
CREATE INDEX outbox_control_idx ON relay.outbox (performed_by_id, xid) WHERE control;

-- One row per relayed batch. The batch of a tick is what its snapshot sees and the snapshot of the tick before doesn't.
-- Its rows, ordered by (control DESC, id), have the positions position-events+1 … position.
-- The oldest tick is only a base: the batch of it may have been deleted.
-- after is the position of the tick before; base that of the newest tick before those that were committed together with this one.
CREATE TABLE relay.ticks (
    position     bigint      PRIMARY KEY,
    after        bigint      NOT NULL UNIQUE,
    base         bigint      NOT NULL,
    snapshot     pg_snapshot NOT NULL,
    events       bigint      NOT NULL CHECK (events >= 0),
    at           timestamptz NOT NULL,
    system_id    bigint      NOT NULL,
    timeline     bigint      NOT NULL,
    rebased_from bigint,
    CHECK (position > after AND position - events >= after AND after >= base)
);
-- The tick that a row belongs to: the first whose snapshot sees its xid.
CREATE INDEX ticks_xmax_idx ON relay.ticks (pg_snapshot_xmax(snapshot), position);
-- New histories, almost always none: every reading of a membership asks for them.
CREATE INDEX ticks_rebased_idx ON relay.ticks (position) WHERE rebased_from IS NOT NULL;

-- What a transaction that changed memberships saw as it committed: the relay ends a batch there if what had been committed before the
-- change would otherwise share its batch. xid itself counts as not seen.
CREATE TABLE relay.cuts (
    xid      xid8        PRIMARY KEY,
    snapshot pg_snapshot NOT NULL
);

-- Set by the relay, now and then, to measure what a commit waits for the disk.
CREATE SEQUENCE relay.flush_probe;

CREATE TABLE relay.users (
    id         text    PRIMARY KEY CHECK (length(id) BETWEEN 1 AND 128),
    first_name text    NOT NULL DEFAULT '',
    last_name  text    NOT NULL DEFAULT '',
    email      text    NOT NULL DEFAULT '',
    role       text    NOT NULL DEFAULT 'member',
    is_active  boolean NOT NULL DEFAULT true
);

CREATE TABLE relay.program_members (
    user_id    text    NOT NULL CHECK (length(user_id) BETWEEN 1 AND 128),
    program_id text    NOT NULL CHECK (program_id ~ '^[A-Za-z0-9][A-Za-z0-9._:-]*$' AND length(program_id) <= 128),
    is_active  boolean NOT NULL DEFAULT true,
    PRIMARY KEY (user_id, program_id)
);

-- Serialises concurrent membership changes of one user (see relay.lock_user).
CREATE TABLE relay.user_locks (
    user_id text PRIMARY KEY,
    xid     xid8 NOT NULL
);

-- The effective memberships (user active and membership active) as the log has been told of them: what a change is a change of.
CREATE TABLE relay.effective_members (
    user_id    text NOT NULL,
    program_id text NOT NULL,
    PRIMARY KEY (user_id, program_id)
);

-- +goose Down
-- The roles stay: they belong to the cluster, and another database may use them.
DROP SCHEMA relay CASCADE;
