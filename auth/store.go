package auth

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/outboxrelay/outboxrelay/auth/internal/authdb"
)

// Store reads users and their memberships from Postgres. It may be used by several goroutines at once.
type Store struct {
	pool    *pgxpool.Pool
	queries *authdb.Queries
}

// NewStore returns a Store over pool, which the caller closes.
func NewStore(pool *pgxpool.Pool) *Store { return &Store{pool: pool, queries: authdb.New()} }

// Membership reads what the database says of a user. A user who doesn't exist is no error: Found is false. An error means that
// nothing is known.
func (s *Store) Membership(ctx context.Context, userID string) (Membership, error) {
	row, err := s.queries.Membership(ctx, s.pool, userID)
	if err != nil {
		return Membership{}, fmt.Errorf("read the memberships of %q: %w", userID, err)
	}
	m := Membership{
		UserID: userID, Found: row.Found, Active: row.Active, Role: row.Role, Name: row.Name, Programs: row.Programs,
		Position: row.Position, Oldest: row.Oldest, Now: row.Now.Time,
	}
	for i := range row.ResetAfter {
		m.Resets = append(m.Resets, Reset{After: row.ResetAfter[i], Before: row.ResetBefore[i]})
	}
	return m, nil
}

// Changes returns what the batches with after < position <= through did to a user's memberships, ascending. Through must be at
// most a Membership's Position: what lies below doesn't change any more.
func (s *Store) Changes(ctx context.Context, userID string, after, through int64) ([]Change, error) {
	rows, err := s.queries.Changes(ctx, s.pool, authdb.ChangesParams{UserID: userID, After: after, Through: through})
	if err != nil {
		return nil, fmt.Errorf("read the membership changes of %q: %w", userID, err)
	}
	changes := make([]Change, len(rows))
	for i, r := range rows {
		changes[i] = Change{Program: r.ProgramID, After: r.After, Through: r.Through, ID: r.ID, First: r.FirstIn, Last: r.LastIn, Lost: r.AnyOut}
	}
	return changes, nil
}
