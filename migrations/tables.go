package migrations

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"
)

// needed are the columns that are read from the two tables, or from the application's views in their place.
var needed = map[string][]string{
	"relay.users":           {"id", "first_name", "last_name", "role", "is_active boolean"},
	"relay.program_members": {"user_id", "program_id", "is_active boolean"},
}

// CheckTables returns nil if relay.users and relay.program_members, tables or views, have the columns that are needed with fitting types
// and may be read by the current role; else an error of one line that names all that is wrong.
func CheckTables(ctx context.Context, db interface {
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
},
) error {
	var wrong []string
	for _, table := range []string{"relay.users", "relay.program_members"} {
		list, err := checkTable(ctx, db, table)
		if err != nil {
			return fmt.Errorf("look at %s: %w", table, err)
		}
		wrong = append(wrong, list...)
	}
	if len(wrong) == 0 {
		return nil
	}
	return errors.New(strings.Join(wrong, "; ") + ": see docs/MEMBERSHIP.md")
}

func checkTable(ctx context.Context, db interface {
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
}, table string,
) (wrong []string, err error) {
	rows, err := db.Query(ctx, `SELECT a.attname, t.typcategory::text, t.typname FROM pg_catalog.pg_attribute a JOIN pg_catalog.pg_type t ON t.oid = a.atttypid
		WHERE a.attrelid = pg_catalog.to_regclass($1) AND a.attnum > 0 AND NOT a.attisdropped AND pg_catalog.has_column_privilege(a.attrelid, a.attnum, 'SELECT')`, table)
	if err != nil {
		return nil, err
	}
	category, name := map[string]string{}, map[string]string{}
	var column, kind, typ string
	_, err = pgx.ForEachRow(rows, []any{&column, &kind, &typ}, func() error {
		category[column], name[column] = kind, typ
		return nil
	})
	if err != nil {
		return nil, err
	}
	for _, want := range needed[table] {
		column, boolean := strings.CutSuffix(want, " boolean")
		switch {
		case name[column] == "":
			wrong = append(wrong, fmt.Sprintf("%s has no column %s, or this role may not read it", table, column))
		case boolean && name[column] != "bool":
			wrong = append(wrong, fmt.Sprintf("%s.%s must be boolean, not %s", table, column, name[column]))
		case !boolean && category[column] != "S":
			wrong = append(wrong, fmt.Sprintf("%s.%s must be text, not %s", table, column, name[column]))
		}
	}
	return wrong, nil
}
