package ws

import (
	"log/slog"
	"slices"
	"sync"

	"github.com/prometheus/client_golang/prometheus"
)

// health holds what is wrong, for /readyz, and says it in the log when it begins and when it ends.
type health struct {
	log      *slog.Logger
	degraded *prometheus.GaugeVec // label: state

	mu      sync.Mutex
	failing map[string]string // reason by part
	rooms   int               // whose last read failed
}

// The parts that can fail.
const (
	partWatch       = "watch"       // wake-ups from the log
	partLog         = "log"         // reads of a room
	partMemberships = "memberships" // reads of users and memberships
)

func newHealth(log *slog.Logger, degraded *prometheus.GaugeVec) *health {
	for _, part := range []string{partWatch, partLog, partMemberships} {
		degraded.WithLabelValues(part).Set(0)
	}
	return &health{log: log, degraded: degraded, failing: map[string]string{}}
}

// set says that a part works (nil) or why it doesn't.
func (h *health) set(part string, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	_, was := h.failing[part]
	switch {
	case err != nil:
		h.failing[part] = err.Error()
		if !was {
			h.degraded.WithLabelValues(part).Set(1)
			h.log.Warn("ws: degraded", "part", part, "error", err)
		}
	case was:
		delete(h.failing, part)
		h.degraded.WithLabelValues(part).Set(0)
		h.log.Info("ws: recovered", "part", part)
	}
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
		h.set(partLog, err)
	}
}

func (h *health) reasons() []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	reasons := make([]string, 0, len(h.failing))
	for part, text := range h.failing {
		reasons = append(reasons, part+": "+text)
	}
	slices.Sort(reasons)
	return reasons
}
