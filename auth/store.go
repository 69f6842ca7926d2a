package auth

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/outboxrelay/outboxrelay/auth/internal/authdb"
)

// Store reads users and their memberships from Postgres. It may be used by several goroutines at once: those who ask at the same time share
// statements, of which at most 4 of each kind are under way.
type Store struct {
	pool        *pgxpool.Pool
	queries     *authdb.Queries
	memberships gather[string, Membership]
	changes     gather[span, []Change]
}

// span is a piece of the log, from the point of view of a user.
type span struct {
	user           string
	after, through int64
}

// ReadError says that what a Store was asked about a user couldn't be read. Its text doesn't name the user.
type ReadError struct {
	UserID string
	OfRows bool // Postgres works and refused: it may be for what the application's tables or views hold of this user alone
	what   string
	err    error
}

// Error implements error.
func (e *ReadError) Error() string { return fmt.Sprintf("read the %s: %v", e.what, e.err) }

// Unwrap returns the cause.
func (e *ReadError) Unwrap() error { return e.err }

// ofRowsClasses are the classes of SQLSTATE of what a view or its functions may raise for single rows: too many of them, bad data, limits of the
// program, external routines, PL/pgSQL, damaged rows.
var ofRowsClasses = []string{"21", "22", "54", "2F", "38", "39", "P0", "XX"}

func ofRows(err error) bool {
	var refused *pgconn.PgError
	if errors.As(err, &refused) {
		return refused.Code == "57014" /* statement_timeout */ || len(refused.Code) == 5 && slices.Contains(ofRowsClasses, refused.Code[:2])
	}
	return errors.Is(err, errRows)
}

// NewStore returns a Store over pool, which the caller closes.
func NewStore(pool *pgxpool.Pool) *Store {
	s := &Store{pool: pool, queries: authdb.New()}
	s.memberships.read, s.changes.read = s.readMemberships, s.readChanges
	return s
}

// Membership reads what the database says of a user. A user who doesn't exist is no error: Found is false. An error means that
// nothing is known, and is a *ReadError.
func (s *Store) Membership(ctx context.Context, userID string) (Membership, error) {
	m, err := s.memberships.ask(ctx, userID)
	if err != nil {
		return Membership{}, &ReadError{UserID: userID, OfRows: ofRows(err), what: "memberships", err: err}
	}
	return m, nil
}

func (s *Store) readMemberships(ctx context.Context, users []string) ([]Membership, error) {
	rows, err := s.queries.Memberships(ctx, s.pool, users)
	if err != nil {
		return nil, err
	}
	if len(rows) != len(users) { // a view with several rows for a user
		return nil, fmt.Errorf("%w: %d rows for %d ids", errRows, len(rows), len(users))
	}
	list := make([]Membership, len(rows))
	for i, row := range rows {
		m := Membership{
			UserID: users[i], Found: row.Found, Active: row.Active, Role: row.Role, Name: row.Name, Programs: row.Programs,
			Position: row.Position, Oldest: row.Oldest,
		}
		for k := range row.ResetAfter {
			m.Resets = append(m.Resets, Reset{After: row.ResetAfter[k], Before: row.ResetBefore[k]})
		}
		list[i] = m
	}
	return list, nil
}

// Changes returns what the batches with after < position <= through did to a user's memberships, ascending. Through must be at
// most a Membership's Position: what lies below doesn't change any more. An error is a *ReadError.
func (s *Store) Changes(ctx context.Context, userID string, after, through int64) ([]Change, error) {
	changes, err := s.changes.ask(ctx, span{userID, after, through})
	if err != nil {
		return nil, &ReadError{UserID: userID, OfRows: ofRows(err), what: "membership changes", err: err}
	}
	return changes, nil
}

func (s *Store) readChanges(ctx context.Context, spans []span) ([][]Change, error) {
	var p authdb.ChangesParams
	for _, one := range spans {
		p.UserIds, p.Afters, p.Throughs = append(p.UserIds, one.user), append(p.Afters, one.after), append(p.Throughs, one.through)
	}
	rows, err := s.queries.Changes(ctx, s.pool, p)
	if err != nil {
		return nil, err
	}
	list := make([][]Change, len(spans))
	for i := range list {
		list[i] = []Change{}
	}
	for _, r := range rows {
		list[r.N-1] = append(list[r.N-1], Change{
			Program: r.ProgramID, After: r.After, Through: r.Through, ID: r.ID, First: r.FirstIn, Last: r.LastIn, Lost: r.AnyOut,
		})
	}
	return list, nil
}
