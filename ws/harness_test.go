package ws_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/redis/go-redis/v9"

	"github.com/outboxrelay/outboxrelay/auth"
	"github.com/outboxrelay/outboxrelay/internal/testenv"
	"github.com/outboxrelay/outboxrelay/outbox"
	"github.com/outboxrelay/outboxrelay/relay"
	"github.com/outboxrelay/outboxrelay/ws"
)

func TestMain(m *testing.M) { testenv.Main(m) }

var secret = []byte("kJ8sd7FhQ2mZx0PvLr5TnYw3BcEu6AgD")

// logs is relay.History as the hub wants it.
type logs struct{ *relay.History }

func (l logs) After(ctx context.Context, program string, after int64, limit int) (ws.Page, error) {
	p, err := l.History.After(ctx, program, after, limit)
	return page(p), expired(err)
}

func (l logs) Before(ctx context.Context, program string, before, after int64, limit int) (ws.Page, error) {
	p, err := l.History.Before(ctx, program, before, after, limit)
	return page(p), expired(err)
}

func (l logs) Watch(ctx context.Context, wake func(string, ws.News)) error {
	return l.History.Watch(ctx, func(topic string, news relay.News) {
		wake(topic, ws.News{After: news.After, Entries: entries(news.Entries)})
	})
}

func page(p relay.Page) ws.Page {
	return ws.Page{Entries: entries(p.Entries), Through: p.Through, More: p.More, Newest: p.Newest, Head: p.Head}
}

func entries(list []relay.Entry) (entries []ws.Entry) {
	for _, e := range list {
		entries = append(entries, ws.Entry{Position: e.Position, Frame: e.Frame, Control: (*ws.Control)(e.Control)})
	}
	return entries
}

func expired(err error) error {
	if errors.Is(err, outbox.ErrExpired) {
		return ws.ErrExpired
	}
	return err
}

// stack is a database, a Redis, and the relays and nodes that a test starts on them.
type stack struct {
	t     testing.TB
	pool  *pgxpool.Pool
	url   string
	redis redis.UniversalClient
}

func newStack(t testing.TB) *stack {
	t.Helper()
	pool, url := testenv.DB(t)
	return newStackOn(t, pool, url, testenv.Redis(t))
}

// newRelayed is a stack with a relay that has told the log of the programs that u1 is a member of.
func newRelayed(t testing.TB, programs ...string) *stack {
	t.Helper()
	s := newStack(t)
	s.user("u1", programs...)
	s.relay()
	s.settled()
	return s
}

func newStackOn(t testing.TB, pool *pgxpool.Pool, url, redisURL string) *stack {
	t.Helper()
	client, err := relay.OpenRedis(redisURL)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close() })
	return &stack{t, pool, url, client}
}

// relay starts a relay; the returned function stops it.
func (s *stack) relay() (stop func()) {
	s.t.Helper()
	r, err := relay.New(relay.Config{DatabaseURL: s.url, Redis: s.redis, Logger: testenv.Logger(s.t)})
	if err != nil {
		s.t.Fatal(err)
	}
	return s.running(r.Run)
}

func (s *stack) running(run func(context.Context) error) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- run(ctx) }()
	stopped := false
	stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := <-done; err != nil {
			s.t.Errorf("Run: %v", err)
		}
	}
	s.t.Cleanup(stop)
	return stop
}

// node is one WebSocket server.
type node struct {
	*stack
	hub      *ws.Hub
	registry *prometheus.Registry
	url      string
	stop     func()
}

func (s *stack) node(change func(*ws.Config)) *node {
	s.t.Helper()
	verifier, err := auth.NewVerifier(auth.Config{Secret: secret})
	if err != nil {
		s.t.Fatal(err)
	}
	registry := prometheus.NewRegistry()
	c := ws.Config{
		Log:  logs{relay.NewHistory(relay.HistoryConfig{Redis: s.redis, Pool: s.pool, Logger: testenv.Logger(s.t)})},
		Auth: verifier, Store: auth.NewStore(s.pool), Logger: testenv.Logger(s.t), ShutdownGrace: 20 * time.Millisecond,
		MessageBurst: 100, Registerer: registry,
	}
	if change != nil {
		change(&c)
	}
	hub, err := ws.New(c)
	if err != nil {
		s.t.Fatal(err)
	}
	server := httptest.NewUnstartedServer(hub)
	server.Config.MaxHeaderBytes = 32 << 10 // as the command sets it
	server.Start()
	s.t.Cleanup(server.Close)
	n := &node{stack: s, hub: hub, registry: registry, url: "ws" + strings.TrimPrefix(server.URL, "http")}
	n.stop = s.running(hub.Run)
	testenv.Eventually(s.t, 10*time.Second, func() error {
		if reasons := hub.Ready(); len(reasons) > 0 {
			return errors.New(reasons[0])
		}
		return nil
	})
	return n
}

func (s *stack) exec(sql string, args ...any) {
	s.t.Helper()
	if _, err := s.pool.Exec(context.Background(), sql, args...); err != nil {
		s.t.Fatal(err)
	}
}

// user makes a member of programs.
func (s *stack) user(id string, programs ...string) {
	s.t.Helper()
	s.exec("INSERT INTO relay.users (id, first_name, last_name) VALUES ($1, 'Ann', 'Lee')", id)
	for _, p := range programs {
		s.join(id, p)
	}
}

func (s *stack) join(user, program string) {
	s.t.Helper()
	s.exec("INSERT INTO relay.program_members (user_id, program_id) VALUES ($1, $2)", user, program)
}

func (s *stack) kick(user, program string) {
	s.t.Helper()
	s.exec("DELETE FROM relay.program_members WHERE user_id = $1 AND program_id = $2", user, program)
}

// emit commits n events in as many transactions; their data is {"n": first}, {"n": first+1}, …
func (s *stack) emit(program string, first, n int) {
	s.t.Helper()
	for i := range n {
		s.exec("SELECT relay.emit($1, 'request:created', json_build_object('n', $2::int))", program, first+i)
	}
}

// settled waits until everything committed so far is in the logs, and returns the position of the newest tick.
func (s *stack) settled() int64 {
	s.t.Helper()
	var tick int64
	testenv.Eventually(s.t, 20*time.Second, func() error {
		var all bool
		err := s.pool.QueryRow(context.Background(), `WITH t AS (SELECT * FROM relay.ticks ORDER BY position DESC LIMIT 1)
			SELECT coalesce((SELECT position FROM t), 0), NOT EXISTS (SELECT FROM relay.outbox o WHERE NOT EXISTS
			(SELECT FROM t WHERE pg_visible_in_snapshot(o.xid, t.snapshot)))`).Scan(&tick, &all)
		if err != nil || !all {
			return fmt.Errorf("events are not relayed yet (%w)", err)
		}
		head, err := s.redis.Get(context.Background(), "socket:events:head").Result()
		if want := strconv.FormatInt(tick, 10); !strings.HasSuffix(head, ":"+want) {
			return fmt.Errorf("head is %q, tick is %s (%w)", head, want, err)
		}
		return nil
	})
	return tick
}

// frame is any frame of the server.
type frame struct {
	Type, Event, UserID, Role, ProgramID, Position, After, Before, Reason, Code, Message, ID, Timestamp string
	Programs                                                                                            []string
	TokenExpiresAt                                                                                      time.Time
	Data                                                                                                struct{ N int }
}

func (f frame) String() string {
	switch f.Type {
	case "event":
		return fmt.Sprintf("%s:%d", f.ProgramID, f.Data.N)
	case "gap":
		return "gap " + f.ProgramID + " " + f.Reason
	case "joined", "left":
		return f.Type + " " + f.ProgramID
	case "error":
		return "error " + f.Code
	}
	return f.Type
}

func (f frame) position() int64 { return number(f.Position) }

func number(s string) int64 {
	p, err := strconv.ParseInt(s, 10, 64)
	if err != nil {
		return -1
	}
	return p
}

// client is a WebSocket client that keeps what it has received.
type client struct {
	t     testing.TB
	conn  *websocket.Conn
	queue []frame // of a batch, not yet returned
}

func (n *node) token(user string) string {
	n.t.Helper()
	return mint(n.t, secret, user, time.Hour)
}

// mint signs a token.
func mint(t testing.TB, secret []byte, user string, ttl time.Duration) string {
	t.Helper()
	token, err := auth.Mint(secret, user, ttl)
	if err != nil {
		t.Fatal(err)
	}
	return token
}

// authFrame is the frame that authenticates; extra are further fields of it, such as `"since":"17"`.
func authFrame(token string, extra ...string) string {
	return fmt.Sprintf(`{"type":"auth","token":%q%s}`, token, strings.Join(append([]string{""}, extra...), ","))
}

// dial connects without authenticating.
func (n *node) dial() *client {
	n.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	conn, _, err := websocket.Dial(ctx, n.url, nil)
	if err != nil {
		n.t.Fatal(err)
	}
	conn.SetReadLimit(-1)
	n.t.Cleanup(func() { _ = conn.CloseNow() })
	return &client{t: n.t, conn: conn}
}

// connect authenticates; extra as in authFrame.
func (n *node) connect(user string, extra ...string) *client {
	n.t.Helper()
	c := n.dial()
	c.send(authFrame(n.token(user), extra...))
	return c
}

// connectHeader authenticates by header; the answer's status if it was refused.
func (n *node) connectHeader(token, query string) (*client, *http.Response) {
	n.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	conn, response, err := websocket.Dial(ctx, n.url+query, &websocket.DialOptions{
		HTTPHeader: http.Header{"Authorization": {"Bearer " + token}},
	})
	if err != nil {
		return nil, response
	}
	n.t.Cleanup(func() { _ = conn.CloseNow() })
	return &client{t: n.t, conn: conn}, response
}

func (c *client) send(text string) {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if err := c.conn.Write(ctx, websocket.MessageText, []byte(text)); err != nil {
		c.t.Fatalf("send %.60s: %v", text, err)
	}
}

// read returns the next frame, or the error that ended the connection.
func (c *client) read() (frame, error) {
	if len(c.queue) == 0 {
		ctx, cancel := context.WithTimeout(context.Background(), 15*time.Second)
		defer cancel()
		_, b, err := c.conn.Read(ctx)
		if err != nil {
			return frame{}, err
		}
		if b[0] != '[' {
			b = append(append([]byte{'['}, b...), ']')
		}
		if err := json.Unmarshal(b, &c.queue); err != nil {
			return frame{}, fmt.Errorf("frame %s: %w", b, err)
		}
	}
	f := c.queue[0]
	c.queue = c.queue[1:]
	return f, nil
}

func (c *client) next() frame {
	c.t.Helper()
	f, err := c.read()
	if err != nil {
		c.t.Fatalf("no frame: %v", err)
	}
	return f
}

// until returns the frames up to and including the first whose String is last.
func (c *client) until(last string) []frame {
	c.t.Helper()
	var list []frame
	for {
		f, err := c.read()
		if err != nil {
			c.t.Fatalf("no %q after %v: %v", last, list, err)
		}
		if list = append(list, f); f.String() == last {
			return list
		}
	}
}

// expect fails unless exactly these frames come next; position frames don't count.
func (c *client) expect(want ...string) []frame {
	c.t.Helper()
	var got []frame
	for len(got) < len(want) {
		f, err := c.read()
		if err != nil {
			c.t.Fatalf("got %v, want %v: %v", got, want, err)
		}
		if f.Type == "position" {
			continue
		}
		if got = append(got, f); f.String() != want[len(got)-1] {
			c.t.Fatalf("got %v, want %v", got, want)
		}
	}
	return got
}

// expectClose fails unless the connection ends with this error frame (empty: none) and close code.
func (c *client) expectClose(code string, status websocket.StatusCode) {
	c.t.Helper()
	if last, got := c.ending(); got != status || last != code {
		c.t.Errorf("closed with %q, %d, want %q, %d", last, got, code, status)
	}
}

// ending waits for the end of the connection and returns the code of the last frame, if that was an error, and the close code; -1: none.
func (c *client) ending() (code string, status websocket.StatusCode) {
	for {
		f, err := c.read()
		if err != nil {
			return code, websocket.CloseStatus(err)
		}
		code = f.Code
	}
}

func (c *client) close() { _ = c.conn.Close(websocket.StatusNormalClosure, "") }

// events is what String gives for n events of a program.
func events(program string, first, n int) []string {
	list := make([]string, n)
	for i := range list {
		list[i] = fmt.Sprintf("%s:%d", program, first+i)
	}
	return list
}

// metric returns the value of a metric, of the one with this label value if there is one.
func (n *node) metric(name, label string) float64 {
	n.t.Helper()
	families, err := n.registry.Gather()
	if err != nil {
		n.t.Fatal(err)
	}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			if f.GetName() == "outbox_relay_ws_"+name && (label == "" || m.GetLabel()[0].GetValue() == label) {
				return m.GetCounter().GetValue() + m.GetGauge().GetValue()
			}
		}
	}
	return 0
}

func (n *node) connections(want float64) error {
	if got := n.metric("connections", ""); got != want {
		return fmt.Errorf("%v connections, want %v", got, want)
	}
	return nil
}

func (n *node) closes(code int, want float64) error {
	if got := n.metric("closes_total", strconv.Itoa(code)); got != want {
		return fmt.Errorf("%v closed with %d, want %v", got, code, want)
	}
	return nil
}
