package relay_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/outboxrelay/outboxrelay/internal/testenv"
	"github.com/outboxrelay/outboxrelay/relay"
)

// A statement without a deadline (the tick of a large batch, a chunk of it, retention) waited a quarter of an hour for a server whose packets were
// no longer delivered, and a LISTEN that nobody pinged for two minutes.
func TestAConnectionWhosePacketsAreLostFails(t *testing.T) {
	t.Parallel()
	url := testenv.Postgres(t)
	for name, wait := range map[string]func(context.Context, *pgx.Conn) error{
		"what is sent": func(ctx context.Context, conn *pgx.Conn) error {
			_, err := conn.Exec(ctx, "SELECT 1")
			return err
		},
		"what is waited for": func(ctx context.Context, conn *pgx.Conn) error {
			_, err := conn.WaitForNotification(ctx)
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			config, err := pgx.ParseConfig(url)
			if err != nil {
				t.Fatal(err)
			}
			proxy := testenv.Proxy(t, fmt.Sprintf("%s:%d", config.Host, config.Port))
			if config, err = pgx.ParseConfig(proxy.URL(url)); err != nil {
				t.Fatal(err)
			}
			config.DialFunc = relay.Dial
			conn, err := pgx.ConnectConfig(t.Context(), config)
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = conn.Close(testenv.Context(t, time.Second)) }()
			if err := proxy.Drop(); err != nil {
				t.Fatal(err)
			}
			began := time.Now()
			ctx := testenv.Context(t, 30*time.Second)
			err = wait(ctx, conn)
			if took := time.Since(began); err == nil || ctx.Err() != nil || took > 15*time.Second {
				t.Errorf("%v after %v, want an error of the connection within 12 s", err, took)
			}
		})
	}
}
