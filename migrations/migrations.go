// Package migrations holds the schema of outbox-relay as plain SQL files for goose, and applies them.
//
// The same files work with the goose command:
//
//	goose -dir migrations postgres "$DATABASE_URL" up
//
// which keeps its versions in the first schema of the login's search_path; Up always takes public.
package migrations

import (
	"context"
	"database/sql"
	"embed"
	"errors"
	"fmt"
	"slices"
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
	return with(url, func(p *goose.Provider, db *sql.DB) error {
		if _, err := status(ctx, p, db); err != nil {
			return err
		}
		_, err := p.Up(ctx)
		return explain(err)
	})
}

// Down takes back the newest migration. It deletes data; the command line doesn't offer it.
func Down(ctx context.Context, url string) error {
	return with(url, func(p *goose.Provider, _ *sql.DB) error {
		_, err := p.Down(ctx)
		return explain(err)
	})
}

// List returns all migrations in ascending order.
func List(ctx context.Context, url string) ([]Status, error) {
	var list []Status
	err := with(url, func(p *goose.Provider, db *sql.DB) error {
		all, err := status(ctx, p, db)
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

// versions is goose's table, which is made if it isn't there. With its schema, for that of the login's name may come first in the search_path.
const versions = "public.goose_db_version"

var errForeign = errors.New("the table " + versions + " says that migrations have been applied, and the schema relay isn't there: " +
	"if the table belongs to other migrations of this database, apply these with `goose -table public.relay_db_version -dir migrations postgres \"$DATABASE_URL\" up`; " +
	"if the schema was dropped, drop the table too")

// status is goose's, and an error if it can't be that of our migrations.
func status(ctx context.Context, p *goose.Provider, db *sql.DB) ([]*goose.MigrationStatus, error) {
	all, err := p.Status(ctx)
	if err != nil {
		return nil, explain(err)
	}
	if !slices.ContainsFunc(all, func(s *goose.MigrationStatus) bool { return s.State == goose.StateApplied }) {
		return all, nil
	}
	var there bool
	if err := db.QueryRowContext(ctx, "SELECT to_regnamespace('relay') IS NOT NULL").Scan(&there); err != nil {
		return nil, fmt.Errorf("look for the schema relay: %w", err)
	}
	if !there {
		return nil, errForeign
	}
	return all, nil
}

func with(url string, use func(*goose.Provider, *sql.DB) error) error {
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
	p, err := goose.NewProvider(goose.DialectPostgres, db, FS, goose.WithSessionLocker(locker), goose.WithTableName(versions))
	if err != nil {
		return fmt.Errorf("read migrations: %w", err)
	}
	return use(p, db)
}

// explain puts what to do, which is the hint of a Postgres error if it has one, into the error's one line.
func explain(err error) error {
	var pe *pgconn.PgError
	switch {
	case !errors.As(err, &pe):
	case pe.Hint != "":
		return fmt.Errorf("%w (%s)", err, strings.TrimSpace(pe.Hint))
	case pe.Code == "42501": // insufficient_privilege
		return fmt.Errorf("%w: do it as a superuser, or with the rights that docs/SECURITY.md names", err)
	}
	return err
}
