package auth

import (
	"context"
	"fmt"

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

// NewStore returns a Store over pool, which the caller closes.
func NewStore(pool *pgxpool.Pool) *Store {
	s := &Store{pool: pool, queries: authdb.New()}
	s.memberships.read, s.changes.read = s.readMemberships, s.readChanges
	return s
}

// Membership reads what the database says of a user. A user who doesn't exist is no error: Found is false. An error means that
// nothing is known.
func (s *Store) Membership(ctx context.Context, userID string) (Membership, error) {
	m, err := s.memberships.ask(ctx, userID)
	if err != nil {
		return Membership{}, fmt.Errorf("read the memberships of %q: %w", userID, err)
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
			Position: row.Position, Oldest: row.Oldest, Now: row.Now.Time,
		}
		for k := range row.ResetAfter {
			m.Resets = append(m.Resets, Reset{After: row.ResetAfter[k], Before: row.ResetBefore[k]})
		}
		list[i] = m
	}
	return list, nil
}

// Changes returns what the batches with after < position <= through did to a user's memberships, ascending. Through must be at
// most a Membership's Position: what lies below doesn't change any more.
func (s *Store) Changes(ctx context.Context, userID string, after, through int64) ([]Change, error) {
	changes, err := s.changes.ask(ctx, span{userID, after, through})
	if err != nil {
		return nil, fmt.Errorf("read the membership changes of %q: %w", userID, err)
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
