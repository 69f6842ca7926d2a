package relay

import (
	"context"
	"fmt"
	"slices"
	"time"
)

const (
	flushProbes = 8                      // of each kind are remembered …
	flushRank   = 2                      // … of which the second least counts: on a busy machine most are held up
	flushEvery  = time.Second            // one of each is made this often while there are events …
	flushFirst  = 100 * time.Millisecond // … but at first, until those that were all made in one moment, perhaps a bad one, have been replaced
	leastFlush  = 250 * time.Microsecond // even without a flush, serialised commits are no more than some thousands a second
)

// A durable commit that writes as little as can be, and the same way to the server and back without one.
const (
	durableProbe = "SELECT pg_catalog.setval('relay.flush_probe', 1)"
	idleProbe    = "SELECT 1"
)

// flush is what a commit waits for the disk, as the newest probes say. The relay decides by it when to sleep, and how often to commit a tick. Its own
// reads don't tell: those that find events take longer the more they find, and come after longer pauses.
type flush struct {
	durable, idle [flushProbes]time.Duration // of each kind of probe
	probes        int                        // made so far, of each kind
	at            time.Time                  // of the newest
	wait          time.Duration              // about what a commit waits; 0: not known
}

// measureFlush makes some probes, or none if the newest are fresh enough.
func (s *session) measureFlush(ctx context.Context) error {
	n, every := 1, flushEvery
	if s.flush.probes < 2*flushProbes {
		every = flushFirst
	}
	switch f := &s.flush; {
	case f.probes == 0:
		n = flushProbes
	case time.Since(f.at) < every:
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	for range n {
		for _, probe := range []struct {
			statement string
			took      *[flushProbes]time.Duration
		}{{idleProbe, &s.flush.idle}, {durableProbe, &s.flush.durable}} {
			began := time.Now()
			if _, err := s.conn.Exec(ctx, probe.statement); err != nil {
				return fmt.Errorf("measure the flush: %w", err)
			}
			probe.took[s.flush.probes%flushProbes] = time.Since(began)
		}
		s.flush.probes++
	}
	s.used = time.Now()
	s.flush.at = s.used
	s.flush.wait = flushOf(s.flush.durable, s.flush.idle)
	s.metrics.flush.Set(s.flush.wait.Seconds())
	return nil
}

// flushOf is the difference of those that count, at least leastFlush.
func flushOf(durable, idle [flushProbes]time.Duration) time.Duration {
	slices.Sort(durable[:])
	slices.Sort(idle[:])
	return max(durable[flushRank-1]-idle[flushRank-1], leastFlush)
}
