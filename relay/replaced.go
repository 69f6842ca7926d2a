package relay

import (
	"context"
	"fmt"
	"sync"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/outboxrelay/outboxrelay/outbox"
)

// replacements are the stretches of positions that failovers and restores have replaced. They are read again when Redis' head names another
// history than the last time: a relay that begins one sets the head before it appends anything.
type replacements struct {
	mu     sync.Mutex
	of     outbox.Cluster // the history when list was read; zero: never
	resets []outbox.Reset
}

// check returns outbox.ErrReplaced if after lies in such a stretch. bare: there are entries and no head, which may have been lost together
// with what it would tell.
func (r *replacements) check(ctx context.Context, pool *pgxpool.Pool, head string, bare bool, after int64) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if now := headCluster(head); bare || now != (outbox.Cluster{}) && now != r.of {
		list, err := outbox.Resets(ctx, pool)
		if err != nil {
			return err
		}
		r.of, r.resets = now, list
	}
	return outbox.Replaced(r.resets, after)
}

// stillValid is check for an answer of Postgres, which may know of a failover before Redis does.
func stillValid(ctx context.Context, pool *pgxpool.Pool, after int64) error {
	list, err := outbox.Resets(ctx, pool)
	if err != nil {
		return fmt.Errorf("after a deep read: %w", err)
	}
	return outbox.Replaced(list, after)
}
