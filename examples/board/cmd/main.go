// The example as an application of its own, beside an `outbox-relay serve` (RELAY_URL) on the same DATABASE_URL and JWT_ACCESS_SECRET.
package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/outboxrelay/outboxrelay/auth"
	"github.com/outboxrelay/outboxrelay/examples/board"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Getenv); err != nil {
		fmt.Fprintln(os.Stderr, "board:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, getenv func(string) string) error {
	relay, err := url.Parse(cmp.Or(getenv("RELAY_URL"), "http://127.0.0.1:8080"))
	if err != nil {
		return fmt.Errorf("parse RELAY_URL: %w", err)
	}
	pool, err := pgxpool.New(ctx, getenv("DATABASE_URL"))
	if err != nil {
		return fmt.Errorf("parse DATABASE_URL: %w", err)
	}
	defer pool.Close()
	if err := board.Setup(ctx, pool); err != nil {
		return err
	}
	mint := func(user string, ttl time.Duration) (string, error) {
		return auth.Mint([]byte(getenv("JWT_ACCESS_SECRET")), user, ttl)
	}
	mux := http.NewServeMux()
	mux.Handle("/", board.Handler(board.Config{Pool: pool, Mint: mint, Logger: slog.Default()}))
	mux.Handle("/ws", &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(relay); r.Out.Host = r.In.Host }})
	server := &http.Server{Addr: cmp.Or(getenv("LISTEN_ADDR"), "127.0.0.1:8081"), Handler: mux, ReadHeaderTimeout: 10 * time.Second}
	defer context.AfterFunc(ctx, func() { _ = server.Close() })()
	fmt.Println("http://" + server.Addr)
	if err := server.ListenAndServe(); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("listen %q: %w", server.Addr, err)
	}
	return nil
}
