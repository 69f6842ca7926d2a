package relay

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/redis/go-redis/v9"

	"github.com/outboxrelay/outboxrelay/outbox"
)

//go:embed erase.lua
var eraseSource string

var eraseScript = redis.NewScript(eraseSource)

const (
	eraseWait = 250 * time.Millisecond // between looks at whether the event has been published
	eraseLook = time.Second            // the log is looked at again after this long: a refill that had read the old bytes may have been under way
)

// ErrUnpublished says that an event is blank in Postgres, and that a relay which may have read it before hasn't published it yet.
var ErrUnpublished = errors.New("the event is blank in Postgres, but not yet published: run this again once a relay leads and Redis can be written")

// Erase blanks the data of one event, for legal reasons, in Postgres and then in Redis, at the position that it has. Nodes forget their buffers
// and read again; clients that have got the event keep it. An event that hasn't been published yet is waited for until ctx ends, then
// ErrUnpublished. Erase may be repeated.
func Erase(ctx context.Context, pool *pgxpool.Pool, db redis.UniversalClient, id int64) (position int64, err error) {
	if err := outbox.Erase(ctx, pool, id); err != nil {
		return 0, err
	}
	row, err := published(ctx, pool, db, id)
	if err != nil {
		return 0, err
	}
	frame := appendEntry(nil, &row)
	for look := range 2 {
		if look > 0 && !sleep(ctx, eraseLook) {
			return 0, ctx.Err()
		}
		if err := eraseScript.Eval(ctx, db, []string{keyPrefix + row.Program}, row.Position, frame).Err(); err != nil {
			return 0, fmt.Errorf("event %d is blank in Postgres, and not in Redis: run this again: %w", id, err)
		}
		if err := tellNodes(ctx, db, row.Position); err != nil {
			return 0, fmt.Errorf("event %d is blank, and nodes may have it in memory: run this again: %w", id, err)
		}
	}
	return row.Position, nil
}

// published waits until the event is in Redis as far as the relay is concerned: nobody is on the way with what it was.
func published(ctx context.Context, pool *pgxpool.Pool, db redis.UniversalClient, id int64) (outbox.Row, error) {
	for {
		row, err := outbox.ReadEvent(ctx, pool, id)
		if err == nil {
			var head int64
			if _, head, err = readHead(ctx, db); err == nil && head >= row.TickThrough {
				return row, nil
			}
		}
		if errors.Is(err, outbox.ErrNoEvent) {
			return row, err
		}
		if !sleep(ctx, eraseWait) {
			return row, fmt.Errorf("event %d: %w", id, errors.Join(ErrUnpublished, err))
		}
	}
}
