-- The tables of the example, in a schema of their own, and its people. Applied again and again: every statement leaves alone what is
-- there, and a user who was deactivated or taken out of a program stays so.

CREATE SCHEMA IF NOT EXISTS board;

CREATE TABLE IF NOT EXISTS board.programs (
    id   text PRIMARY KEY,
    name text NOT NULL
);

CREATE SEQUENCE IF NOT EXISTS board.request_number START 101;

CREATE TABLE IF NOT EXISTS board.requests (
    id          text        PRIMARY KEY DEFAULT 'r' || nextval('board.request_number'),
    program_id  text        NOT NULL REFERENCES board.programs,
    title       text        NOT NULL CHECK (length(title) BETWEEN 1 AND 200),
    status      text        NOT NULL DEFAULT 'open' CHECK (status IN ('open', 'in_progress', 'done')),
    assignee_id text,
    created_by  text        NOT NULL,
    created_at  timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE INDEX IF NOT EXISTS requests_program_idx ON board.requests (program_id, created_at);

CREATE TABLE IF NOT EXISTS board.comments (
    id         bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    request_id text        NOT NULL REFERENCES board.requests ON DELETE CASCADE,
    author_id  text        NOT NULL,
    body       text        NOT NULL CHECK (length(body) BETWEEN 1 AND 2000),
    created_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE INDEX IF NOT EXISTS comments_request_idx ON board.comments (request_id, id);

-- What is known about a file; its bytes would lie in an object store.
CREATE TABLE IF NOT EXISTS board.attachments (
    id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    request_id  text   NOT NULL REFERENCES board.requests ON DELETE CASCADE,
    name        text   NOT NULL CHECK (length(name) BETWEEN 1 AND 200),
    size        bigint NOT NULL CHECK (size >= 0),
    uploaded_by text   NOT NULL
);
CREATE INDEX IF NOT EXISTS attachments_request_idx ON board.attachments (request_id, id);

INSERT INTO relay.users (id, first_name, last_name, email, role) VALUES
    ('u1', 'Ann',  'Lee',  'ann@example.com',  'member'),
    ('u2', 'Ben',  'Ito',  'ben@example.com',  'member'),
    ('u3', 'Cleo', 'Diaz', 'cleo@example.com', 'admin'),
    ('u4', 'Dara', 'Okoye', 'dara@example.com', 'member')
ON CONFLICT DO NOTHING;

WITH program AS (
    INSERT INTO board.programs (id, name) VALUES
        ('p1', 'Building services'),
        ('p2', 'IT help desk'),
        ('p3', 'Community garden')
    ON CONFLICT DO NOTHING RETURNING id
)
INSERT INTO board.requests (program_id, title, status, assignee_id, created_by)
SELECT r.program_id, r.title, r.status, r.assignee_id, r.created_by
FROM (VALUES
    ('p1', 'Front door doesn''t close',       'open',        NULL, 'u2'),
    ('p1', 'Lamp on the second floor flickers', 'in_progress', 'u1', 'u2'),
    ('p2', 'New laptop for Cleo',             'open',        'u1', 'u3'),
    ('p3', 'Water the tomatoes',              'done',        'u3', 'u4')
) AS r (program_id, title, status, assignee_id, created_by)
JOIN program ON program.id = r.program_id;

INSERT INTO relay.program_members (user_id, program_id) VALUES
    ('u1', 'p1'), ('u1', 'p2'),
    ('u2', 'p1'),
    ('u3', 'p1'), ('u3', 'p2'), ('u3', 'p3'),
    ('u4', 'p3')
ON CONFLICT DO NOTHING;
