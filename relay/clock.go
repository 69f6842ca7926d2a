package relay

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
)

const clockEvery = time.Minute

// clock is the database's clock: read now and then by run, carried on by the monotonic clock in between, and for as long as Postgres can't be asked.
type clock struct {
	every time.Duration // immutable
	last  atomic.Pointer[reading]
}

type reading struct {
	at   time.Time // the database's …
	read time.Time // … when it was read
}

// position returns the database's time as a position. Only the first time it asks, if run hasn't: a frozen Postgres keeps nobody from
// reading what is in Redis.
func (c *clock) position(ctx context.Context, pool *pgxpool.Pool) (int64, error) {
	last := c.last.Load()
	if last == nil {
		var err error
		if last, err = c.ask(ctx, pool); err != nil {
			return 0, err
		}
	}
	return last.at.Add(time.Since(last.read)).UnixMicro(), nil
}

func (c *clock) ask(ctx context.Context, pool *pgxpool.Pool) (*reading, error) {
	var at time.Time
	if err := pool.QueryRow(ctx, "SELECT clock_timestamp()").Scan(&at); err != nil {
		return nil, fmt.Errorf("read the database's clock: %w", err)
	}
	last := &reading{at, time.Now()}
	c.last.Store(last)
	return last, nil
}

// run reads the clock anew until ctx ends. A failure is no news: others who ask Postgres tell of it.
func (c *clock) run(ctx context.Context, pool *pgxpool.Pool) {
	for {
		wait := c.every
		attempt, cancel := context.WithTimeout(ctx, pingTimeout)
		if _, err := c.ask(attempt, pool); err != nil {
			wait = min(c.every, lastRetry)
		}
		cancel()
		if !sleep(ctx, wait) {
			return
		}
	}
}
