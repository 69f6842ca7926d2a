package main

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/outboxrelay/outboxrelay/internal/testenv"
)

// shows waits until /readyz has the status and a reason (or degraded state) that begins so, and the gauge has the value.
func (s *site) shows(status int, reason, gauge string, value int) {
	s.t.Helper()
	admin := "http://" + s.vars["ADMIN_ADDR"]
	testenv.Eventually(s.t, 20*time.Second, func() error {
		got, body, err := get(admin + "/readyz")
		if err != nil {
			return err
		}
		var r readiness
		if err := json.Unmarshal([]byte(body), &r); err != nil {
			return fmt.Errorf("readyz %q: %w", body, err)
		}
		found := reason == ""
		for _, text := range append(r.Reasons, r.Degraded...) {
			found = found || strings.HasPrefix(text, reason) && reason != ""
		}
		if got != status || !found {
			return fmt.Errorf("readyz: %d %s, want %d and %q", got, body, status, reason)
		}
		_, metrics, err := get(admin + "/metrics")
		if line := fmt.Sprintf("\n%s %d\n", gauge, value); err != nil || !strings.Contains(metrics, line) {
			return fmt.Errorf("no %q in the metrics (%w)", line, err)
		}
		return nil
	})
}

// says counts the lines of the log that have all words.
func (b *background) says(words ...string) (n int) {
line:
	for line := range strings.Lines(b.stderr.String()) {
		for _, word := range words {
			if !strings.Contains(line, word) {
				continue line
			}
		}
		n++
	}
	return n
}

// A Redis that may evict serves, loses logs now and then, and was shown nowhere: it is degraded on both sides, and ready.
func TestAnEvictingRedisIsShown(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	options, err := redis.ParseURL(s.vars["REDIS_URL"])
	if err != nil {
		t.Fatal(err)
	}
	client := redis.NewClient(options)
	defer client.Close()
	if err := client.ConfigSet(t.Context(), "maxmemory-policy", "volatile-ttl").Err(); err != nil {
		t.Fatal(err)
	}
	b := s.serve(nil)
	s.shows(http.StatusOK, "relay: eviction: ", `outbox_relay_degraded{state="eviction"}`, 1)
	s.shows(http.StatusOK, "ws: eviction: ", `outbox_relay_reader_degraded{state="eviction"}`, 1)
	if n := b.says("level=WARN", "state=eviction", "volatile-ttl"); n != 2 { // the relay's and the reader's
		t.Errorf("%d lines of the log say so, want 2:\n%s", n, b.stderr.String())
	}
	if code := b.stop(); code != 0 {
		t.Fatal(code)
	}
	if err := client.ConfigSet(t.Context(), "maxmemory-policy", "noeviction").Err(); err != nil {
		t.Fatal(err)
	}
	s.serve(nil)
	s.shows(http.StatusOK, "", `outbox_relay_degraded{state="eviction"}`, 0)
	s.shows(http.StatusOK, "", `outbox_relay_reader_degraded{state="eviction"}`, 0)
}

// A WebSocket node without a client reads no room: that Redis is dead, or hangs, was noticed by the first client only.
func TestAnIdleWebSocketNodeNoticesADeadRedis(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	own := testenv.OwnRedis(t)
	s.vars = maps.Clone(s.vars)
	s.vars["REDIS_URL"] = own.URL()
	b := s.serve(map[string]string{"ROLE": "ws"})
	const gauge = `outbox_relay_reader_degraded{state="subscription"}`
	s.shows(http.StatusOK, "", gauge, 0)
	if err := own.Kill(t.Context()); err != nil {
		t.Fatal(err)
	}
	s.shows(http.StatusServiceUnavailable, "ws: subscription: ", gauge, 1)
	if n := b.says("level=WARN", "state=subscription"); n != 1 {
		t.Errorf("%d lines of the log say so, want 1:\n%s", n, b.stderr.String())
	}
	if err := own.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	s.shows(http.StatusOK, "", gauge, 0)
	if err := own.Pause(); err != nil {
		t.Fatal(err)
	}
	s.shows(http.StatusServiceUnavailable, "ws: subscription: ", gauge, 1)
	if err := own.Continue(); err != nil {
		t.Fatal(err)
	}
	s.shows(http.StatusOK, "", gauge, 0)
}
