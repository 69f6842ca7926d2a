package board

import (
	"context"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/outboxrelay/outboxrelay/outbox"
)

// Each function here is the body of one transaction: the change, then the event that tells of it, both in c.tx. The change comes
// first: it locks the request's row until COMMIT, so the events of one request have the order of its changes.

// request is a row of board.requests as far as a change needs it.
type request struct {
	ID      string
	Program string
	Title   string
	Status  string
}

// created is the answer to a change.
type created struct {
	Request    string  `json:"request,omitempty"`
	ID         string  `json:"id,omitempty"` // of the comment or attachment
	Events     []int64 `json:"events"`       // ids of the events, as clients will see them
	RolledBack bool    `json:"rolledBack,omitempty"`
}

// lock locks and returns a request in a program that the caller is a member of.
func lock[In any](ctx context.Context, c call[In], id string) (request, error) {
	return one[request](ctx, c.tx, `
		SELECT r.id, r.program_id AS program, r.title, r.status FROM board.requests r
		JOIN relay.program_members m ON m.program_id = r.program_id AND m.user_id = $2 AND m.is_active
		WHERE r.id = $1 FOR UPDATE OF r`, id, c.by.ID)
}

// emit emits the one event of a change.
func emit(ctx context.Context, tx pgx.Tx, by member, name outbox.Name, r request, data map[string]any) (created, error) {
	ids, err := outbox.Emit(ctx, tx, outbox.Event{Program: r.Program, Name: name, Request: r.ID, Data: data, By: by.actor()})
	return created{Request: r.ID, Events: ids}, err
}

type createInput struct {
	Program string `json:"program"`
	Title   string `json:"title"`
}

func createRequest(ctx context.Context, c call[createInput]) (any, error) {
	r, err := insertRequest(ctx, c)
	if err != nil {
		return nil, err
	}
	return emit(ctx, c.tx, c.by, outbox.RequestCreated, r, map[string]any{"title": r.Title, "status": r.Status})
}

func insertRequest(ctx context.Context, c call[createInput]) (request, error) {
	title, err := text("title", c.in.Title, 200)
	if err != nil {
		return request{}, err
	}
	return one[request](ctx, c.tx, `
		INSERT INTO board.requests (program_id, title, created_by)
		SELECT p.id, $2, $3 FROM board.programs p
		JOIN relay.program_members m ON m.program_id = p.id AND m.user_id = $3 AND m.is_active
		WHERE p.id = $1
		RETURNING id, program_id AS program, title, status`, c.in.Program, title, c.by.ID)
}

type titleInput struct {
	Title string `json:"title"`
}

func renameRequest(ctx context.Context, c call[titleInput]) (any, error) {
	title, err := text("title", c.in.Title, 200)
	if err != nil {
		return nil, err
	}
	r, err := lock(ctx, c, c.id)
	if err != nil {
		return nil, err
	}
	if _, err := c.tx.Exec(ctx, "UPDATE board.requests SET title = $2 WHERE id = $1", r.ID, title); err != nil {
		return nil, err
	}
	return emit(ctx, c.tx, c.by, outbox.RequestUpdated, r, map[string]any{"title": title})
}

type statusInput struct {
	Status string `json:"status"`
}

func changeStatus(ctx context.Context, c call[statusInput]) (any, error) {
	switch c.in.Status {
	case "open", "in_progress", "done":
	default:
		return nil, invalidError("status must be open, in_progress or done")
	}
	r, err := lock(ctx, c, c.id)
	if err != nil {
		return nil, err
	}
	if _, err := c.tx.Exec(ctx, "UPDATE board.requests SET status = $2, moved_at = clock_timestamp() WHERE id = $1", r.ID, c.in.Status); err != nil {
		return nil, err
	}
	return emit(ctx, c.tx, c.by, outbox.RequestStatusChanged, r, map[string]any{"from": r.Status, "status": c.in.Status})
}

type assignInput struct {
	User string `json:"user"` // empty: nobody
}

func assign(ctx context.Context, c call[assignInput]) (any, error) {
	r, err := lock(ctx, c, c.id)
	if err != nil {
		return nil, err
	}
	var assignee any
	if c.in.User != "" {
		m, err := one[member](ctx, c.tx, `
			SELECT u.id, concat_ws(' ', u.first_name, u.last_name) AS name FROM relay.users u
			JOIN relay.program_members m ON m.user_id = u.id AND m.program_id = $2 AND m.is_active
			WHERE u.id = $1 AND u.is_active`, c.in.User, r.Program)
		if err != nil {
			return nil, err
		}
		assignee = m
	}
	if _, err := c.tx.Exec(ctx, "UPDATE board.requests SET assignee_id = nullif($2, '') WHERE id = $1", r.ID, c.in.User); err != nil {
		return nil, err
	}
	return emit(ctx, c.tx, c.by, outbox.RequestAssigned, r, map[string]any{"assignee": assignee})
}

type commentInput struct {
	Body string `json:"body"`
}

func addComment(ctx context.Context, c call[commentInput]) (any, error) {
	body, err := text("body", c.in.Body, 2000)
	if err != nil {
		return nil, err
	}
	r, err := lock(ctx, c, c.id)
	if err != nil {
		return nil, err
	}
	return insertComment(ctx, c.tx, c.by, r, body)
}

func insertComment(ctx context.Context, tx pgx.Tx, by member, r request, body string) (created, error) {
	var id string
	err := tx.QueryRow(ctx, "INSERT INTO board.comments (request_id, author_id, body) VALUES ($1, $2, $3) RETURNING id::text",
		r.ID, by.ID, body).Scan(&id)
	if err != nil {
		return created{}, err
	}
	answer, err := emit(ctx, tx, by, outbox.CommentAdded, r, map[string]any{"comment": map[string]any{"id": id, "body": body, "author": by}})
	answer.ID = id
	return answer, err
}

func deleteComment(ctx context.Context, c call[struct{}]) (any, error) {
	r, id, err := lockOwner(ctx, c, "SELECT request_id FROM board.comments WHERE id = $1")
	if err != nil {
		return nil, err
	}
	// Two deletions at the same time both got here, one after the other: only the first one is a change.
	if err := deleteOne(ctx, c.tx, "DELETE FROM board.comments WHERE id = $1", id); err != nil {
		return nil, err
	}
	return emit(ctx, c.tx, c.by, outbox.CommentDeleted, r, map[string]any{"comment": map[string]any{"id": c.id}})
}

type attachInput struct {
	Name string `json:"name"`
	Size int64  `json:"size"` // bytes
}

func attach(ctx context.Context, c call[attachInput]) (any, error) {
	name, err := text("name", c.in.Name, 200)
	if err != nil {
		return nil, err
	}
	if c.in.Size < 0 {
		return nil, invalidError("size must not be negative")
	}
	r, err := lock(ctx, c, c.id)
	if err != nil {
		return nil, err
	}
	return insertAttachment(ctx, c.tx, c.by, r, name, c.in.Size)
}

func insertAttachment(ctx context.Context, tx pgx.Tx, by member, r request, name string, size int64) (created, error) {
	var id string
	err := tx.QueryRow(ctx, "INSERT INTO board.attachments (request_id, name, size, uploaded_by) VALUES ($1, $2, $3, $4) RETURNING id::text",
		r.ID, name, size, by.ID).Scan(&id)
	if err != nil {
		return created{}, err
	}
	answer, err := emit(ctx, tx, by, outbox.AttachmentUploaded, r, map[string]any{"attachment": map[string]any{"id": id, "name": name, "size": size}})
	answer.ID = id
	return answer, err
}

func deleteAttachment(ctx context.Context, c call[struct{}]) (any, error) {
	r, id, err := lockOwner(ctx, c, "SELECT request_id FROM board.attachments WHERE id = $1")
	if err != nil {
		return nil, err
	}
	if err := deleteOne(ctx, c.tx, "DELETE FROM board.attachments WHERE id = $1", id); err != nil {
		return nil, err
	}
	return emit(ctx, c.tx, c.by, outbox.AttachmentDeleted, r, map[string]any{"attachment": map[string]any{"id": c.id}})
}

// everythingThenRollBack makes every kind of change, emits an event for each, and rolls all of it back: nobody ever hears of it. The
// answer names the events that are gone.
func everythingThenRollBack(ctx context.Context, c call[createInput]) (any, error) {
	r, err := insertRequest(ctx, c)
	if err != nil {
		return nil, err
	}
	all, err := emit(ctx, c.tx, c.by, outbox.RequestCreated, r, map[string]any{"title": r.Title, "status": r.Status})
	if err != nil {
		return nil, err
	}
	steps := []func() (any, error){
		func() (any, error) {
			return changeStatus(ctx, call[statusInput]{c.tx, c.by, r.ID, statusInput{"in_progress"}})
		},
		func() (any, error) { return assign(ctx, call[assignInput]{c.tx, c.by, r.ID, assignInput{c.by.ID}}) },
		func() (any, error) {
			return addComment(ctx, call[commentInput]{c.tx, c.by, r.ID, commentInput{"Nobody will read this."}})
		},
		func() (any, error) {
			return attach(ctx, call[attachInput]{c.tx, c.by, r.ID, attachInput{"never.txt", 1}})
		},
	}
	for _, step := range steps {
		one, err := step()
		if err != nil {
			return nil, err
		}
		all.Events = append(all.Events, one.(created).Events...)
	}
	all.RolledBack = true
	return all, errRollBack
}

// lockOwner locks the request that the comment or attachment c.id belongs to.
func lockOwner[In any](ctx context.Context, c call[In], query string) (r request, id int64, err error) {
	if id, err = strconv.ParseInt(c.id, 10, 64); err != nil {
		return request{}, 0, errNotFound
	}
	var owner string
	if err := c.tx.QueryRow(ctx, query, id).Scan(&owner); err != nil {
		return request{}, 0, err
	}
	r, err = lock(ctx, c, owner)
	return r, id, err
}

// deleteOne runs a DELETE of one row; errNotFound if it is gone already.
func deleteOne(ctx context.Context, tx pgx.Tx, sql string, id int64) error {
	tag, err := tx.Exec(ctx, sql, id)
	if err == nil && tag.RowsAffected() == 0 {
		return errNotFound
	}
	return err
}

// text checks a text field, trimmed, of 1 to most characters.
func text(field, value string, most int) (string, error) {
	value = strings.TrimSpace(value)
	switch {
	case value == "":
		return "", invalidError(field + " must not be empty")
	case len([]rune(value)) > most:
		return "", invalidError(field + " must be at most " + strconv.Itoa(most) + " characters")
	case strings.ContainsRune(value, 0):
		return "", invalidError(field + " must not contain NUL")
	}
	return value, nil
}
