package ws

import (
	"strconv"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics is the prometheus.Collector of a Hub.
type metrics struct {
	hub             *Hub
	sockets, rooms  *prometheus.Desc
	events          prometheus.Counter
	deepReads       prometheus.Counter
	readErrors      prometheus.Counter
	membershipReads prometheus.Counter
	degraded        *prometheus.GaugeVec   // state
	gaps            *prometheus.CounterVec // reason
	closes          *prometheus.CounterVec // code
}

func newMetrics(h *Hub) *metrics {
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Name: "outbox_relay_ws_" + name, Help: help})
	}
	vec := func(name, help, label string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: "outbox_relay_ws_" + name, Help: help}, []string{label})
	}
	return &metrics{
		hub:             h,
		sockets:         prometheus.NewDesc("outbox_relay_ws_connections", "Open WebSocket connections.", nil, nil),
		rooms:           prometheus.NewDesc("outbox_relay_ws_rooms", "Programs with connected members.", nil, nil),
		events:          counter("events_sent_total", "Events sent, once per connection."),
		deepReads:       counter("older_reads_total", "Reads below the rooms' buffers."),
		readErrors:      counter("read_errors_total", "Reads of a log that failed; they are repeated."),
		membershipReads: counter("membership_reads_total", "Reads of users and memberships."),
		degraded: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "outbox_relay_ws_degraded", Help: "1 if the state of the WebSocket side is degraded; /readyz gives the reason.",
		}, []string{"state"}),
		gaps:   vec("gaps_total", "Gaps told to clients.", "reason"),
		closes: vec("closes_total", "Connections ended, by the close code sent; 1000: the peer went away.", "code"),
	}
}

func (m *metrics) collectors() []prometheus.Collector {
	return []prometheus.Collector{m.events, m.deepReads, m.readErrors, m.membershipReads, m.degraded, m.gaps, m.closes}
}

// Describe implements prometheus.Collector.
func (m *metrics) Describe(c chan<- *prometheus.Desc) {
	c <- m.sockets
	c <- m.rooms
	for _, part := range m.collectors() {
		part.Describe(c)
	}
}

// Collect implements prometheus.Collector.
func (m *metrics) Collect(c chan<- prometheus.Metric) {
	m.hub.mu.Lock()
	sockets, rooms := len(m.hub.sockets), len(m.hub.rooms)
	m.hub.mu.Unlock()
	c <- prometheus.MustNewConstMetric(m.sockets, prometheus.GaugeValue, float64(sockets))
	c <- prometheus.MustNewConstMetric(m.rooms, prometheus.GaugeValue, float64(rooms))
	for _, part := range m.collectors() {
		part.Collect(c)
	}
}

func (m *metrics) closed(end *ending) { m.closes.WithLabelValues(strconv.Itoa(int(end.status))).Inc() }
