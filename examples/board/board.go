package board

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/outboxrelay/outboxrelay/client"
	"github.com/outboxrelay/outboxrelay/outbox"
)

// Config is what Handler needs. Pool and Mint are required.
type Config struct {
	Pool   *pgxpool.Pool // a database with the migrations and Setup applied
	Mint   Mint
	Logger *slog.Logger // default: discards
}

// Mint signs a token that the WebSocket server accepts, for any user that is asked for (so it is for dev only), valid for ttl (1 s to 12 h).
type Mint func(user string, ttl time.Duration) (token string, err error)

//go:embed schema.sql
var schema string

// setupLock serialises Setup: two CREATE … IF NOT EXISTS at the same time can still collide.
const setupLock = 0x626f617264 // "board"

// Setup creates the schema `board`, and the demo's users, programs and memberships, in one transaction. What is there already stays as it
// is. It needs the migrations and a role that may create a schema and write relay.users and relay.program_members.
func Setup(ctx context.Context, pool *pgxpool.Pool) error {
	err := pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, "SELECT pg_advisory_xact_lock($1)", setupLock); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, schema)
		return err
	})
	if err != nil {
		return fmt.Errorf("set up schema board: %w", err)
	}
	return nil
}

// app is what the handlers share; all fields are immutable.
type app struct {
	pool     *pgxpool.Pool
	mint     Mint
	log      *slog.Logger
	sessions *sessions
}

// Handler serves the page at /, the browser client at /outbox-relay.js, the demo's sign-in at /demo/ and the JSON API below /api/. Requests
// that another site's page makes are refused, and so is every API call without the bearer token of a sign-in.
//
// The page expects the WebSocket at /ws of the same host. Errors are {"error": "…"} with a fitting status.
func Handler(cfg Config) http.Handler {
	a := &app{pool: cfg.Pool, mint: cfg.Mint, log: cfg.Logger, sessions: newSessions()}
	if a.log == nil {
		a.log = slog.New(slog.DiscardHandler)
	}
	mux := http.NewServeMux()
	mux.Handle("GET /", page())
	mux.Handle("GET "+client.Path, client.Handler())
	mux.HandleFunc("GET /demo/users", a.users)
	mux.HandleFunc("POST /demo/token", a.signIn)
	mux.HandleFunc("GET /api/programs", a.programs)
	mux.Handle("DELETE /api/programs/{id}/membership", transaction(a, leave))
	mux.Handle("PUT /api/programs/{id}/membership", transaction(a, rejoin))
	mux.HandleFunc("GET /api/state", a.state)
	mux.Handle("POST /api/requests", transaction(a, createRequest))
	mux.Handle("PATCH /api/requests/{id}", transaction(a, renameRequest))
	mux.Handle("POST /api/requests/{id}/status", transaction(a, changeStatus))
	mux.Handle("POST /api/requests/{id}/assignee", transaction(a, assign))
	mux.Handle("POST /api/requests/{id}/comments", transaction(a, addComment))
	mux.Handle("DELETE /api/comments/{id}", transaction(a, deleteComment))
	mux.Handle("POST /api/requests/{id}/attachments", transaction(a, attach))
	mux.Handle("DELETE /api/attachments/{id}", transaction(a, deleteAttachment))
	mux.Handle("POST /api/rollback", transaction(a, everythingThenRollBack))
	return http.NewCrossOriginProtection().Handler(mux)
}

// Errors with a meaning for the caller of the API.
var (
	errNotFound     = errors.New("no such thing in a program of yours")
	errUnauthorized = errors.New("sign in first")
	errRollBack     = errors.New("rolled back on purpose")
)

// invalidError is a mistake in the request's fields.
type invalidError string

func (e invalidError) Error() string { return string(e) }

// statusOf returns the HTTP status of an error, 500 for one that isn't the caller's fault.
func statusOf(err error) int {
	var field invalidError
	var event *outbox.InvalidError
	switch {
	case errors.As(err, &field), errors.As(err, &event):
		return http.StatusBadRequest
	case errors.Is(err, errUnauthorized):
		return http.StatusUnauthorized
	case errors.Is(err, errNotFound), errors.Is(err, pgx.ErrNoRows):
		return http.StatusNotFound
	}
	return http.StatusInternalServerError
}
