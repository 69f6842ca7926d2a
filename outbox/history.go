package outbox

import (
	"context"
	"errors"
	"fmt"
	"math"

	"github.com/jackc/pgx/v5"

	"github.com/outboxrelay/outboxrelay/outbox/internal/outboxdb"
)

// ErrExpired says that a cursor lies below what the outbox still holds.
var ErrExpired = errors.New("position is below the retention of the outbox")

// Beginner starts transactions: a *pgxpool.Pool or *pgx.Conn.
type Beginner interface {
	BeginTx(ctx context.Context, o pgx.TxOptions) (pgx.Tx, error)
}

// ReadHistory returns at most limit rows of a program with position > after, in the order of the log, and the position through which they
// are complete: nothing else of the program lies in (after, through]. They are fewer if there aren't as many, or if they would have more than
// about maxBytes of data; at least one if there is one. ErrExpired if after lies below what is held. The cost grows with the rows returned and with the
// batches that they lie in, not with those in the table.
func ReadHistory(ctx context.Context, db Beginner, program string, after int64, limit, maxBytes int) (rows []Row, through int64, err error) {
	err = inSnapshot(ctx, db, func(tx pgx.Tx) error {
		base, err := readBase(ctx, tx, after)
		if err != nil {
			return err
		}
		newest, err := NewestTick(ctx, tx)
		if err != nil {
			return err
		}
		p := page{tx: tx, program: program, after: after, before: math.MaxInt64, direction: 1, limit: limit, maxBytes: int64(maxBytes)}
		cursor, lower := after, base.Snapshot
		through = newest.Position
		for len(p.rows) < limit && p.bytes < p.maxBytes && cursor < newest.Position {
			upper, end, err := boundAbove(ctx, tx, program, lower, newest, limit-len(p.rows))
			if err != nil {
				return err
			}
			all, err := p.read(ctx, lower, upper)
			if err != nil {
				return err
			}
			if !all {
				through = p.rows[len(p.rows)-1].Position
				break
			}
			cursor, lower, through = end, upper, end
		}
		rows = p.rows
		return nil
	})
	return rows, max(through, after), err
}

// ReadHistoryBefore returns at most limit rows of a program with after < position < before, the newest of them, in descending order. They
// are fewer if there aren't as many, or if they would have more than about maxBytes of data; at least one if there is one. ErrExpired if after lies
// below what is held.
func ReadHistoryBefore(ctx context.Context, db Beginner, program string, before, after int64, limit, maxBytes int) (rows []Row, err error) {
	err = inSnapshot(ctx, db, func(tx pgx.Tx) error {
		base, err := readBase(ctx, tx, after)
		if err != nil {
			return err
		}
		upper, err := queries.Upper(ctx, tx, before-1)
		if errors.Is(err, pgx.ErrNoRows) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("find the tick of position %d: %w", before-1, err)
		}
		p := page{tx: tx, program: program, after: after, before: before, direction: -1, limit: limit, maxBytes: int64(maxBytes)}
		for top := upper; len(p.rows) < limit && p.bytes < p.maxBytes; {
			bottom, done, err := boundBelow(ctx, tx, program, base.Snapshot, top, limit-len(p.rows))
			if err != nil {
				return err
			}
			all, err := p.read(ctx, bottom, top)
			if err != nil {
				return err
			}
			if done || !all {
				break
			}
			top = bottom
		}
		rows = p.rows
		return nil
	})
	return rows, err
}

// inSnapshot runs several reads in one snapshot, so that retention can't take rows away between them. The tables are locked before there is one: to a
// snapshot from before an ALTER TABLE that writes them anew they are empty.
func inSnapshot(ctx context.Context, db Beginner, read func(pgx.Tx) error) error {
	return pgx.BeginTxFunc(ctx, db, pgx.TxOptions{
		BeginQuery: "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; LOCK TABLE relay.outbox, relay.ticks IN ACCESS SHARE MODE",
	}, read)
}

func readBase(ctx context.Context, tx pgx.Tx, after int64) (outboxdb.BaseRow, error) {
	base, err := queries.Base(ctx, tx, after)
	if err != nil {
		return base, fmt.Errorf("find the tick below position %d: %w", after, err)
	}
	if base.Expired {
		return base, ErrExpired
	}
	return base, nil
}

// boundAbove finds the tick up to which about limit rows above lower lie: the limit-th smallest among the ticks of the first rows by
// xid. The order by xid is only a guide (a late transaction has a small xid and a late tick): whichever tick comes out, all rows up to
// it are read.
func boundAbove(ctx context.Context, tx pgx.Tx, program, lower string, newest Tick, limit int) (snapshot string, position int64, err error) {
	ticks, err := queries.OldestRows(ctx, tx, outboxdb.OldestRowsParams{
		Program: program, Lower: lower, Upper: newest.Snapshot, MaxRows: int32(2 * limit),
	})
	if err != nil {
		return "", 0, fmt.Errorf("find the ticks of program %q: %w", program, err)
	}
	if len(ticks) < 2*limit {
		return newest.Snapshot, newest.Position, nil
	}
	t := ticks[limit-1]
	return t.Snapshot, t.Position, nil
}

// boundBelow is boundAbove from the other end: the snapshot above which about limit rows lie. done says that it is lower itself.
func boundBelow(ctx context.Context, tx pgx.Tx, program, lower, upper string, limit int) (snapshot string, done bool, err error) {
	snapshots, err := queries.NewestRows(ctx, tx, outboxdb.NewestRowsParams{
		Program: program, Lower: lower, Upper: upper, MaxRows: int32(2 * limit),
	})
	if err != nil {
		return "", false, fmt.Errorf("find the ticks of program %q: %w", program, err)
	}
	if len(snapshots) < 2*limit {
		return lower, true, nil
	}
	return snapshots[limit-1], false, nil
}

// page collects the rows of one answer.
type page struct {
	tx            pgx.Tx
	program       string
	after, before int64 // both exclusive
	direction     int64 // 1: ascending, -1: descending
	limit         int
	maxBytes      int64

	rows  []Row
	bytes int64 // of their data
}

// read adds the rows between two snapshots, and reports whether these are all there are.
func (p *page) read(ctx context.Context, lower, upper string) (all bool, err error) {
	found, err := queries.ProgramRows(ctx, p.tx, outboxdb.ProgramRowsParams{
		Program: p.program, Lower: lower, Upper: upper, After: p.after, Before: p.before, Direction: p.direction,
		MaxRows: int32(p.limit - len(p.rows)), MaxBytes: p.maxBytes - p.bytes,
	})
	if err != nil {
		return false, fmt.Errorf("read history of program %q: %w", p.program, err)
	}
	for _, r := range found {
		p.bytes += int64(len(r.Data))
		p.rows = append(p.rows, Row{
			Position: r.Position, TickThrough: r.Tick, ID: r.ID, Program: r.ProgramID, Event: r.Event, Request: r.RequestID, Data: r.Data,
			ByID: r.PerformedByID, ByName: r.PerformedByName, CreatedAt: r.CreatedAt.Time, Control: r.Control,
		})
	}
	return len(found) == 0 || int64(len(found)) == found[0].Total, nil
}
