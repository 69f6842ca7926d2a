package outbox

import (
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
	low uint64 // everything below this xid was deleted in an earlier round, unless its transaction was still open
}

// deleteChunk bounds the rows deleted in one transaction.
const deleteChunk = 5000

// Delete removes what is older than age, in transactions of at most 5,000 rows, and returns how many rows went. A tick goes before its
// rows: from then on older cursors have expired, and no position is ever computed from part of a batch. The newest tick and the one
// before it stay, whatever their age. Writers never wait for it: it takes no lock that an INSERT conflicts with.
func (r *Retention) Delete(ctx context.Context, db DB, age time.Duration) (int64, error) {
	base, err := queries.RetentionBase(ctx, db, pgtype.Interval{Microseconds: age.Microseconds(), Valid: true})
	if errors.Is(err, pgx.ErrNoRows) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("find the oldest tick to keep: %w", err)
	}
	_, err = inChunks("ticks", func() (int64, error) {
		return queries.DeleteTicks(ctx, db, outboxdb.DeleteTicksParams{Base: base.Position, MaxRows: deleteChunk})
	})
	if err != nil {
		return 0, err
	}
	total, err := inChunks("rows", func() (int64, error) {
		return queries.DeleteRows(ctx, db, outboxdb.DeleteRowsParams{Low: r.low, Snapshot: base.Snapshot, MaxRows: deleteChunk})
	})
	if err != nil {
		return total, err
	}
	_, err = inChunks("cuts", func() (int64, error) {
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

// inChunks repeats a deletion of at most deleteChunk rows until it finds fewer, and returns how many there were.
func inChunks(what string, del func() (int64, error)) (total int64, err error) {
	for {
		n, err := del()
		total += n
		if err != nil {
			return total, fmt.Errorf("delete %s: %w", what, err)
		}
		if n < deleteChunk {
			return total, nil
		}
	}
}
