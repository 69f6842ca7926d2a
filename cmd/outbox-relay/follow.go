package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/redis/go-redis/v9"
	"golang.org/x/sync/errgroup"

	"github.com/outboxrelay/outboxrelay/outbox"
	"github.com/outboxrelay/outboxrelay/relay"
	"github.com/outboxrelay/outboxrelay/ws"
)

const (
	followPage = 256
	followPoll = 5 * time.Second // a message on the program's channel may be lost
)

// follow prints a program's log as it grows, from Redis and Postgres and without a server: every event, whoever may see it.
func (t *tailer) follow(ctx context.Context, pool *pgxpool.Pool, client redis.UniversalClient) error {
	since, asked := t.since["*"]
	cursor := digits(since)
	newest, err := outbox.NewestTick(ctx, pool)
	if err != nil {
		return err
	}
	if cursor > newest.Position {
		fmt.Fprintf(t.stderr, "tail: %d is beyond the newest position, %d: beginning there\n", cursor, newest.Position)
	}
	if !asked || cursor > newest.Position {
		cursor = newest.Position
	}
	h := relay.NewHistory(relay.HistoryConfig{Redis: client, Pool: pool, Logger: slog.New(slog.DiscardHandler)})
	if err := h.Subscribe(ctx, ws.ProgramTopic(t.only)); err != nil {
		return err
	}
	fmt.Fprintf(t.stderr, "tail: the log of program %q behind %d\n", t.only, cursor)
	woken := make(chan struct{}, 1)
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error {
		return h.Watch(ctx, func(string, relay.News) {
			select {
			case woken <- struct{}{}:
			default:
			}
		})
	})
	group.Go(func() error {
		t.printAll(ctx, h, pool, cursor, woken)
		return nil
	})
	return group.Wait()
}

// printAll prints what lies behind cursor until ctx ends. It looks again when woken.
func (t *tailer) printAll(ctx context.Context, h *relay.History, db outbox.DB, cursor int64, woken <-chan struct{}) {
	for delay := firstRetry; ctx.Err() == nil; {
		through, more, err := t.print(ctx, h, cursor)
		if errors.Is(err, outbox.ErrExpired) {
			if through, err = outbox.Oldest(ctx, db); err == nil && through > cursor {
				fmt.Fprintf(t.stderr, "tail: what lies between %d and %d has been deleted\n", cursor, through+1)
				more = true
			}
		}
		if err != nil && ctx.Err() == nil {
			fmt.Fprintf(t.stderr, "tail: %s; trying again\n", oneLine(err.Error()))
			pause(ctx, delay)
			delay = min(2*delay, lastRetry)
			continue
		}
		cursor, delay = max(cursor, through), firstRetry
		if more {
			continue
		}
		select {
		case <-woken:
		case <-time.After(followPoll):
		case <-ctx.Done():
		}
	}
}

// print prints the events of a page, and returns where the next one begins.
func (t *tailer) print(ctx context.Context, h *relay.History, cursor int64) (through int64, more bool, err error) {
	page, err := h.After(ctx, t.only, cursor, followPage)
	if err != nil {
		return cursor, false, err
	}
	for _, e := range page.Entries {
		if e.Control != nil {
			continue
		}
		if err := t.line(e.Frame); err != nil {
			return cursor, false, err
		}
	}
	return page.Through, page.More, nil
}
