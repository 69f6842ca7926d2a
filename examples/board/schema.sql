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
ALTER TABLE board.requests ADD COLUMN IF NOT EXISTS moved_at timestamptz NOT NULL DEFAULT clock_timestamp(); -- into its column
DROP INDEX IF EXISTS board.requests_program_idx;
CREATE INDEX IF NOT EXISTS requests_moved_idx ON board.requests (program_id, moved_at);

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

-- A program that is new here gets some requests and comments to look at.
WITH program AS (
    INSERT INTO board.programs (id, name) VALUES
        ('p1', 'Building services'),
        ('p2', 'IT help desk'),
        ('p3', 'Community garden')
    ON CONFLICT DO NOTHING RETURNING id
), request AS (
    INSERT INTO board.requests (program_id, title, status, assignee_id, created_by, created_at, moved_at)
    SELECT r.program_id, r.title, r.status, r.assignee_id, r.created_by, now() - r.age, now() - r.age
    FROM (VALUES
        ('p1', 'Front door doesn''t close',         'open',        NULL, 'u2', interval '20 minutes'),
        ('p1', 'Bicycle rack for the courtyard',    'open',        'u3', 'u1', interval '3 hours'),
        ('p1', 'Replace the filter in the hall',    'open',        NULL, 'u3', interval '1 day'),
        ('p1', 'Lamp on the second floor flickers', 'in_progress', 'u1', 'u2', interval '50 minutes'),
        ('p1', 'Quote for the new lift',            'in_progress', 'u2', 'u3', interval '2 days'),
        ('p1', 'Heating in room 204 is too warm',   'done',        'u3', 'u1', interval '5 hours'),
        ('p1', 'Spare keys for the cellar',         'done',        'u2', 'u2', interval '3 days'),
        ('p2', 'New laptop for Cleo',               'open',        'u1', 'u3', interval '2 hours'),
        ('p2', 'Printer on floor 1 is offline',     'in_progress', 'u3', 'u1', interval '40 minutes'),
        ('p2', 'Access to the wiki for Ben',        'done',        'u1', 'u3', interval '1 day'),
        ('p3', 'Order seeds for spring',            'open',        NULL, 'u4', interval '1 hour'),
        ('p3', 'Build a second compost bin',        'in_progress', 'u4', 'u3', interval '6 hours'),
        ('p3', 'Water the tomatoes',                'done',        'u3', 'u4', interval '30 minutes')
    ) AS r (program_id, title, status, assignee_id, created_by, age)
    JOIN program ON program.id = r.program_id
    RETURNING id, title
)
INSERT INTO board.comments (request_id, author_id, body)
SELECT request.id, c.author_id, c.body
FROM (VALUES
    ('Front door doesn''t close',         'u3', 'It catches at the bottom. A carpenter should look at it.'),
    ('Lamp on the second floor flickers', 'u2', 'Only in the evening, next to the stairs.'),
    ('Lamp on the second floor flickers', 'u1', 'Ordered a new one.'),
    ('Quote for the new lift',            'u2', 'Two of three are here.'),
    ('Printer on floor 1 is offline',     'u3', 'Restarted it, waiting for a new cable.'),
    ('Build a second compost bin',        'u4', 'The wood comes on Friday.')
) AS c (title, author_id, body)
JOIN request USING (title);

INSERT INTO relay.program_members (user_id, program_id) VALUES
    ('u1', 'p1'), ('u1', 'p2'),
    ('u2', 'p1'),
    ('u3', 'p1'), ('u3', 'p2'), ('u3', 'p3'),
    ('u4', 'p3')
ON CONFLICT DO NOTHING;
