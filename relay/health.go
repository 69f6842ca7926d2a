package relay

import (
	"log/slog"
	"maps"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"
)

// The states that can be degraded. Each shows in Ready, in the metric outbox_relay_degraded and, when it changes, in one log line.
const (
	stateSession = "session" // no Postgres session, or none that can lead
	stateRedis   = "redis"   // Redis can't be written: ticks wait
	stateLog     = "log"     // the end of some log was lost and is being rebuilt
	statePolling = "polling" // wake-ups aren't sent, or aren't wanted: events are found by polling
	stateListen  = "listen"  // wake-ups don't arrive

	stateSubscription = "subscription" // Redis can't be heard: rooms are read every few seconds, if it can be read at all
	stateEviction     = "eviction"     // Redis may drop what it should keep: logs are rebuilt now and then, and nobody gets a checkpoint
)

// leaderStates are those of a relay that leads.
var leaderStates = []string{stateSession, stateRedis, stateLog, statePolling, stateListen, stateEviction}

const connecting = "not begun yet" // it has begun when the newest tick has been published again: that takes Postgres and Redis

// health knows which states are degraded, and why.
type health struct {
	log      *slog.Logger
	degraded *prometheus.GaugeVec // label: state
	leading  atomic.Bool

	mu      sync.Mutex
	reasons map[string]string
}

func newHealth(log *slog.Logger, degraded *prometheus.GaugeVec, states ...string) *health {
	for _, s := range states {
		degraded.WithLabelValues(s).Set(0)
	}
	return &health{log: log, degraded: degraded, reasons: map[string]string{}}
}

// set notes that a state is degraded, or (reason "") whole again.
func (h *health) set(state, reason string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	old, was := h.reasons[state]
	if reason == old {
		return
	}
	if reason == connecting { // no news: every session begins so
		h.reasons[state] = reason
		return
	}
	was = was && old != connecting
	if reason == "" {
		delete(h.reasons, state)
		h.degraded.WithLabelValues(state).Set(0)
		if old != connecting {
			h.log.Info("relay: whole again", "state", state)
		}
		return
	}
	h.reasons[state] = reason
	h.degraded.WithLabelValues(state).Set(1)
	if was { // still degraded, for another reason
		h.log.Debug("relay: degraded", "state", state, "reason", reason)
		return
	}
	h.log.Warn("relay: degraded", "state", state, "reason", reason)
}

// standby clears what only a leader can know.
func (h *health) standby() {
	for _, state := range leaderStates {
		h.set(state, "")
	}
}

func (h *health) problems() []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	var list []string
	for _, state := range slices.Sorted(maps.Keys(h.reasons)) {
		list = append(list, state+": "+h.reasons[state])
	}
	return list
}

// metrics are what the relay counts. Without a Registerer they are counted all the same and shown nowhere.
type metrics struct {
	leader, asleep, flush            prometheus.Gauge
	degraded                         *prometheus.GaugeVec
	events, ticks, sessions, refills prometheus.Counter
	wakeups, fallback, fallAsleep    prometheus.Counter
	retentionRows, retentionFailures prometheus.Counter
	lag                              prometheus.Histogram
}

func newMetrics(r prometheus.Registerer) *metrics {
	gauge := func(name, help string) prometheus.Gauge {
		return prometheus.NewGauge(prometheus.GaugeOpts{Name: "outbox_relay_" + name, Help: help})
	}
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Name: "outbox_relay_" + name, Help: help})
	}
	m := &metrics{
		leader: gauge("leader", "1 if this relay leads."),
		asleep: gauge("asleep", "1 if the relay sleeps and is woken by NOTIFY."),
		flush:  gauge("flush_seconds", "About what a commit waits for the disk; at least 250 µs."),
		degraded: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "outbox_relay_degraded", Help: "1 if the state is degraded; /readyz gives the reason.",
		}, []string{"state"}),
		events:            counter("events_total", "Events appended to Redis, control entries included."),
		ticks:             counter("ticks_total", "Batches relayed."),
		sessions:          counter("sessions_ended_total", "Postgres sessions that ended with an error."),
		refills:           counter("refills_total", "Logs of one program that were rebuilt because Redis had lost their end."),
		wakeups:           counter("wakeups_total", "Notifications received."),
		fallback:          counter("fallback_reads_total", "Reads without a wake-up that found events."),
		fallAsleep:        counter("sleeps_total", "Times the relay fell asleep."),
		retentionRows:     counter("retention_rows_total", "Outbox rows deleted by retention."),
		retentionFailures: counter("retention_failures_total", "Rounds of retention that failed."),
		lag: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "outbox_relay_lag_seconds", Help: "From an event's created_at to its append to Redis, the oldest of each batch.",
			Buckets: []float64{.001, .002, .005, .01, .02, .05, .1, .2, .5, 1, 2, 5, 10, 30, 60, 300},
		}),
	}
	if r != nil {
		r.MustRegister(m.leader, m.asleep, m.flush, m.degraded, m.events, m.ticks, m.sessions, m.refills, m.wakeups, m.fallback,
			m.fallAsleep, m.retentionRows, m.retentionFailures, m.lag)
	}
	return m
}
