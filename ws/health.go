package ws

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/outboxrelay/outboxrelay/auth"
)

// health holds what is wrong, for /readyz, and says it in the log when it begins and when it ends.
type health struct {
	log      *slog.Logger
	degraded *prometheus.GaugeVec // label: state

	mu      sync.Mutex
	failing map[string]string // reason by state
	rooms   int               // whose last read failed

	served    time.Time // when the newest read of memberships that went well ended
	suspect   string    // the user whose rows couldn't be read since
	suspected time.Time // when; zero: there is none
	told      time.Time // when the log was told of such a user
}

// tellEvery is the least time between lines about single users.
const tellEvery = time.Minute

// The states that can be degraded.
const (
	stateWatch       = "watch"       // wake-ups from the log
	stateLog         = "log"         // reads of a room
	stateMemberships = "memberships" // reads of users and memberships
)

func newHealth(log *slog.Logger, degraded *prometheus.GaugeVec) *health {
	for _, state := range []string{stateWatch, stateLog, stateMemberships} {
		degraded.WithLabelValues(state).Set(0)
	}
	return &health{log: log, degraded: degraded, failing: map[string]string{}}
}

// set says that a state is whole (nil) or why it is degraded.
func (h *health) set(state string, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	_, was := h.failing[state]
	switch {
	case err != nil:
		h.failing[state] = err.Error()
		if !was {
			h.degraded.WithLabelValues(state).Set(1)
			h.log.Warn("ws: degraded", "state", state, "reason", err)
		}
	case was:
		delete(h.failing, state)
		h.degraded.WithLabelValues(state).Set(0)
		h.log.Info("ws: whole again", "state", state)
	}
}

// read says how a read of users and memberships went that began at a given time.
func (h *health) read(began time.Time, err error) {
	if !h.ofOneUser(began, err) {
		h.set(stateMemberships, err)
	}
}

// ofOneUser reports whether a read failed for a single user, as far as is known: a bad row of the application's, or a view that hangs on it,
// isn't this node's state while others are served. It is said in the log, where the user can be named.
func (h *health) ofOneUser(began time.Time, err error) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	now := time.Now()
	var of *auth.ReadError
	switch {
	case err == nil:
		h.served, h.suspected = now, time.Time{}
		return false
	case !errors.As(err, &of):
		return false
	case errors.Is(err, context.DeadlineExceeded):
		if !began.Before(h.served) { // nobody else was answered meanwhile
			return false
		}
	case !of.OfRows:
		return false
	case h.suspected.IsZero():
		h.suspect, h.suspected = of.UserID, now
	case of.UserID != h.suspect && began.After(h.suspected): // one after the other, and nobody was served in between
		return false
	}
	if now.Sub(h.told) >= tellEvery {
		h.told = now
		h.log.Warn("ws: the memberships of a user can't be read", "user", of.UserID, "error", err)
	}
	return true
}

// room says that a room's read went well or not, after the one before.
func (h *health) room(was, is bool, err error) {
	h.mu.Lock()
	if was && !is {
		h.rooms++
	} else if is && !was {
		h.rooms--
	}
	none := h.rooms == 0
	h.mu.Unlock()
	if none {
		err = nil
	}
	if none || err != nil {
		h.set(stateLog, err)
	}
}

func (h *health) reasons() []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	reasons := make([]string, 0, len(h.failing))
	for state, text := range h.failing {
		reasons = append(reasons, state+": "+text)
	}
	slices.Sort(reasons)
	return reasons
}
