package scenario_test

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/redis/go-redis/v9"

	"github.com/outboxrelay/outboxrelay/auth"
	"github.com/outboxrelay/outboxrelay/internal/scenario"
	"github.com/outboxrelay/outboxrelay/internal/testenv"
)

// Every secret of the test has this word in it, and nothing else has.
const canary = "canary"

const (
	canarySecret   = "canary-Zq8sd7FhQ2mZx0PvLr5TnYw3BcEu6AgD"
	canaryPassword = "canary-password-4711"
	canaryBody     = "canary-in-the-body-of-an-event"
)

// TestNoSecretIsTold runs the real process at LOG_LEVEL=debug with a canary in every secret, drives good and bad traffic and faults through it,
// and looks for the canary in everything that comes out: logs, metrics, readiness, profiles, error frames, answers, arguments.
func TestNoSecretIsTold(t *testing.T) {
	t.Parallel()
	server := testenv.OwnRedis(t)
	admin := openRedis(t, server.URL())
	if err := admin.ConfigSet(t.Context(), "requirepass", canaryPassword).Err(); err != nil {
		t.Fatal(err)
	}
	redisURL := strings.Replace(server.URL(), "redis://", "redis://:"+canaryPassword+"@", 1)
	w := scenario.New(t, testenv.Postgres(t), redisURL, 1, 2)
	role := withPassword(t, w, canaryPassword)
	n := w.Node("JWT_ACCESS_SECRET=" + canarySecret)
	n.Ready()

	var told strings.Builder // what others get to see
	token, err := auth.Mint([]byte(canarySecret), "u0", time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	conn := authenticate(t, n, token)
	bad := badTraffic(t, n, token)
	fmt.Fprint(&told, bad)
	if _, err := w.Pool.Exec(t.Context(), "SELECT relay.emit('p0', 'request:created', json_build_object('text', $1::text))", canaryBody); err != nil {
		t.Fatal(err)
	}
	await(t, conn, canaryBody) // for the member: that is what it's there for
	fmt.Fprintln(&told, locked(t, w, n, admin, role))
	n.Ready()
	authenticate(t, n, token)
	for _, path := range []string{
		"/readyz", "/metrics", "/healthz", "/debug/pprof/", "/debug/pprof/cmdline", "/debug/pprof/goroutine?debug=2", "/debug/pprof/heap?debug=1", "/debug/pprof/allocs?debug=1",
		"/debug/pprof/block?debug=1", "/debug/pprof/mutex?debug=1", "/debug/pprof/threadcreate?debug=1", "/debug/vars", "/",
	} {
		body, err := n.Get(path)
		fmt.Fprintf(&told, "%s: %s %v\n", path, body, err)
	}
	arguments, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", n.Pid()))
	if err == nil { // where there is /proc
		told.Write(arguments)
	}
	if code := n.Stop(); code != 0 {
		t.Errorf("exit code %d", code)
	}
	log := n.Log()
	if !strings.Contains(log, "level=DEBUG") || !strings.Contains(log, "level=WARN") {
		t.Errorf("the log has no lines that could give anything away:\n%s", log)
	}
	parts := strings.Split(token, ".")
	for what, text := range map[string]string{"the log": log, "an answer": told.String()} {
		for line := range strings.Lines(text) {
			if strings.Contains(strings.ToLower(line), canary) || strings.Contains(line, parts[1]) || strings.Contains(line, parts[2]) {
				t.Errorf("%s tells: %s", what, line)
			}
		}
	}
}

// locked lets neither Redis nor Postgres take the node's password for a while, and returns what it says about that.
func locked(t *testing.T, w *scenario.World, n *scenario.Node, admin redis.UniversalClient, role string) string {
	t.Helper()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	ctx := testenv.Context(t, time.Minute)
	must(admin.ConfigSet(ctx, "requirepass", "another one").Err())
	must(admin.Do(ctx, "CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes").Err())
	must(admin.Do(ctx, "CLIENT", "KILL", "TYPE", "pubsub").Err())
	_, err := w.Pool.Exec(ctx, "ALTER ROLE "+role+" NOLOGIN")
	must(err)
	_, err = w.Pool.Exec(ctx, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = $1", role)
	must(err)
	var told string
	testenv.Eventually(t, 30*time.Second, func() error {
		_, err := n.Get("/readyz")
		if told = fmt.Sprint(err); !strings.Contains(told, "not permitted to log in") || !strings.Contains(told, "WRONGPASS") {
			return fmt.Errorf("readyz: %s", told)
		}
		return nil
	})
	must(admin.ConfigSet(ctx, "requirepass", canaryPassword).Err())
	_, err = w.Pool.Exec(ctx, "ALTER ROLE "+role+" LOGIN")
	must(err)
	return told
}

// withPassword makes the nodes use a role of their own with this password, which it returns.
func withPassword(t *testing.T, w *scenario.World, password string) string {
	t.Helper()
	role := fmt.Sprintf("bird_%d", time.Now().UnixNano())
	if _, err := w.Pool.Exec(t.Context(), fmt.Sprintf("CREATE ROLE %s SUPERUSER LOGIN PASSWORD '%s'", role, password)); err != nil {
		t.Fatal(err)
	}
	u, err := url.Parse(w.DatabaseURL)
	if err != nil {
		t.Fatal(err)
	}
	u.User = url.UserPassword(role, password)
	pool := testenv.Pool(t, w.DatabaseURL)
	t.Cleanup(func() {
		testenv.Eventually(t, 10*time.Second, func() error {
			_, err := pool.Exec(context.Background(), "DROP ROLE "+role)
			return err
		})
	})
	w.DatabaseURL = u.String()
	return role
}

// authenticate connects by first frame and waits for live.
func authenticate(t *testing.T, n *scenario.Node, token string) *websocket.Conn {
	t.Helper()
	ctx := testenv.Context(t, 20*time.Second)
	conn, _, err := websocket.Dial(ctx, n.URL(), nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.CloseNow() })
	if err := conn.Write(ctx, websocket.MessageText, fmt.Appendf(nil, `{"type":"auth","token":%q}`, token)); err != nil {
		t.Fatal(err)
	}
	await(t, conn, `"live"`)
	return conn
}

func await(t *testing.T, conn *websocket.Conn, text string) {
	t.Helper()
	ctx := testenv.Context(t, 20*time.Second)
	for {
		_, b, err := conn.Read(ctx)
		if err != nil {
			t.Fatalf("no %s: %v", text, err)
		}
		if strings.Contains(string(b), text) {
			return
		}
	}
}

// badTraffic sends canaries where they don't belong, and returns all that was answered.
func badTraffic(t *testing.T, n *scenario.Node, token string) string {
	t.Helper()
	var told strings.Builder
	ctx := testenv.Context(t, time.Minute)
	forged := token[:len(token)-8] + "AAAAAAAA"
	for _, first := range []string{
		fmt.Sprintf(`{"type":"auth","token":%q}`, forged), `{"type":"auth","token":"canary"}`, `{"type":"canary"}`, `{"canary`, `{"type":"auth","token":"x","since":"canary"}`,
		fmt.Sprintf(`{"type":"auth","token":%q,"since":"canary"}`, token), fmt.Sprintf(`{"type":"auth","token":"%s"}`, strings.Repeat("canary", 20_000)),
	} {
		conn, _, err := websocket.Dial(ctx, n.URL()+"?token=canary", nil)
		if err != nil {
			t.Fatal(err)
		}
		_ = conn.Write(ctx, websocket.MessageText, []byte(first))
		for err == nil {
			var b []byte
			_, b, err = conn.Read(ctx)
			told.Write(b)
			told.WriteByte('\n')
		}
		fmt.Fprintln(&told, err)
		_ = conn.CloseNow()
	}
	for _, header := range []http.Header{
		{"Authorization": {"Bearer " + forged}},
		{"Authorization": {"Bearer canary"}},
		{"Authorization": {"canary"}},
		{"Origin": {"https://canary.example"}},
		{"Sec-WebSocket-Version": {"canary"}},
		{"X-Forwarded-For": {"canary"}},
		{"Authorization": {"Bearer " + strings.Repeat("canary", 20_000)}},
	} {
		for _, path := range []string{"", "/canary", "?access_token=canary"} {
			r, err := http.NewRequestWithContext(ctx, http.MethodGet, "http"+strings.TrimPrefix(n.URL(), "ws")+path, nil)
			if err != nil {
				t.Fatal(err)
			}
			r.Header = header.Clone()
			r.Header.Set("Connection", "Upgrade")
			r.Header.Set("Upgrade", "websocket")
			response, err := (&http.Transport{DisableKeepAlives: true}).RoundTrip(r)
			if err != nil {
				continue // cut in the middle of a header that is too long
			}
			_ = response.Write(&told)
			response.Body.Close()
		}
	}
	return told.String()
}
