package migrations_test

import (
	"fmt"
	"testing"

	"github.com/outboxrelay/outboxrelay/internal/testenv"
)

// BenchmarkMembershipTriggers is what a row costs in one statement over many; an operation is one row.
func BenchmarkMembershipTriggers(b *testing.B) {
	for _, c := range []struct{ name, before, sql string }{
		{"add-user", "", "INSERT INTO relay.users (id) SELECT 'u' || n FROM generate_series(1, current_setting('bench.rows')::int) n"},
		{"rename-user", "INSERT INTO relay.users (id) SELECT 'u' || n FROM generate_series(1, current_setting('bench.rows')::int) n", "UPDATE relay.users SET first_name = 'Ann'"},
		{"add-membership", "INSERT INTO relay.users (id) VALUES ('u1')", "INSERT INTO relay.program_members SELECT 'u1', 'p' || n FROM generate_series(1, current_setting('bench.rows')::int) n"},
		{"remove-membership", "INSERT INTO relay.program_members SELECT 'u1', 'p' || n FROM generate_series(1, current_setting('bench.rows')::int) n", "DELETE FROM relay.program_members"},
	} {
		b.Run(c.name, func(b *testing.B) {
			conn := testenv.Conn(b, testenv.Postgres(b))
			exec(b, conn, fmt.Sprintf("SET bench.rows = %d", b.N), c.before)
			b.ResetTimer()
			exec(b, conn, c.sql)
		})
	}
}
