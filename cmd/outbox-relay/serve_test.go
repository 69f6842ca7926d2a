package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/outboxrelay/outboxrelay/auth"
	"github.com/outboxrelay/outboxrelay/internal/testenv"
)

// site is a database with a user, u1, who is a member of p1, a Redis, and the settings of a server on both.
type site struct {
	t    *testing.T
	pool *pgxpool.Pool
	vars map[string]string
}

func newSite(t *testing.T) *site {
	t.Helper()
	pool, url := testenv.DB(t)
	if _, err := pool.Exec(t.Context(), `INSERT INTO relay.users (id) VALUES ('u1');
		INSERT INTO relay.program_members (user_id, program_id) VALUES ('u1', 'p1')`); err != nil {
		t.Fatal(err)
	}
	return &site{t, pool, with(map[string]string{
		"DATABASE_URL": url, "REDIS_URL": testenv.Redis(t), "LISTEN_ADDR": testenv.FreeAddr(t), "ADMIN_ADDR": testenv.FreeAddr(t), "SHUTDOWN_GRACE": "50ms",
	})}
}

// serve starts a server with further settings and waits until it is ready.
func (s *site) serve(more map[string]string) *background {
	s.t.Helper()
	vars := maps.Clone(s.vars)
	maps.Copy(vars, more)
	b := start(s.t, vars, "serve")
	testenv.Eventually(s.t, 20*time.Second, func() error {
		if status, body, err := get("http://" + vars["ADMIN_ADDR"] + "/readyz"); err != nil || status != http.StatusOK {
			return fmt.Errorf("readyz: %d %s (%w)\n%s", status, body, err, b.stderr.String())
		}
		return nil
	})
	return b
}

func (s *site) emit(program, event string) {
	s.t.Helper()
	if _, err := s.pool.Exec(s.t.Context(), "SELECT relay.emit($1, $2)", program, event); err != nil {
		s.t.Fatal(err)
	}
}

// settled waits until everything committed so far has been relayed: memberships are as of the newest tick.
func (s *site) settled() {
	s.t.Helper()
	testenv.Eventually(s.t, 20*time.Second, func() error {
		var all bool
		err := s.pool.QueryRow(s.t.Context(), `WITH t AS (SELECT * FROM relay.ticks ORDER BY position DESC LIMIT 1)
			SELECT NOT EXISTS (SELECT FROM relay.outbox o WHERE NOT EXISTS (SELECT FROM t WHERE pg_visible_in_snapshot(o.xid, t.snapshot)))`).Scan(&all)
		if err == nil && !all {
			err = errors.New("events are not relayed yet")
		}
		return err
	})
}

func get(url string) (status int, body string, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return 0, "", err
	}
	request.Close = true // no idle connection is left behind
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return 0, "", err
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	return response.StatusCode, string(text), err
}

// events waits until the output has at least n lines and returns their events' names.
func events(t *testing.T, out *output, n int) []string {
	t.Helper()
	var names []string
	testenv.Eventually(t, 20*time.Second, func() error {
		names = nil
		for line := range strings.Lines(out.String()) {
			var f struct{ Type, Event string }
			if err := json.Unmarshal([]byte(line), &f); err != nil || f.Type != "event" {
				return fmt.Errorf("a line is no event: %q (%w)", line, err)
			}
			names = append(names, f.Event)
		}
		if len(names) < n {
			return fmt.Errorf("%d events, want %d", len(names), n)
		}
		return nil
	})
	return names
}

func TestFromCommitToTailAcrossRestart(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	server := s.serve(nil)
	tail := start(t, s.vars, "tail", "--user", "u1", "--url", "http://"+s.vars["LISTEN_ADDR"])
	testenv.Eventually(t, 10*time.Second, func() error {
		// The membership is as of the newest tick: before the relay's first one there is none, and then it is joined.
		if text := tail.stderr.String(); !strings.Contains(text, "programs [p1]") && !strings.Contains(text, `"joined"`) {
			return errors.New("tail isn't connected: " + tail.stderr.String())
		}
		return nil
	})
	s.emit("p1", "one:first")
	s.emit("p2", "not:mine")
	events(t, &tail.stdout, 1)
	if code := server.stop(); code != 0 {
		t.Fatalf("serve: exit code %d:\n%s", code, server.stderr.String())
	}
	s.emit("p1", "two:missed")
	s.serve(nil)
	s.emit("p1", "three:live")
	if got := strings.Join(events(t, &tail.stdout, 3), " "); got != "one:first two:missed three:live" {
		t.Errorf("tail printed %s", got)
	}
	if code := tail.stop(); code != 0 {
		t.Errorf("tail: exit code %d:\n%s", code, tail.stderr.String())
	}
	if strings.Contains(tail.stderr.String(), "gap") {
		t.Errorf("tail was told of a gap:\n%s", tail.stderr.String())
	}
}

// What the URL says of a pool is for the pool alone: Postgres refuses a connection that asks for pool_max_conns.
func TestPoolSettingsInTheURL(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.vars["DATABASE_URL"] += "&pool_max_conns=3&pool_max_conn_lifetime=1h"
	for _, command := range [][]string{{"migrate", "up"}, {"migrate", "status"}, {"doctor"}, {"emit", "--program", "p1", "--event", "a:b"}} {
		if code, stdout, stderr := call(t, s.vars, command...); code != 0 {
			t.Errorf("%s: exit code %d, wrote %s%s", strings.Join(command, " "), code, stdout, stderr)
		}
	}
	s.serve(nil)
	s.settled()
	var readers int
	err := s.pool.QueryRow(t.Context(), "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'outbox-relay reader'").Scan(&readers)
	if err != nil || readers > 3 {
		t.Errorf("%d reading connections (%v)", readers, err)
	}
	if code, _, stderr := call(t, map[string]string{"DATABASE_URL": s.vars["DATABASE_URL"] + "&pool_max_conns=many"}, "migrate", "status"); code != 2 || !strings.Contains(stderr, "DATABASE_URL") {
		t.Errorf("a bad pool_max_conns: exit code %d, wrote %q", code, stderr)
	}
}

// Nobody listens at the address: that was told in the library's words, five colons deep, without what to do.
func TestTailNamesAnAddressWhereNobodyListens(t *testing.T) {
	t.Parallel()
	tail := start(t, with(nil), "tail", "--user", "u1", "--url", "ws://127.0.0.1:1")
	testenv.Eventually(t, 20*time.Second, func() error {
		line, _, whole := strings.Cut(tail.stderr.String(), "\n")
		if want := "tail: connect to ws://127.0.0.1:1/ws: connect: connection refused: is --url right?; trying again"; !whole || line != want {
			return fmt.Errorf("it wrote %q, want %q", line, want)
		}
		return nil
	})
}

func TestTailGivesUpOnBadToken(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.serve(nil)
	foreign := maps.Clone(s.vars)
	foreign["JWT_ACCESS_SECRET"] = strings.ToUpper(goodSecret)
	code, _, stderr := call(t, foreign, "tail", "--user", "u1", "--url", "ws://"+s.vars["LISTEN_ADDR"]+"/ws")
	if code != 1 || !strings.Contains(stderr, "4500") || !strings.Contains(stderr, "JWT_ACCESS_SECRET") {
		t.Errorf("exit code %d, wrote %q", code, stderr)
	}
	code, _, stderr = call(t, s.vars, "tail", "--user", "u1", "--url", "ws://"+s.vars["LISTEN_ADDR"]+"/nowhere")
	if code != 1 || !strings.Contains(stderr, "404") {
		t.Errorf("wrong path: exit code %d, wrote %q", code, stderr)
	}
}

func TestListeners(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	b := s.serve(nil)
	for path, want := range map[string]struct {
		status int
		text   string
	}{
		"LISTEN_ADDR/ws":                           {http.StatusUpgradeRequired, "WebSocket"},
		"LISTEN_ADDR/":                             {http.StatusNotFound, "404"},
		"LISTEN_ADDR/metrics":                      {http.StatusNotFound, "404"},
		"LISTEN_ADDR/debug/":                       {http.StatusNotFound, "404"},
		"ADMIN_ADDR/healthz":                       {http.StatusOK, "ok"},
		"ADMIN_ADDR/readyz":                        {http.StatusOK, `"leader":true`},
		"ADMIN_ADDR/metrics":                       {http.StatusOK, "outbox_relay_ws_connections 0"},
		"ADMIN_ADDR/ws":                            {http.StatusNotFound, "404"},
		"ADMIN_ADDR/debug/pprof/goroutine?debug=1": {http.StatusOK, "goroutine profile"},
		"ADMIN_ADDR/debug/freemem":                 {http.StatusMethodNotAllowed, "Method Not Allowed"},
	} {
		name, rest, _ := strings.Cut(path, "/")
		status, body, err := get("http://" + s.vars[name] + "/" + rest)
		if err != nil || status != want.status || !strings.Contains(body, want.text) {
			t.Errorf("%s: %d %.200q (%v), want %d and %q", path, status, body, err, want.status, want.text)
		}
	}
	answer, err := http.Post("http://"+s.vars["ADMIN_ADDR"]+"/debug/freemem", "", nil)
	if err != nil || answer.StatusCode != http.StatusOK {
		t.Errorf("POST /debug/freemem: %v (%v)", answer, err)
	} else {
		answer.Body.Close()
	}
	code, _, stderr := call(t, s.vars, "serve")
	if code != 1 || !strings.Contains(stderr, "listen \""+s.vars["LISTEN_ADDR"]+"\"") || !strings.Contains(stderr, "set LISTEN_ADDR") {
		t.Errorf("a second server on the same address: exit code %d, wrote %q", code, stderr)
	}
	if strings.Contains(b.stderr.String(), goodSecret) {
		t.Error("the log holds the secret")
	}
}

func TestRolesApart(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	admin := testenv.FreeAddr(t)
	s.serve(map[string]string{"ROLE": "relay", "JWT_ACCESS_SECRET": "", "ADMIN_ADDR": admin, "RELAY_POLL_ONLY": "true"})
	s.serve(map[string]string{"ROLE": "ws"})
	if _, body, err := get("http://" + admin + "/readyz"); err != nil || !strings.Contains(body, "poll-only") {
		t.Errorf("readyz of a relay that polls: %q (%v)", body, err)
	}
	if _, body, err := get("http://" + s.vars["ADMIN_ADDR"] + "/readyz"); err != nil || strings.Contains(body, "leader") {
		t.Errorf("readyz of a node without a relay: %q (%v)", body, err)
	}
	s.emit("p1", "over:redis")
	tail := start(t, s.vars, "tail", "--user", "u1", "--since", "1", "--url", "ws://"+s.vars["LISTEN_ADDR"]+"/ws")
	if got := events(t, &tail.stdout, 1); got[0] != "over:redis" {
		t.Errorf("tail printed %q", got)
	}
}

// An operator sees a program's log without a server, a token or a membership: what is added, or all of it from a position on.
func TestTailOfAProgram(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.serve(map[string]string{"ROLE": "relay", "JWT_ACCESS_SECRET": ""})
	vars := map[string]string{"DATABASE_URL": s.vars["DATABASE_URL"], "REDIS_URL": s.vars["REDIS_URL"]}
	s.emit("p2", "not:mine")
	first := start(t, vars, "tail", "--program", "p2", "--since", "0")
	events(t, &first.stdout, 1)
	s.emit("p1", "another:program")
	s.emit("p2", "added:later")
	if got := strings.Join(events(t, &first.stdout, 2), " "); got != "not:mine added:later" {
		t.Errorf("tail printed %s", got)
	}
	if code := first.stop(); code != 0 {
		t.Errorf("tail: exit code %d:\n%s", code, first.stderr.String())
	}
	ahead := start(t, vars, "tail", "--program", "p2", "--since", "9000000000000000000") // it waited there in silence
	testenv.Eventually(t, 20*time.Second, func() error {
		if text := ahead.stderr.String(); !strings.Contains(text, "9000000000000000000 is beyond the newest position, ") {
			return fmt.Errorf("it wrote %q", text)
		}
		return nil
	})
	s.emit("p2", "from:here")
	if got := strings.Join(events(t, &ahead.stdout, 1), " "); got != "from:here" {
		t.Errorf("tail printed %s", got)
	}
	code, _, stderr := call(t, map[string]string{"DATABASE_URL": vars["DATABASE_URL"]}, "tail", "--program", "p2")
	if code != 2 || !strings.Contains(stderr, "REDIS_URL") || !strings.Contains(stderr, "--user") {
		t.Errorf("without Redis: exit code %d: %s", code, stderr)
	}
}

// TestMetricsAreDocumented compares /metrics with docs/CONFIGURATION.md. A metric with labels may not have counted anything yet.
func TestMetricsAreDocumented(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.serve(nil)
	_, metrics, err := get("http://" + s.vars["ADMIN_ADDR"] + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	names := func(pattern, text string) map[string]bool {
		found := map[string]bool{}
		for _, m := range regexp.MustCompile(pattern).FindAllStringSubmatch(text, -1) {
			found[m[1]] = true
		}
		return found
	}
	document := readFile(t, "../../docs/CONFIGURATION.md")
	there, told := names(`(?m)^# TYPE (outbox_relay_\S+) `, metrics), names("`(outbox_relay_[a-z_]+)[`{]", document)
	for name := range there {
		if !told[name] {
			t.Errorf("docs/CONFIGURATION.md doesn't say what %s is", name)
		}
	}
	for name := range names("`(outbox_relay_[a-z_]+)`", document) {
		if !there[name] {
			t.Errorf("docs/CONFIGURATION.md has %s, /metrics hasn't", name)
		}
	}
}

// TestShutdown looks at the order: readiness turns red and the listener closes before the first socket is closed, the socket is closed with
// 1012, and the relay still leads until then.
func TestShutdown(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	b := s.serve(map[string]string{"SHUTDOWN_GRACE": "5s"})
	ctx := testenv.Context(t, 30*time.Second)
	token, err := auth.Mint([]byte(goodSecret), "u1", time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	var conns [2]*websocket.Conn
	for i := range conns {
		if conns[i], _, err = websocket.Dial(ctx, "ws://"+s.vars["LISTEN_ADDR"]+"/ws", nil); err != nil {
			t.Fatal(err)
		}
		defer conns[i].CloseNow() //nolint:errcheck // it is closed
		if err := conns[i].Write(ctx, websocket.MessageText, fmt.Appendf(nil, `{"type":"auth","token":%q}`, token)); err != nil {
			t.Fatal(err)
		}
		for live := false; !live; {
			_, text, err := conns[i].Read(ctx)
			if err != nil {
				t.Fatal(err)
			}
			live = bytes.Contains(text, []byte(`"live"`))
		}
	}
	b.cancel()
	testenv.Eventually(t, 10*time.Second, func() error {
		status, body, err := get("http://" + s.vars["ADMIN_ADDR"] + "/readyz")
		if err != nil || status != http.StatusServiceUnavailable || !strings.Contains(body, "stopping") || !strings.Contains(body, `"leader":true`) {
			return fmt.Errorf("readyz while it stops: %d %s (%w)", status, body, err)
		}
		_, _, err = websocket.Dial(ctx, "ws://"+s.vars["LISTEN_ADDR"]+"/ws", nil)
		if err == nil {
			return errors.New("it still takes connections")
		}
		return nil
	})
	for _, conn := range conns {
		for err = nil; err == nil; {
			_, _, err = conn.Read(ctx)
		}
		if websocket.CloseStatus(err) != websocket.StatusServiceRestart {
			t.Errorf("a socket was closed with %v, want 1012", err)
		}
	}
	if code := b.stop(); code != 0 {
		t.Errorf("exit code %d:\n%s", code, b.stderr.String())
	}
}

// A signal during the checks at the start, whatever they wait for, ended serve with 1, as if they had found something.
func TestServeIsStoppedDuringItsChecks(t *testing.T) {
	t.Parallel()
	for name, prepare := range map[string]func(a *ailing) (waits func() error){
		"connecting": func(a *ailing) func() error {
			a.postgres.Blackhole(testenv.ToClient)
			return func() error {
				if a.postgres.Connections() == 0 {
					return errors.New("it doesn't connect")
				}
				return nil
			}
		},
		"the schema": func(a *ailing) func() error {
			a.exec("CREATE OR REPLACE FUNCTION relay.schema_version() RETURNS integer LANGUAGE plpgsql AS 'BEGIN PERFORM pg_sleep(60); RETURN 1; END'")
			return a.running("state = 'active' AND query LIKE '%schema_version%'")
		},
		"a pooler": func(a *ailing) func() error {
			a.vars["DATABASE_URL"] = pgbouncer(a.t, a.direct, "transaction", 1)
			return a.running("state = 'idle in transaction'")
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a := newAiling(t)
			waits := prepare(a)
			b := start(t, a.vars, "serve")
			testenv.Eventually(t, 10*time.Second, waits)
			if code := b.stop(); code != 0 || b.stderr.String() != "" {
				t.Errorf("exit code %d, wrote %q", code, b.stderr.String())
			}
		})
	}
}

// running returns nil when another session of the database is in this state.
func (a *ailing) running(state string) func() error {
	return func() error {
		var n int
		err := a.pool.QueryRow(a.t.Context(), "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid() AND "+state).Scan(&n)
		if err == nil && n == 0 {
			err = errors.New("no session is so yet")
		}
		return err
	}
}
