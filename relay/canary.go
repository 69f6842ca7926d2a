package relay

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
)

const (
	canaryEvery    = 10 * time.Second
	canaryPatience = 5 * time.Second // a canary that isn't heard this long after its COMMIT never will be
	canaryPayload  = "canary "       // and a number; writers notify with an empty payload
)

// canary is a notification that was sent for nothing but to be heard.
type canary struct {
	payload string
	sent    time.Time // when its COMMIT had returned; zero: it hasn't yet
}

// sing sends canaries until ctx ends, each on a connection of its own: the way of a writer's wake-up. One that can't be sent is no reason to doubt LISTEN;
// the log says so once.
func (s *session) sing(ctx context.Context) error {
	for failing := false; ; {
		err := s.singOnce(ctx)
		if err != nil && !failing && ctx.Err() == nil {
			s.config.Logger.Warn("relay: LISTEN can't be checked; it is tried again", "in", canaryEvery, "error", err)
		}
		failing = err != nil
		if !sleep(ctx, canaryEvery) {
			return ctx.Err()
		}
	}
}

// singOnce sends one, unless the queue of notifications is so full that writers don't notify either. Its commit is asynchronous: NOTIFY
// holds its cluster-wide lock for the commit's duration.
func (s *session) singOnce(ctx context.Context) error {
	conn, err := connect(ctx, s.config.DatabaseURL, "outbox-relay canary")
	if err != nil {
		return err
	}
	defer closeConn(ctx, conn)
	ctx, cancel := context.WithTimeout(ctx, pingTimeout)
	defer cancel()
	if _, err := conn.Exec(ctx, "SET synchronous_commit = off"); err != nil {
		return fmt.Errorf("send a canary: %w", err)
	}
	payload := fmt.Sprint(canaryPayload, time.Now().UnixNano())
	s.canary.Store(&canary{payload: payload}) // it may be heard before the answer is here
	tag, err := conn.Exec(ctx, "SELECT pg_notify($1, $2) WHERE pg_notification_queue_usage() < 0.5", channel, payload)
	switch {
	case err != nil:
		return fmt.Errorf("send a canary: %w", err)
	case tag.RowsAffected() == 0:
		s.canary.Store(nil)
		s.health.set(statePolling, "Postgres' queue of notifications is more than half full, so writers send none: some session listens and doesn't read")
	default:
		s.health.set(statePolling, "")
		s.canary.Store(&canary{payload, time.Now()})
	}
	return nil
}

// heard takes a notification and tells whether it is a writer's wake-up.
func (s *session) heard(n *pgconn.Notification) bool {
	if !strings.HasPrefix(n.Payload, canaryPayload) {
		s.notified++
		return true
	}
	s.heardCanary = n.Payload
	return false
}

// checkCanary judges LISTEN. The caller has taken all notifications that came with the session's last answer: a canary that had been sent a while before
// that answer and isn't there is lost, and so are wake-ups. Until one is heard the relay polls, and doesn't sleep: writers would notify for nothing.
func (s *session) checkCanary() {
	c := s.canary.Load()
	switch {
	case c == nil:
	case c.payload == s.heardCanary:
		s.deaf = false
		s.health.set(stateListen, "")
	case !c.sent.IsZero() && s.used.Sub(c.sent) > canaryPatience:
		s.deaf = true
		s.health.set(stateListen, "LISTEN is deaf: a notification sent by another session wasn't heard, events are found by polling")
	}
}
