// Package migrations holds the schema of outbox-relay as plain SQL files for goose, and applies them.
//
// The same files work with the goose command:
//
//	goose -dir migrations postgres "$DATABASE_URL" up
package migrations

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/pressly/goose/v3"
	"github.com/pressly/goose/v3/lock"
)

// FS holds the migrations, named NNNNN_subject.sql.
//
//go:embed *.sql
var FS embed.FS

// Version is the schema version that this build works with: the number of the last migration, which
// relay.schema_version() returns in the database.
const Version = 4

// Status is one migration and whether it has been applied.
type Status struct {
	Version int64
	Name    string
	Applied bool
}

// Up applies what is missing to the database at url. Concurrent calls wait for each other (a session-level advisory lock).
func Up(ctx context.Context, url string) error {
	return with(url, func(p *goose.Provider) error {
		_, err := p.Up(ctx)
		return explain(err)
	})
}

// Down takes back the newest migration. It deletes data; the command line doesn't offer it.
func Down(ctx context.Context, url string) error {
	return with(url, func(p *goose.Provider) error {
		_, err := p.Down(ctx)
		return explain(err)
	})
}

// List returns all migrations in ascending order.
func List(ctx context.Context, url string) ([]Status, error) {
	var list []Status
	err := with(url, func(p *goose.Provider) error {
		all, err := p.Status(ctx)
		for _, s := range all {
			list = append(list, Status{Version: s.Source.Version, Name: s.Source.Path, Applied: s.State == goose.StateApplied})
		}
		return err
	})
	return list, err
}

// ErrNotMigrated says that the database has no schema "relay" yet.
var ErrNotMigrated = errors.New("the schema relay is missing: run `outbox-relay migrate up`")

// Check reads the database's schema version and returns nil if this build can work with it, else an error that says what to do:
// ErrNotMigrated, or one that names both versions.
func Check(ctx context.Context, db interface {
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
},
) error {
	var v int
	err := db.QueryRow(ctx, "SELECT relay.schema_version()").Scan(&v)
	var pe *pgconn.PgError
	switch {
	case errors.As(err, &pe) && (pe.Code == "3F000" || pe.Code == "42883"): // invalid_schema_name, undefined_function
		return ErrNotMigrated
	case err != nil:
		return fmt.Errorf("read the schema version: %w", err)
	case v < Version:
		return fmt.Errorf("the schema relay has version %d, this build needs %d: run `outbox-relay migrate up`", v, Version)
	case v > Version:
		return fmt.Errorf("the schema relay has version %d, this build knows %d: run a newer outbox-relay", v, Version)
	}
	return nil
}

func with(url string, use func(*goose.Provider) error) error {
	pool, err := pgxpool.ParseConfig(url) // what a URL says of a pool isn't for the server
	if err != nil {
		return fmt.Errorf("open database: %w", err)
	}
	db := stdlib.OpenDB(*pool.ConnConfig)
	defer db.Close() //nolint:errcheck // nothing is open on it any more
	locker, err := lock.NewPostgresSessionLocker()
	if err != nil {
		return fmt.Errorf("create migration lock: %w", err)
	}
	p, err := goose.NewProvider(goose.DialectPostgres, db, FS, goose.WithSessionLocker(locker))
	if err != nil {
		return fmt.Errorf("read migrations: %w", err)
	}
	return use(p)
}

// explain puts the hint of a Postgres error, which says what to do, into the error's one line.
func explain(err error) error {
	var pe *pgconn.PgError
	if errors.As(err, &pe) && pe.Hint != "" {
		return fmt.Errorf("%w (%s)", err, strings.TrimSpace(pe.Hint))
	}
	return err
}
