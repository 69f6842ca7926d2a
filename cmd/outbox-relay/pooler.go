package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/outboxrelay/outboxrelay/relay"
)

// errPooler names what to change: the relay's locks and its LISTEN live in one session.
var errPooler = errors.New("DATABASE_URL goes through a pooler in transaction mode, where LISTEN and session locks land on somebody else's backend: " +
	"set DATABASE_URL of the relay role to the server itself or to a session-mode pool")

// refusePooler returns errPooler if one connection doesn't keep its backend while another one holds a transaction open.
func refusePooler(ctx context.Context, databaseURL string) error {
	ctx, cancel := context.WithTimeout(ctx, 2*connectTimeout)
	defer cancel()
	c, err := relay.ConnConfig(databaseURL)
	if err != nil {
		return fmt.Errorf("DATABASE_URL: %w", errUnreadable)
	}
	c.DefaultQueryExecMode = pgx.QueryExecModeSimpleProtocol // a pooler may not know prepared statements
	first, err := pgx.ConnectConfig(ctx, c)
	if err != nil {
		return fmt.Errorf("connect to DATABASE_URL: %w", err)
	}
	defer first.Close(context.WithoutCancel(ctx))
	second, err := pgx.ConnectConfig(ctx, c)
	if err != nil {
		return fmt.Errorf("connect to DATABASE_URL: %w", err)
	}
	defer second.Close(context.WithoutCancel(ctx))
	var before, after int
	if before, err = backend(ctx, first); err != nil {
		return err
	}
	tx, err := second.Begin(ctx)
	if err != nil {
		return fmt.Errorf("begin a transaction: %w", err)
	}
	defer tx.Rollback(context.WithoutCancel(ctx)) //nolint:errcheck // it has done nothing
	if _, err = backend(ctx, second); err != nil {
		return err
	}
	short, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	if after, err = backend(short, first); err != nil {
		if short.Err() != nil && ctx.Err() == nil { // the transaction took the pool's only backend
			return errPooler
		}
		return err
	}
	if before != after {
		return errPooler
	}
	return nil
}

func backend(ctx context.Context, conn *pgx.Conn) (pid int, err error) {
	if err := conn.QueryRow(ctx, "SELECT pg_backend_pid()").Scan(&pid); err != nil {
		return 0, fmt.Errorf("ask Postgres for its backend: %w", err)
	}
	return pid, nil
}
