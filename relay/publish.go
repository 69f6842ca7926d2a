package relay

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/outboxrelay/outboxrelay/outbox"
)

const (
	redisTimeout     = 3 * time.Second // one attempt at one pipeline
	comparedPrograms = 1000            // in one step
	maxRefills       = 5               // of one log for one batch: more means that something keeps deleting it
	headRows         = 20_000          // ranked at a time
	replayRows       = 4000            // of a large batch or a refill, sent at a time, of at most 2 MiB

	statementTimeout = 30 * time.Second // for what is bounded: a chunk of a large batch, a page of history
	mostDoublings    = 6                // of it, for what isn't
)

// step reads what is new, commits its tick and publishes it. It returns how many events that were.
func (s *session) step(ctx context.Context) (events int64, err error) {
	read, cancel := context.WithTimeout(ctx, readTimeout)
	tick, rows, err := outbox.Next(read, s.conn, s.last, s.cluster, maxBatch)
	cancel()
	if errors.Is(err, outbox.ErrLarge) {
		tick, err = s.commitLarge(ctx)
	}
	if err != nil {
		return 0, err
	}
	s.used = time.Now()
	if tick.Events == 0 {
		return 0, nil
	}
	s.last, s.lacking = tick, 0
	s.clockAt, s.clockRead = tick.At, s.used
	s.metrics.ticks.Inc()
	if err := s.publishTick(ctx, tick, rows); err != nil {
		return 0, err
	}
	s.metrics.events.Add(float64(tick.Events))
	return tick.Events, s.measureFlush(ctx)
}

func (s *session) commitLarge(ctx context.Context) (tick outbox.Tick, err error) {
	err = s.patiently(ctx, func(ctx context.Context) (err error) {
		tick, err = outbox.CommitLarge(ctx, s.conn, s.last, s.cluster)
		return err
	})
	return tick, err
}

// patiently runs a statement whose time grows with what waits in the outbox. It has half a minute, and twice as long each time that this wasn't
// enough, up to 32 minutes, until a tick is committed: a server that doesn't answer is given up, and no backlog is too long.
func (r *Relay) patiently(ctx context.Context, statement func(context.Context) error) error {
	limited, cancel := context.WithTimeout(ctx, r.patience<<r.lacking)
	defer cancel()
	err := statement(limited)
	if err != nil && limited.Err() != nil && ctx.Err() == nil {
		r.lacking = min(r.lacking+1, mostDoublings)
	}
	return err
}

// publishTick appends the batch of a committed tick to Redis and moves the head. Without rows the batch is read again, at constant
// memory. When it returns nil every append has been acknowledged.
func (s *session) publishTick(ctx context.Context, tick outbox.Tick, rows []outbox.Row) error {
	var err error
	if rows != nil {
		err = s.publishRows(ctx, rows)
	} else {
		err = s.replay(ctx, tick)
	}
	if err != nil {
		return err
	}
	return s.publishHead(ctx)
}

// replay reads the batch again, chunk by chunk. While Redis takes one, Postgres reads the next.
func (s *session) replay(ctx context.Context, tick outbox.Tick) error {
	var sent *chunk
	err := outbox.Replay(ctx, s.conn, tick, replayRows, s.patience, func(rows []outbox.Row) error {
		next := &chunk{done: make(chan struct{}), created: rows[0].CreatedAt}
		next.parts, next.users = split(rows)
		if err := s.settle(ctx, sent); err != nil {
			sent = nil
			return err
		}
		sent = next
		go func() {
			defer close(next.done)
			ctx, cancel := context.WithTimeout(ctx, redisTimeout)
			defer cancel()
			next.behind, next.err = s.log.append(ctx, next.parts)
		}()
		return nil
	})
	return errors.Join(err, s.settle(ctx, sent))
}

// chunk is a part of a batch on its way to Redis. What is below done belongs to the goroutine that sends it, until done is closed.
type chunk struct {
	parts   []part
	users   []string
	created time.Time // of its first row
	done    chan struct{}
	behind  []part
	err     error
}

// settle waits for a chunk, if there is one. What went wrong with it is repeated here: only its owner may use the session meanwhile.
func (s *session) settle(ctx context.Context, c *chunk) error {
	if c == nil {
		return nil
	}
	<-c.done
	parts := c.behind
	if c.err != nil {
		parts = c.parts
	}
	if err := s.publishParts(ctx, parts); err != nil {
		return err
	}
	return s.published(ctx, c.created, c.users)
}

// publishRows appends rows of one batch, ascending, to their programs' logs.
func (s *session) publishRows(ctx context.Context, rows []outbox.Row) error {
	parts, users := split(rows)
	s.tellNear(parts)
	if err := s.publishParts(ctx, parts); err != nil {
		return err
	}
	return s.published(ctx, rows[0].CreatedAt, users)
}

// publishParts appends until Redis has taken everything. A log that has lost its end is refilled first.
func (s *session) publishParts(ctx context.Context, parts []part) error {
	for refills := 0; len(parts) > 0; refills++ {
		var behind []part
		err := s.withRedis(ctx, func(ctx context.Context) (err error) {
			behind, err = s.log.append(ctx, parts)
			return err
		})
		if err != nil {
			return err
		}
		if len(behind) > 0 && refills == maxRefills {
			return lostAgain(behind[0].program)
		}
		var lost []string
		for _, p := range behind {
			if p.foreign {
				if err := s.drop(ctx, p.program); err != nil {
					return err
				}
			}
			lost = append(lost, p.program)
		}
		if err := s.repair(ctx, lost); err != nil {
			return err
		}
		parts = behind
	}
	return nil
}

// repair refills logs that an append has missed, and the others with them if they may be gone too.
func (s *session) repair(ctx context.Context, lost []string) error {
	if len(lost) == 0 {
		return nil
	}
	if err := s.hideHead(ctx); err != nil {
		return err
	}
	if s.suspect {
		return s.compare(ctx, true)
	}
	return s.refill(ctx, lost...)
}

// published does what follows an append.
func (s *session) published(ctx context.Context, created time.Time, users []string) error {
	s.health.set(stateLog, "")
	s.metrics.lag.Observe(float64(max(0, s.now()-created.UnixMicro())) / 1e6)
	return s.wakeUsers(ctx, users)
}

// split groups rows by program, keeping their order, and encodes them. users are those whose membership changes.
func split(rows []outbox.Row) (parts []part, users []string) {
	index := make(map[string]int)
	var bytes []byte
	for i := range rows {
		r := &rows[i]
		k, ok := index[r.Program]
		if !ok {
			k = len(parts)
			index[r.Program] = k
			parts = append(parts, part{program: r.Program})
		}
		start := len(bytes)
		bytes = appendEntry(bytes, r)
		parts[k].positions = append(parts[k].positions, r.Position)
		parts[k].frames = append(parts[k].frames, bytes[start:len(bytes):len(bytes)])
		if r.Control && r.ByID != nil {
			users = append(users, *r.ByID)
		}
	}
	return parts, users
}

// wakeUsers tells the nodes whose memberships changed. A lost message delays what a periodic check finds anyway.
func (s *session) wakeUsers(ctx context.Context, users []string) error {
	if len(users) == 0 {
		return nil
	}
	return s.withRedis(ctx, func(ctx context.Context) error {
		pipe := s.log.redis.Pipeline()
		for _, u := range users {
			pipe.Do(ctx, s.log.publishCommand(), userPrefix+u, s.last.Position)
		}
		_, err := pipe.Exec(ctx)
		return err
	})
}

// publishHead says that everything through the newest tick is in Redis, after comparing the logs if there is any doubt, or it is time to.
func (s *session) publishHead(ctx context.Context) error {
	for {
		for s.suspect || time.Since(s.compared) > compareEvery {
			if err := s.compare(ctx, false); err != nil {
				return err
			}
		}
		if s.last.Position == 0 {
			return nil
		}
		var asked int64
		err := s.withRedis(ctx, func(ctx context.Context) error {
			asked = s.now()
			changed, err := s.log.publishHead(ctx, s.cluster, s.last.Position)
			if changed {
				s.suspect = true
			}
			return err
		})
		if err != nil {
			return err
		}
		if !s.suspect {
			s.headSet = max(asked, s.last.Position)
			return nil
		}
	}
}

// compare refills every log in the window whose newest entry isn't the one that was appended last. One that holds more than this
// relay's history explains is deleted first: somebody else wrote to it, or it is left from a history that is no more. But while a tick is being published it may
// hold what has been published of that before: it is compared again afterwards.
func (s *session) compare(ctx context.Context, publishing bool) error {
	s.suspect = false // until Redis fails again: what had been compared by then may be gone
	if err := s.withRedis(ctx, s.log.checkLimits); err != nil {
		return err
	}
	var lost, foreign []string
	for some := range slices.Chunk(s.log.inWindow(s.now()), comparedPrograms) {
		var lack, more []string
		err := s.withRedis(ctx, func(ctx context.Context) (err error) {
			lack, more, err = s.log.compare(ctx, some)
			return err
		})
		if err != nil {
			return err
		}
		lost, foreign = append(lost, lack...), append(foreign, more...)
		if err := s.keepAlive(ctx); err != nil {
			return err
		}
	}
	if publishing && len(foreign) > 0 {
		foreign, s.suspect = nil, true
	}
	for _, program := range foreign {
		if err := s.drop(ctx, program); err != nil {
			return err
		}
	}
	if err := s.refill(ctx, append(lost, foreign...)...); err != nil {
		return err
	}
	s.compared = time.Now()
	s.health.set(stateLog, "")
	return s.inspect(ctx)
}

// drop deletes what this relay's history doesn't explain.
func (s *session) drop(ctx context.Context, program string) error {
	if err := s.ping(ctx); err != nil { // what a former leader doesn't know is its successor's
		return err
	}
	s.config.Logger.Warn("relay: a log holds what its history doesn't explain; it is deleted and built anew", "program", program)
	if err := s.hideHead(ctx); err != nil {
		return err
	}
	return s.withRedis(ctx, func(ctx context.Context) error {
		if err := s.log.redis.Del(ctx, keyPrefix+program).Err(); err != nil {
			return fmt.Errorf("delete %s: %w", keyPrefix+program, err)
		}
		return nil
	})
}

// hideHead says, until the head is set again, that not everything is in the logs: one that is missing, or not yet whole again, passes for complete
// up to the head.
func (s *session) hideHead(ctx context.Context) error {
	for headPosition(s.log.head) != 0 {
		err := s.withRedis(ctx, func(ctx context.Context) error {
			changed, err := s.log.publishHead(ctx, s.cluster, 0)
			if changed {
				s.suspect = true // other logs may be gone too
			}
			return err
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// inspect notes what Redis is like.
func (s *session) inspect(ctx context.Context) error {
	return s.withRedis(ctx, func(ctx context.Context) error {
		found, err := inspect(ctx, s.log.redis)
		if err == nil {
			s.log.sharded = found.sharded
			s.health.set(stateEviction, found.evicts)
		}
		return err
	})
}

func lostAgain(program string) error {
	return fmt.Errorf("the log %s%s lost its end %d times in a row: does something delete or evict it?", keyPrefix, program, maxRefills+1)
}

// refill sends the programs' whole Redis window again, ascending, through the newest tick. Readers meanwhile see less, never a hole.
func (s *session) refill(ctx context.Context, programs ...string) error {
	if len(programs) == 0 {
		return nil
	}
	reason := "Redis lost the end of " + keyPrefix + programs[0]
	if others := len(programs) - 1; others > 0 {
		reason += fmt.Sprintf(" and of %d others", others)
	}
	s.health.set(stateLog, reason+"; refilled from the outbox")
	if err := s.hideHead(ctx); err != nil {
		return err
	}
	for range maxRefills + 1 {
		s.metrics.refills.Add(float64(len(programs)))
		var err error
		if programs, err = s.sendWindow(ctx, programs); len(programs) == 0 || err != nil {
			return err
		}
	}
	return lostAgain(programs[0])
}

// sendWindow is one attempt at refill. It returns the programs whose log has lost its end again meanwhile.
func (s *session) sendWindow(ctx context.Context, programs []string) (again []string, err error) {
	oldest, err := s.oldest(ctx)
	if err != nil {
		return nil, err
	}
	for _, program := range programs {
		delete(s.log.newest, program)
	}
	lost := map[string]bool{}
	after := max(oldest, s.now()-(s.log.window+skewAllowance).Microseconds())
	err = outbox.ReplayPrograms(ctx, s.conn, programs, after, s.last, replayRows, s.patience, func(rows []outbox.Row) error {
		s.used = time.Now()
		parts, _ := split(rows)
		parts = slices.DeleteFunc(parts, func(p part) bool { return lost[p.program] })
		return s.withRedis(ctx, func(ctx context.Context) error {
			behind, err := s.log.append(ctx, parts)
			for _, p := range behind {
				lost[p.program] = true
			}
			return err
		})
	})
	return slices.Collect(maps.Keys(lost)), err
}

func (s *session) oldest(ctx context.Context) (int64, error) {
	ctx, cancel := context.WithTimeout(ctx, s.patience)
	defer cancel()
	return outbox.Oldest(ctx, s.conn)
}

// rebase starts a new history: the database is not the one, or not on the timeline, that the last tick was committed on.
// redisHead is what Redis says had been published; positions go on well above everything that anybody may have seen.
func (s *session) rebase(ctx context.Context, redisHead int64) error {
	s.config.Logger.Warn("relay: the database was restored or failed over; positions are rebased and clients are told by a gap",
		"system", s.cluster.SystemID, "timeline", s.cluster.Timeline, "was_system", s.last.Cluster.SystemID, "was_timeline", s.last.Cluster.Timeline)
	err := s.patiently(ctx, func(ctx context.Context) error {
		return pgx.BeginTxFunc(ctx, s.conn, pgx.TxOptions{IsoLevel: pgx.RepeatableRead}, func(tx pgx.Tx) (err error) {
			s.last, err = outbox.Rebase(ctx, tx, s.last, s.cluster, redisHead)
			return err
		})
	})
	if err != nil {
		return fmt.Errorf("rebase: %w", err)
	}
	return nil
}
