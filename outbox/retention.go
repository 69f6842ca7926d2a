package outbox

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/outboxrelay/outboxrelay/outbox/internal/outboxdb"
)

// Retention deletes whole batches whose tick is older than a time. It keeps the one piece of state that makes its next round cheap;
// the zero value is ready for use. Not for concurrent use.
type Retention struct {
	Patience time.Duration // for one statement; default 2 min

	low uint64 // everything below this xid was deleted in an earlier round, unless its transaction was still open
}

// deleteChunk bounds the rows deleted in one transaction.
const deleteChunk = 5000

// Delete removes what is older than age, in transactions of at most 5,000 rows, and returns how many rows went. A tick goes before its
// rows: from then on older cursors have expired, and no position is ever computed from part of a batch. The newest tick stays, whatever its age,
// with those that were committed together with it and the one before. Writers never wait for it: it takes no lock that an INSERT conflicts with.
func (r *Retention) Delete(ctx context.Context, db DB, age time.Duration) (int64, error) {
	base, err := r.base(ctx, db, age)
	if errors.Is(err, pgx.ErrNoRows) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("find the oldest tick to keep: %w", err)
	}
	_, err = r.inChunks(ctx, "ticks", func(ctx context.Context) (int64, error) {
		return queries.DeleteTicks(ctx, db, outboxdb.DeleteTicksParams{Base: base.Position, MaxRows: deleteChunk})
	})
	if err != nil {
		return 0, err
	}
	total, err := r.inChunks(ctx, "rows", func(ctx context.Context) (int64, error) {
		return queries.DeleteRows(ctx, db, outboxdb.DeleteRowsParams{Low: r.low, Snapshot: base.Snapshot, MaxRows: deleteChunk})
	})
	if err != nil {
		return total, err
	}
	_, err = r.inChunks(ctx, "cuts", func(ctx context.Context) (int64, error) {
		return queries.DeleteCuts(ctx, db, outboxdb.DeleteCutsParams{Low: r.low, Snapshot: base.Snapshot, MaxRows: deleteChunk})
	})
	if err != nil {
		return total, err
	}
	xmin, _, _ := strings.Cut(base.Snapshot, ":")
	if low, err := strconv.ParseUint(xmin, 10, 64); err == nil {
		r.low = low
	}
	return total, nil
}

func (r *Retention) base(ctx context.Context, db DB, age time.Duration) (outboxdb.RetentionBaseRow, error) {
	ctx, cancel := r.limited(ctx)
	defer cancel()
	return queries.RetentionBase(ctx, db, pgtype.Interval{Microseconds: age.Microseconds(), Valid: true})
}

func (r *Retention) limited(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(ctx, cmp.Or(r.Patience, 2*time.Minute))
}

// inChunks repeats a deletion of at most deleteChunk rows until it finds fewer, and returns how many there were.
func (r *Retention) inChunks(ctx context.Context, what string, del func(context.Context) (int64, error)) (total int64, err error) {
	one := func() (int64, error) {
		ctx, cancel := r.limited(ctx)
		defer cancel()
		return del(ctx)
	}
	for {
		n, err := one()
		total += n
		if err != nil {
			return total, fmt.Errorf("delete %s: %w", what, err)
		}
		if n < deleteChunk {
			return total, nil
		}
	}
}
