package main

import (
	"fmt"
	"maps"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/redis/go-redis/v9"

	"github.com/outboxrelay/outboxrelay/internal/devstack"
	"github.com/outboxrelay/outboxrelay/internal/testenv"
)

// ailing is a site with a proxy before Postgres and a Redis of its own.
type ailing struct {
	*site
	direct   string // the database without the proxy
	postgres *testenv.TCPProxy
	server   *devstack.Redis
	redis    *redis.Client
}

func newAiling(t *testing.T) *ailing {
	t.Helper()
	s := newSite(t)
	direct, err := pgx.ParseConfig(s.vars["DATABASE_URL"])
	if err != nil {
		t.Fatal(err)
	}
	a := &ailing{site: s, direct: s.vars["DATABASE_URL"], server: testenv.OwnRedis(t), postgres: testenv.Proxy(t, fmt.Sprintf("%s:%d", direct.Host, direct.Port))}
	a.postgres.Deafen(false)
	a.redis = redis.NewClient(&redis.Options{Addr: a.server.Addr})
	t.Cleanup(func() { a.redis.Close() })
	a.vars["DATABASE_URL"], a.vars["REDIS_URL"] = a.postgres.URL(a.vars["DATABASE_URL"]), a.server.URL()
	return a
}

func (a *ailing) do(err error) {
	a.t.Helper()
	if err != nil {
		a.t.Fatal(err)
	}
}

// client keeps a client of the server busy until the test ends.
func (a *ailing) client() {
	start(a.t, a.vars, "tail", "--user", "u1", "--url", "http://"+a.vars["LISTEN_ADDR"])
}

// served waits until a client is.
func (a *ailing) served() {
	a.t.Helper()
	a.client()
	testenv.Eventually(a.t, 10*time.Second, func() error {
		_, metrics, err := get("http://" + a.vars["ADMIN_ADDR"] + "/metrics")
		if err == nil && !strings.Contains(metrics, "\noutbox_relay_ws_rooms 1\n") {
			err = fmt.Errorf("no room yet")
		}
		return err
	})
}

// degradation is one state that a process can be in, and how it comes about.
type degradation struct {
	env    map[string]string
	before func(*ailing) // the process starts
	begin  func(*ailing) // nil: from the start
	status int
	reason string
	gauge  string
	line   []string      // what the one line of the log holds
	end    func(*ailing) // nil: there is none
}

var degradations = map[string]degradation{
	"no session": {
		begin: func(a *ailing) { a.postgres.Down() }, status: http.StatusServiceUnavailable, reason: "relay: session: ",
		gauge: `outbox_relay_degraded{state="session"}`, line: []string{"relay: degraded", "state=session"}, end: func(a *ailing) { a.postgres.Resume() },
	},
	"Redis down": {
		begin: func(a *ailing) {
			a.do(a.server.Kill(a.t.Context()))
			a.emit("p1", "a:b")
		},
		status: http.StatusServiceUnavailable, reason: "relay: redis: ", gauge: `outbox_relay_degraded{state="redis"}`,
		line: []string{"relay: degraded", "state=redis"}, end: func(a *ailing) { a.do(a.server.Start(a.t.Context())) },
	},
	"log being rebuilt": {
		begin: func(a *ailing) { // slowly enough to be looked at
			a.emit("p1", "a:b")
			a.settled()
			a.postgres.Latency(200 * time.Millisecond)
			a.do(a.redis.FlushAll(a.t.Context()).Err())
			a.emit("p1", "a:c")
		},
		status: http.StatusServiceUnavailable, reason: "relay: log: ", gauge: `outbox_relay_degraded{state="log"}`,
		line: []string{"relay: degraded", "state=log", "socket:events:program:p1"}, end: func(a *ailing) { a.postgres.Latency(0) },
	},
	"polling only": {
		env: map[string]string{"RELAY_POLL_ONLY": "true"}, status: http.StatusOK, reason: "relay: polling: ",
		gauge: `outbox_relay_degraded{state="polling"}`, line: []string{"relay: degraded", "state=polling"},
	},
	"LISTEN deaf": {
		begin: func(a *ailing) { a.postgres.Deafen(true) }, status: http.StatusServiceUnavailable, reason: "relay: listen: ",
		gauge: `outbox_relay_degraded{state="listen"}`, line: []string{"relay: degraded", "state=listen"}, end: func(a *ailing) { a.postgres.Deafen(false) },
	},
	"Redis evicts": {
		env:    map[string]string{"ROLE": "relay"},
		before: func(a *ailing) { a.do(a.redis.ConfigSet(a.t.Context(), "maxmemory-policy", "allkeys-lru").Err()) },
		status: http.StatusOK, reason: "relay: eviction: ", gauge: `outbox_relay_degraded{state="eviction"}`,
		line: []string{"relay: degraded", "state=eviction"},
	},
	"no subscription": {
		env: map[string]string{"ROLE": "ws"}, begin: func(a *ailing) { a.do(a.server.Pause()) }, status: http.StatusServiceUnavailable,
		reason: "ws: subscription: ", gauge: `outbox_relay_reader_degraded{state="subscription"}`,
		line: []string{"relay: degraded", "state=subscription"}, end: func(a *ailing) { a.do(a.server.Continue()) },
	},
	"rooms can't be read": {
		begin: func(a *ailing) {
			a.served()
			a.do(a.server.Pause())
		},
		status: http.StatusServiceUnavailable, reason: "ws: log: ", gauge: `outbox_relay_ws_degraded{state="log"}`,
		line: []string{"ws: degraded", "state=log"}, end: func(a *ailing) { a.do(a.server.Continue()) },
	},
	"memberships can't be read": {
		env: map[string]string{"ROLE": "ws"}, begin: func(a *ailing) {
			a.postgres.Down()
			a.client()
		},
		status: http.StatusServiceUnavailable, reason: "ws: memberships: ", gauge: `outbox_relay_ws_degraded{state="memberships"}`,
		line: []string{"ws: degraded", "state=memberships"}, end: func(a *ailing) { a.postgres.Resume() },
	},
}

// Every state in which a process does less than its whole work shows in /readyz with its reason, in a metric and in one line of the log, and is
// taken back when it is over.
func TestEveryDegradedStateIsLoud(t *testing.T) {
	t.Parallel()
	for name, d := range degradations {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a := newAiling(t)
			if d.before != nil {
				d.before(a)
			}
			b := a.serve(d.env)
			if d.begin != nil {
				a.shows(http.StatusOK, "", d.gauge, 0)
				d.begin(a)
			}
			a.shows(d.status, d.reason, d.gauge, 1)
			if n := b.says(append([]string{"level=WARN"}, d.line...)...); n != 1 {
				t.Errorf("%d lines of the log say so, want 1:\n%s", n, b.stderr.String())
			}
			if d.end != nil {
				d.end(a)
				a.shows(http.StatusOK, "", d.gauge, 0)
			}
		})
	}
}

// A relay that doesn't lead is no worse for it, and shows it all the same.
func TestAStandbyIsShown(t *testing.T) {
	t.Parallel()
	a := newAiling(t)
	leads := a.serve(nil)
	standby := *a.site
	standby.vars = maps.Clone(a.vars)
	standby.vars["LISTEN_ADDR"], standby.vars["ADMIN_ADDR"] = testenv.FreeAddr(t), testenv.FreeAddr(t)
	b := standby.serve(nil)
	role := func(leader bool, gauge int) {
		t.Helper()
		standby.shows(http.StatusOK, "", "outbox_relay_leader", gauge)
		_, body, err := get("http://" + standby.vars["ADMIN_ADDR"] + "/readyz")
		if want := fmt.Sprintf(`"leader":%v`, leader); err != nil || !strings.Contains(body, want) {
			t.Errorf("readyz %s (%v), want %s", body, err, want)
		}
	}
	role(false, 0)
	if n := b.says("relay: standby"); n != 1 {
		t.Errorf("%d lines of the log say so, want 1:\n%s", n, b.stderr.String())
	}
	if code := leads.stop(); code != 0 {
		t.Fatal(code)
	}
	role(true, 1)
	if n := b.says("relay: leading"); n != 1 {
		t.Errorf("%d lines of the log say that it leads, want 1:\n%s", n, b.stderr.String())
	}
}
