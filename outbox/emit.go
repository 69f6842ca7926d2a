package outbox

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"
)

// Querier is the part of pgx.Tx that Emit needs; *pgx.Conn and *pgxpool.Pool have it too, but only a transaction ties the event to
// a change.
type Querier interface {
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
}

// SQLQuerier is the part of *sql.Tx that EmitSQL needs.
type SQLQuerier interface {
	QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error)
}

// maxRows bounds the rows of one INSERT: Postgres takes at most 65,535 parameters in a statement.
const maxRows = 5000

const columns = 7

// Emit writes events in tx, in one round trip for up to 5,000 of them, and returns their ids in the given order. An id is what
// clients see as the event's `id`; it exists only when tx has committed.
//
// An event that can't be emitted is an *InvalidError that names the field, and nothing is written. Any other error is Postgres': as
// with every failed statement tx must be rolled back then, so that a change is never committed without its event.
func Emit(ctx context.Context, tx Querier, events ...Event) ([]int64, error) {
	return emit(events, func(query string, args []any) ([]int64, error) {
		rows, err := tx.Query(ctx, query, args...)
		if err != nil {
			return nil, err
		}
		return pgx.CollectRows(rows, pgx.RowTo[int64])
	})
}

// EmitSQL is Emit for database/sql with any Postgres driver.
func EmitSQL(ctx context.Context, tx SQLQuerier, events ...Event) ([]int64, error) {
	return emit(events, func(query string, args []any) (ids []int64, err error) {
		rows, err := tx.QueryContext(ctx, query, args...)
		if err != nil {
			return nil, err
		}
		defer rows.Close() //nolint:errcheck // rows.Err tells
		for rows.Next() {
			var id int64
			if err := rows.Scan(&id); err != nil {
				return nil, err
			}
			ids = append(ids, id)
		}
		return ids, rows.Err()
	})
}

func emit(events []Event, query func(string, []any) ([]int64, error)) ([]int64, error) {
	args := make([]any, 0, len(events)*columns)
	for i := range events {
		e := &events[i]
		data, err := e.validate()
		if err != nil {
			var invalid *InvalidError
			if errors.As(err, &invalid) {
				invalid.Index = i
			}
			return nil, err
		}
		args = append(args, e.Program, string(e.Name), null(e.Request), data, null(e.By.UserID), null(e.By.Name), null(e.Traceparent))
	}
	ids := make([]int64, 0, len(events))
	for len(args) > 0 {
		n := min(len(args)/columns, maxRows)
		some, err := query(insert(n), args[:n*columns])
		if err != nil {
			return nil, fmt.Errorf("emit %d events: %w", n, err)
		}
		ids = append(ids, some...)
		args = args[n*columns:]
	}
	return ids, nil
}

// insert is the statement for n rows. VALUES are evaluated in order, so ids are in the order of the events.
func insert(n int) string {
	var b strings.Builder
	b.WriteString("INSERT INTO relay.outbox (program_id, event, request_id, data, performed_by_id, performed_by_name, traceparent) VALUES ")
	for i := range n {
		if i > 0 {
			b.WriteByte(',')
		}
		p := i * columns
		fmt.Fprintf(&b, "($%d::text,$%d::text,$%d::text,$%d::json,$%d::text,$%d::text,$%d::text)", p+1, p+2, p+3, p+4, p+5, p+6, p+7)
	}
	b.WriteString(" RETURNING id")
	return b.String()
}

// null turns an absent value into SQL NULL.
func null(s string) any {
	if s == "" {
		return nil
	}
	return s
}
