package outbox

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
)

// Oldest returns the lowest position from which history can be read, 0 if nothing has been deleted yet.
func Oldest(ctx context.Context, db DB) (int64, error) {
	var position int64
	err := db.QueryRow(ctx, `SELECT coalesce((SELECT CASE WHEN after = 0 THEN 0 ELSE position END FROM relay.ticks ORDER BY position LIMIT 1), 0)`).Scan(&position)
	if err != nil {
		return 0, fmt.Errorf("read the oldest tick: %w", err)
	}
	return position, nil
}

// RebaseGap is how far above everything known a new history begins.
const RebaseGap = 10 * time.Second

// Rebase starts a new history after a failover or a restore, with a tick that has no events: its position is above the last tick, what
// Redis had seen, and the clock. After a restore into another cluster the transaction ids of the rows mean nothing any more: rows that had been
// relayed are removed and the others get this transaction's own, as if they were written now. The last tick's rows count as relayed only
// if Redis has seen that tick (seen is Redis' head, 0 if it has none): it may have been committed and not published.
//
// tx must be at REPEATABLE READ or above and must not have written yet.
func Rebase(ctx context.Context, tx pgx.Tx, last Tick, cluster Cluster, seen int64) (Tick, error) {
	t := Tick{After: last.Position, Snapshot: last.Snapshot, AfterSnapshot: last.Snapshot, Cluster: cluster, Replayable: true}
	if cluster.SystemID != last.Cluster.SystemID {
		// Read before this transaction has an id of its own, so that the rows which get that id are beyond the snapshot.
		if err := tx.QueryRow(ctx, "SELECT pg_current_snapshot()::text").Scan(&t.Snapshot); err != nil {
			return Tick{}, fmt.Errorf("read the snapshot: %w", err)
		}
		t.Replayable = false
		relayed := last.Snapshot
		if seen < last.Position && last.Replayable {
			relayed = last.AfterSnapshot
		}
		if err := adopt(ctx, tx, relayed, last.At); err != nil {
			return Tick{}, err
		}
	}
	err := tx.QueryRow(ctx, `INSERT INTO relay.ticks (position, after, base, snapshot, events, at, system_id, timeline, rebased_from)
		SELECT greatest($1::bigint, $2::bigint, (extract(epoch FROM clock_timestamp()) * 1000000)::bigint) + $3::bigint,
		       $1::bigint, $1::bigint, $4::text::pg_snapshot, 0, clock_timestamp(), $5::bigint, $6::bigint, $1::bigint
		RETURNING position, at`,
		last.Position, seen, RebaseGap.Microseconds(), t.Snapshot, cluster.SystemID, cluster.Timeline).Scan(&t.Position, &t.At)
	if err != nil {
		return Tick{}, fmt.Errorf("commit the tick of the new history: %w", err)
	}
	return t, nil
}

// adopt makes the rows of a restored outbox this cluster's own, and forgets the ticks of the old one.
func adopt(ctx context.Context, tx pgx.Tx, relayed string, at time.Time) error {
	_, err := tx.Exec(ctx, "DELETE FROM relay.outbox WHERE pg_visible_in_snapshot(xid, $1::text::pg_snapshot) AND created_at <= $2", relayed, at)
	if err != nil {
		return fmt.Errorf("remove the rows relayed before the restore: %w", err)
	}
	if _, err := tx.Exec(ctx, "UPDATE relay.outbox SET xid = pg_current_xact_id()"); err != nil {
		return fmt.Errorf("adopt the rows that were not relayed: %w", err)
	}
	for _, table := range []string{"ticks", "cuts"} {
		if _, err := tx.Exec(ctx, "DELETE FROM relay."+table); err != nil {
			return fmt.Errorf("forget the %s of the old cluster: %w", table, err)
		}
	}
	return nil
}
