package relay

import (
	"context"
	"fmt"
	"slices"
	"time"
)

const (
	flushProbes = 7                      // of each kind: one or two that are held up don't matter
	leastFlush  = 250 * time.Microsecond // even without a flush, serialised commits are no more than some thousands a second
)

// A durable commit that writes as little as can be, and the same way to the server and back without one.
const (
	durableProbe = "SELECT pg_catalog.setval('relay.flush_probe', 1)"
	idleProbe    = "SELECT 1"
)

// measureFlush measures what a commit waits for the disk, by which the relay decides when to sleep and how often to commit a tick. The relay's
// own reads don't tell: those that find events take longer the more they find, and come after longer pauses.
func (s *session) measureFlush(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	var durable, idle [flushProbes]time.Duration
	for i := range flushProbes {
		for _, probe := range []struct {
			statement string
			took      *time.Duration
		}{{idleProbe, &idle[i]}, {durableProbe, &durable[i]}} {
			began := time.Now()
			if _, err := s.conn.Exec(ctx, probe.statement); err != nil {
				return fmt.Errorf("measure the flush: %w", err)
			}
			*probe.took = time.Since(began)
		}
	}
	s.used = time.Now()
	s.flush = flushOf(durable[:], idle[:])
	s.metrics.flush.Set(s.flush.Seconds())
	return nil
}

// flushOf is the difference of the medians, at least leastFlush. It sorts both.
func flushOf(durable, idle []time.Duration) time.Duration {
	slices.Sort(durable)
	slices.Sort(idle)
	return max(durable[len(durable)/2]-idle[len(idle)/2], leastFlush)
}
