package main

import (
	"encoding/json"
	"log/slog"
	"net"
	"net/http"
	"net/http/pprof"
	"runtime/debug"
	"strings"

	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// adminServer serves whoever runs the process; it is never the public listener. It has no write timeout: a CPU profile takes its time.
func (s *server) adminServer() *http.Server {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("ok\n")) })
	mux.HandleFunc("GET /readyz", s.readyz)
	mux.Handle("GET /metrics", promhttp.HandlerFor(s.registry, promhttp.HandlerOpts{Registry: s.registry}))
	mux.HandleFunc("/debug/pprof/", pprof.Index)
	mux.HandleFunc("/debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("/debug/pprof/symbol", pprof.Symbol)
	mux.HandleFunc("/debug/pprof/trace", pprof.Trace)
	mux.HandleFunc("POST /debug/freemem", freeMemory)
	var e edge
	if a, ok := s.admin.Addr().(*net.TCPAddr); ok && a.IP.IsLoopback() { // who is on this machine has no other name for it
		e.hosts = []string{"localhost", "127.0.0.1", "::1"}
	}
	return &http.Server{
		Handler: e.wrap(mux), ReadHeaderTimeout: headerTimeout, ReadTimeout: bodyTimeout, IdleTimeout: idleTimeout, MaxHeaderBytes: maxHeader,
		ErrorLog: slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
	}
}

// freeMemory collects garbage and gives what is free back to the system, so that resident memory can be compared.
func freeMemory(http.ResponseWriter, *http.Request) { debug.FreeOSMemory() }

// readiness is the body of /readyz: 200 if ready, else 503.
type readiness struct {
	Ready    bool     `json:"ready"`
	Role     string   `json:"role"`
	Leader   *bool    `json:"leader,omitempty"` // absent where no relay runs
	Reasons  []string `json:"reasons"`          // why it isn't ready
	Degraded []string `json:"degraded"`         // what works, but not as it should
}

func (s *server) readyz(w http.ResponseWriter, _ *http.Request) {
	r := s.readiness()
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	if !r.Ready {
		w.WriteHeader(http.StatusServiceUnavailable)
	}
	_ = json.NewEncoder(w).Encode(r) // the client has gone
}

// readiness asks the parts.
func (s *server) readiness() readiness {
	r := readiness{Role: s.config.role, Reasons: []string{}, Degraded: []string{}}
	if s.stopping.Load() {
		r.Reasons = append(r.Reasons, "stopping")
	}
	if s.relay != nil {
		leading := s.relay.Leading()
		r.Leader = &leading
		r.add("relay: ", s.relay.Ready())
	}
	if s.verifier != nil {
		reasons, usable := s.verifier.Ready()
		if usable { // the users of other issuers, or those whose keys are known, are served
			r.Degraded = append(r.Degraded, reasons...)
		} else {
			r.Reasons = append(r.Reasons, reasons...)
		}
	}
	if s.hub != nil {
		r.add("ws: ", s.reader.Ready())
		for _, reason := range s.hub.Ready() {
			r.Reasons = append(r.Reasons, "ws: "+strings.TrimPrefix(reason, "ws: "))
		}
	}
	r.Ready = len(r.Reasons) == 0
	return r
}

// add adds what a part says. Polling instead of being notified, and rebuilding what Redis evicts, are slower, and no reason to take a process out
// of service.
func (r *readiness) add(part string, reasons []string) {
	for _, reason := range reasons {
		if strings.HasPrefix(reason, "polling: ") || strings.HasPrefix(reason, "eviction: ") {
			r.Degraded = append(r.Degraded, part+reason)
		} else {
			r.Reasons = append(r.Reasons, part+reason)
		}
	}
}
