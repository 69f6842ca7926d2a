package board

import (
	"context"
	"crypto/sha256"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/outboxrelay/outboxrelay/outbox"
)

// Bounds of what is remembered about sign-ins.
const (
	maxSessions = 10_000
	sessionLife = 12 * time.Hour // longer than any token
)

// sessions knows whose the tokens are that were handed out here. An application that checks the signature itself needs no such thing.
type sessions struct {
	mu    sync.Mutex
	users map[[sha256.Size]byte]session // by the hash of the token
}

type session struct {
	user  string
	since time.Time
}

func newSessions() *sessions { return &sessions{users: map[[sha256.Size]byte]session{}} }

func (s *sessions) add(token, user string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.users) >= maxSessions {
		clear(s.users) // everybody's page signs in again by itself
	}
	s.users[sha256.Sum256([]byte(token))] = session{user, time.Now()}
}

// user returns who makes the request, by its bearer token.
func (s *sessions) user(r *http.Request) (string, error) {
	token, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	if !ok {
		return "", errUnauthorized
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	found, ok := s.users[sha256.Sum256([]byte(token))]
	if !ok || time.Since(found.since) > sessionLife {
		return "", errUnauthorized
	}
	return found.user, nil
}

// member is a demo user.
type member struct {
	ID   string `json:"id"`
	Name string `json:"name"`
}

func (m member) actor() outbox.Actor { return outbox.Actor{UserID: m.ID, Name: m.Name} }

// querier is a pool or a transaction.
type querier interface {
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
}

// readMember returns an active user; errNotFound for anybody else.
func readMember(ctx context.Context, db querier, id string) (member, error) {
	return one[member](ctx, db, `SELECT id, concat_ws(' ', first_name, last_name) AS name FROM relay.users WHERE id = $1 AND is_active`, id)
}

// one returns the only row of a query, or errNotFound.
func one[T any](ctx context.Context, db querier, sql string, args ...any) (T, error) {
	rows, err := db.Query(ctx, sql, args...)
	if err != nil {
		var zero T
		return zero, err
	}
	return pgx.CollectExactlyOneRow(rows, pgx.RowToStructByName[T])
}

// users answers with the users that one can sign in as.
func (a *app) users(w http.ResponseWriter, r *http.Request) {
	rows, err := a.pool.Query(r.Context(), `
		SELECT u.id, concat_ws(' ', u.first_name, u.last_name) AS name,
		       coalesce(array_agg(p.name ORDER BY p.id) FILTER (WHERE p.id IS NOT NULL), '{}') AS programs
		FROM relay.users u
		LEFT JOIN relay.program_members m ON m.user_id = u.id AND m.is_active
		LEFT JOIN board.programs p ON p.id = m.program_id
		WHERE u.is_active GROUP BY u.id, u.first_name, u.last_name ORDER BY u.id LIMIT 50`)
	if err != nil {
		a.fail(w, r, err)
		return
	}
	type row struct {
		ID       string   `json:"id"`
		Name     string   `json:"name"`
		Programs []string `json:"programs"`
	}
	users, err := pgx.CollectRows(rows, pgx.RowToStructByName[row])
	if err != nil {
		a.fail(w, r, err)
		return
	}
	a.answer(w, r, users)
}

// signIn answers with a token for the user that was asked for: the page's stand-in for a login. It may be asked for a token that expires
// soon, to watch the renewal.
func (a *app) signIn(w http.ResponseWriter, r *http.Request) {
	in := struct {
		User    string `json:"user"`
		Seconds int    `json:"seconds"` // until the token expires
	}{Seconds: int(sessionLife / time.Second)}
	if err := decode(w, r, &in); err != nil {
		a.fail(w, r, err)
		return
	}
	if in.Seconds < 1 || in.Seconds > int(sessionLife/time.Second) {
		a.fail(w, r, invalidError(fmt.Sprintf("seconds must be 1 to %d", int(sessionLife/time.Second))))
		return
	}
	user, err := readMember(r.Context(), a.pool, in.User)
	if err != nil {
		a.fail(w, r, err)
		return
	}
	token, err := a.mint(user.ID, time.Duration(in.Seconds)*time.Second)
	if err != nil {
		a.fail(w, r, fmt.Errorf("mint a token for %q: %w", user.ID, err))
		return
	}
	a.sessions.add(token, user.ID)
	a.answer(w, r, map[string]any{"token": token, "user": user})
}
