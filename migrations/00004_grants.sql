-- Least privilege: relay_emitter may only emit, relay_relay only relay, relay_migrator owns the objects and so may migrate.

-- +goose Up
REVOKE ALL ON SCHEMA relay FROM PUBLIC;
REVOKE ALL ON ALL TABLES IN SCHEMA relay FROM PUBLIC;
REVOKE ALL ON ALL FUNCTIONS IN SCHEMA relay FROM PUBLIC;

GRANT USAGE ON SCHEMA relay TO relay_emitter, relay_relay;
GRANT EXECUTE ON FUNCTION relay.schema_version(), relay.may_notify() TO relay_emitter, relay_relay;

GRANT INSERT (program_id, event, request_id, data, performed_by_id, performed_by_name, traceparent), SELECT (id)
    ON relay.outbox TO relay_emitter;
GRANT EXECUTE ON FUNCTION relay.emit(text, text, json, text, text, text),
    relay.event_fault(text, text, text, json, text, text, text, boolean) TO relay_emitter;

GRANT SELECT, DELETE, UPDATE (xid, data) ON relay.outbox TO relay_relay;
GRANT SELECT, INSERT, DELETE ON relay.ticks TO relay_relay;
GRANT SELECT, DELETE ON relay.cuts TO relay_relay;
GRANT UPDATE ON SEQUENCE relay.flush_probe TO relay_relay;
GRANT SELECT ON relay.users, relay.program_members, relay.effective_members TO relay_relay;

-- relay_migrator owns everything, so that any member of it can apply later migrations, whoever applied the first ones. Where the
-- current role may not give the objects away (it is no member of relay_migrator), they stay its own.
-- +goose StatementBegin
DO $$
DECLARE
    object text;
BEGIN
    EXECUTE format('GRANT CREATE ON DATABASE %I TO relay_migrator', current_database());
    IF to_regclass('goose_db_version') IS NOT NULL THEN
        GRANT SELECT, INSERT, UPDATE, DELETE ON goose_db_version TO relay_migrator;
    END IF;
    FOR object IN
        SELECT 'SCHEMA relay'
        UNION ALL
        SELECT format('TABLE %s', c.oid::regclass) FROM pg_class c
        WHERE c.relnamespace = 'relay'::regnamespace AND c.relkind = 'r'
        UNION ALL
        SELECT 'SEQUENCE relay.flush_probe'
        UNION ALL
        SELECT format('FUNCTION %s', p.oid::regprocedure) FROM pg_proc p
        WHERE p.pronamespace = 'relay'::regnamespace
    LOOP
        EXECUTE format('ALTER %s OWNER TO relay_migrator', object);
    END LOOP;
EXCEPTION
    WHEN insufficient_privilege THEN
        RAISE NOTICE 'the objects of the schema relay stay owned by % (%)', current_user, SQLERRM;
END
$$;
-- +goose StatementEnd

-- +goose Down
REVOKE SELECT ON relay.users, relay.program_members, relay.effective_members FROM relay_relay;
REVOKE UPDATE ON SEQUENCE relay.flush_probe FROM relay_relay;
REVOKE SELECT, DELETE ON relay.cuts FROM relay_relay;
REVOKE SELECT, INSERT, DELETE ON relay.ticks FROM relay_relay;
REVOKE SELECT, DELETE, UPDATE (xid, data) ON relay.outbox FROM relay_relay;
REVOKE EXECUTE ON FUNCTION relay.emit(text, text, json, text, text, text),
    relay.event_fault(text, text, text, json, text, text, text, boolean) FROM relay_emitter;
REVOKE INSERT (program_id, event, request_id, data, performed_by_id, performed_by_name, traceparent), SELECT (id)
    ON relay.outbox FROM relay_emitter;
REVOKE EXECUTE ON FUNCTION relay.schema_version(), relay.may_notify() FROM relay_emitter, relay_relay;
REVOKE USAGE ON SCHEMA relay FROM relay_emitter, relay_relay;
