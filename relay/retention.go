package relay

import (
	"context"
	"time"

	"github.com/outboxrelay/outboxrelay/outbox"
)

const (
	longestRound      = time.Minute
	retentionPatience = 4 // times that of other statements: nobody waits for retention
)

// retain deletes expired batches until ctx ends, each round on a connection of its own: the leader's session is never kept waiting, and
// a failure here (it is logged, counted, and tried again) doesn't disturb the relay.
func (r *Relay) retain(ctx context.Context) error {
	every := min(longestRound, max(time.Second, r.config.Retention/20))
	retention := outbox.Retention{Patience: retentionPatience * r.patience}
	for sleep(ctx, every) {
		deleted, err := r.retainOnce(ctx, &retention)
		r.metrics.retentionRows.Add(float64(deleted))
		if err != nil && ctx.Err() == nil {
			r.metrics.retentionFailures.Inc()
			r.config.Logger.Warn("relay: retention failed; it is tried again", "in", every, "error", err)
		}
	}
	return ctx.Err()
}

func (r *Relay) retainOnce(ctx context.Context, retention *outbox.Retention) (int64, error) {
	conn, err := connect(ctx, r.config.DatabaseURL, "outbox-relay retention")
	if err != nil {
		return 0, err
	}
	defer closeConn(ctx, conn)
	return retention.Delete(ctx, conn, r.config.Retention)
}
