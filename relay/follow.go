package relay

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

const (
	awakePoll    = time.Millisecond       // between reads that found nothing, while awake
	leastPace    = 8 * time.Millisecond   // bounds of the time between ticks while awake …
	mostPace     = 30 * time.Millisecond  // … which is four times the last one's work: the busier the machine, the larger the batches, which cost less for each event
	flushPace    = 10                     // but ticks are so many flushes apart, and take no more than a tenth of what the disk can do …
	slowPace     = 100 * time.Millisecond // … unless that were further apart than this
	quietFor     = 200 * time.Millisecond // without events for this long the relay falls asleep
	fallbackPoll = time.Second            // a sleeping relay reads this often without being woken …
	hotPoll      = 25 * time.Millisecond  // … and this often for as long as such reads find events; also the poll-only interval
	dozePoll     = 50 * time.Millisecond  // longest wait while transactions last that may have seen the relay awake
	notifyGrace  = time.Second            // a notification may arrive this much after its event was found by a fallback read
)

// follow reads the outbox for as long as the session lasts. It is awake while events come fast: it reads by itself, and nobody notifies.
// Otherwise it sleeps: it holds the sleep lock, and writers who find it held notify. A NOTIFY serialises commits cluster-wide, so
// sleeping is only right at rates far below what serialised commits could do.
func (s *session) follow(ctx context.Context) error {
	for {
		if s.deaf {
			if err := s.poll(ctx); err != nil {
				return err
			}
		}
		if err := s.awake(ctx); err != nil {
			return err
		}
		if err := s.fallAsleep(ctx); err != nil {
			return err
		}
		if err := s.asleep(ctx); err != nil {
			return err
		}
	}
}

// awake reads until nothing has come for a while, or so little that notifications would be cheaper.
func (s *session) awake(ctx context.Context) error {
	var seen int64 // events since
	since := time.Now()
	for last := since; time.Since(last) < s.quiet; {
		began := time.Now()
		events, err := s.step(ctx)
		if err != nil {
			return err
		}
		wait := awakePoll
		if events > 0 {
			last = time.Now()
			worked := last.Sub(began)
			wait = s.pace(worked) - worked
		}
		seen += events
		if d := time.Since(since); d >= s.quiet {
			if !fast(seen, d, s.flush.wait) {
				return nil
			}
			seen, since = 0, time.Now()
		}
		if err := s.drain(ctx); err != nil {
			return err
		}
		if !sleep(ctx, wait) {
			return ctx.Err()
		}
	}
	return nil
}

// fallAsleep takes the sleep lock. A writer may hold it for microseconds: then try again, and go on reading meanwhile.
func (s *session) fallAsleep(ctx context.Context) error {
	for !s.sleeping {
		got, err := tryLock(ctx, s.conn, sleepLock)
		if err != nil {
			return err
		}
		if got {
			s.sleeping = true
			s.metrics.asleep.Set(1)
			s.metrics.fallAsleep.Inc()
			return nil
		}
		if _, err := s.step(ctx); err != nil {
			return err
		}
		if err := s.maintain(ctx); err != nil { // somebody else may hold it for ever
			return err
		}
		if err := s.drain(ctx); err != nil {
			return err
		}
		if !sleep(ctx, awakePoll) {
			return ctx.Err()
		}
	}
	return nil
}

// wakeUp gives the sleep lock back, if held: nobody notifies from here on.
func (s *session) wakeUp(ctx context.Context) error {
	if !s.sleeping {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, pingTimeout)
	defer cancel()
	if _, err := s.conn.Exec(ctx, "SELECT pg_advisory_unlock($1, $2)", lockClass, sleepLock); err != nil {
		return fmt.Errorf("release the sleep lock: %w", err)
	}
	s.sleeping = false
	s.metrics.asleep.Set(0)
	return nil
}

// asleep waits to be woken, and returns when what wakes it comes so fast that reading by itself is cheaper for the writers, when it turns out to be deaf, or
// when it lost the sleep lock to a Redis outage.
//
// Transactions that inserted before the lock was taken saw the relay awake and won't notify: until all of them have ended it
// keeps reading. A transaction's locks leave pg_locks after its rows have become visible, so that the read after that misses nothing;
// those that had ended before they could be listed are what the first read is for.
func (s *session) asleep(ctx context.Context) error {
	writers, err := s.writersInFlight(ctx)
	if err != nil {
		return err
	}
	if _, err := s.step(ctx); err != nil { // what was committed between the last read and the lock, by those who have ended
		return err
	}
	var (
		wakes arrivals
		doze  = awakePoll
		hot   bool // the last fallback read found events
		late  unasked
	)
	s.notified = 0
	for s.sleeping {
		wait := s.fallback
		dozing := len(writers) > 0
		switch {
		case dozing:
			wait, doze = doze, min(2*doze, dozePoll)
		case hot:
			wait = hotPoll
		}
		notified, err := s.wait(ctx, wait)
		if err != nil {
			return err
		}
		if s.deaf || notified && s.quiet == 0 {
			return s.wakeUp(ctx)
		}
		if dozing {
			if writers, err = s.stillInFlight(ctx, writers); err != nil {
				return err
			}
		}
		events, err := s.step(ctx)
		if err != nil {
			return err
		}
		s.metrics.fallback.Add(float64(late.settle(time.Now(), notified)))
		if hot = events > 0 && !notified && !dozing; hot {
			late.found(time.Now())
		}
		if notified && wakes.fast(time.Now(), s.notified, s.flush.wait) {
			return s.wakeUp(ctx)
		}
		s.notified = 0
		if err := s.maintain(ctx); err != nil {
			return err
		}
	}
	return nil
}

// unasked counts the reads that found events without a notification, until it is clear that none is on its way: a commit is visible before
// it notifies, and on a busy machine much may happen in between.
type unasked struct {
	reads int
	since time.Time
}

// found notes such a read.
func (u *unasked) found(now time.Time) {
	if u.reads == 0 {
		u.since = now
	}
	u.reads++
}

// settle returns how many reads nobody will have announced, and forgets them. A notification may stand for any number of commits.
func (u *unasked) settle(now time.Time, notified bool) (reads int) {
	if notified {
		u.reads = 0
	}
	if now.Sub(u.since) < notifyGrace {
		return 0
	}
	reads, u.reads = u.reads, 0
	return reads
}

// wait returns when notified, or after d. Several notifications count as one: the read that follows sees what all of them announced.
func (s *session) wait(ctx context.Context, d time.Duration) (notified bool, err error) {
	timeout, cancel := context.WithTimeout(ctx, d)
	defer cancel()
	for !notified {
		n, err := s.conn.WaitForNotification(timeout)
		if ctx.Err() != nil {
			return false, ctx.Err()
		}
		if pgconn.Timeout(err) {
			s.checkCanary()
			return false, nil
		}
		if err != nil {
			return false, fmt.Errorf("wait for a notification: %w", err)
		}
		notified = s.heard(n)
	}
	s.metrics.wakeups.Inc()
	return true, s.drain(ctx)
}

// drain takes the notifications that came with what was read last. A read follows that sees what they announced.
func (s *session) drain(ctx context.Context) error {
	ended, cancel := context.WithCancel(ctx)
	cancel()
	for {
		n, err := s.conn.WaitForNotification(ended)
		if err != nil {
			break
		}
		s.heard(n)
	}
	s.checkCanary()
	return ctx.Err()
}

const writersQuery = `SELECT l.virtualtransaction FROM pg_locks l
WHERE l.relation = 'relay.outbox'::regclass AND l.mode = 'RowExclusiveLock'
  AND l.database = (SELECT d.oid FROM pg_database d WHERE d.datname = current_database())
  AND l.pid IS DISTINCT FROM pg_backend_pid()`

// writersInFlight lists the transactions that may have inserted and not ended. Fast-path locks show, and so do prepared transactions.
func (s *session) writersInFlight(ctx context.Context) ([]string, error) {
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	rows, err := s.conn.Query(ctx, writersQuery)
	if err != nil {
		return nil, fmt.Errorf("list the writers in flight: %w", err)
	}
	writers, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return nil, fmt.Errorf("list the writers in flight: %w", err)
	}
	return writers, nil
}

func (s *session) stillInFlight(ctx context.Context, writers []string) ([]string, error) {
	now, err := s.writersInFlight(ctx)
	return slices.DeleteFunc(writers, func(w string) bool { return !slices.Contains(now, w) }), err
}

// poll is follow for servers where NOTIFY isn't wanted, or for as long as it doesn't arrive.
func (s *session) poll(ctx context.Context) error {
	for s.config.PollOnly || s.deaf {
		if _, err := s.step(ctx); err != nil {
			return err
		}
		if err := s.maintain(ctx); err != nil {
			return err
		}
		if err := s.drain(ctx); err != nil {
			return err
		}
		if !sleep(ctx, hotPoll) {
			return ctx.Err()
		}
	}
	return nil
}

// maintain compares Redis with what it must hold, every compareEvery and at once after Redis had failed.
func (s *session) maintain(ctx context.Context) error {
	if s.suspect || time.Since(s.compared) > compareEvery {
		return s.publishHead(ctx)
	}
	return nil
}

// pace is the time between ticks while awake, from the beginning of one to that of the next, if the last one's work took so long.
func (s *session) pace(worked time.Duration) time.Duration {
	return max(min(max(leastPace, 4*worked), mostPace), min(flushPace*s.flush.wait, slowPace))
}

// fast reports whether so many commits in so long a time are more than a tenth of what serialised ones could be: 1 / (10 × flush).
func fast(commits int64, d, flush time.Duration) bool { return time.Duration(commits)*10*flush > d }

// arrivals remembers when the last commits came that woke the relay. There are so many that chance alone doesn't bring them together: commits
// come in clusters.
type arrivals struct {
	at   [32]time.Time
	next int
	last time.Time // the newest wake-up
}

// fast notes the commits of one wake-up and reports whether they come fast. They came after the wake-up before: however many there are, after a
// stall, that alone is no haste; and a relay that is slow itself, with many for each of its wake-ups, counts them all.
func (a *arrivals) fast(now time.Time, commits int, flush time.Duration) bool {
	var oldest time.Time
	for range commits {
		oldest = a.at[a.next]
		a.at[a.next] = a.last
		a.next = (a.next + 1) % len(a.at)
	}
	a.last = now
	return !oldest.IsZero() && fast(int64(max(commits, len(a.at))), now.Sub(oldest), flush)
}
