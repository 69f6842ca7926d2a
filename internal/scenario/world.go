package scenario

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/outboxrelay/outboxrelay/internal/testenv"
)

// secret signs the tokens of the clients.
const secret = "scenario-signing-key-of-48-random-looking-bytes!"

// World is what the nodes of one scenario share.
type World struct {
	t           testing.TB
	DatabaseURL string
	RedisURL    string
	Pool        *pgxpool.Pool
}

// New returns a world on the given services. Programs p0 … and users u0 …, each a member of all programs, are created.
func New(t testing.TB, databaseURL, redisURL string, programs, users int) *World {
	t.Helper()
	w := Adopt(t, databaseURL, redisURL)
	_, err := w.Pool.Exec(t.Context(), `
		WITH u AS (INSERT INTO relay.users (id, first_name) SELECT 'u' || n, 'User ' || n FROM generate_series(0, $2::int - 1) n RETURNING id)
		INSERT INTO relay.program_members (user_id, program_id) SELECT u.id, 'p' || n FROM u, generate_series(0, $1::int - 1) n`, programs, users)
	if err != nil {
		t.Fatalf("create users and programs: %v", err)
	}
	return w
}

// Adopt is New without creating anything.
func Adopt(t testing.TB, databaseURL, redisURL string) *World {
	t.Helper()
	return &World{t: t, DatabaseURL: databaseURL, RedisURL: redisURL, Pool: testenv.Pool(t, databaseURL)}
}

// Default is a world on the shared cluster and a Redis of its own.
func Default(t testing.TB, programs, users int) *World {
	t.Helper()
	return New(t, testenv.Postgres(t), testenv.Redis(t), programs, users)
}

// Token is a user's access token.
func Token(user string) string {
	token, err := jwt.NewWithClaims(jwt.SigningMethodHS256, jwt.MapClaims{
		"sub": user, "exp": time.Now().Add(time.Hour).Unix(), "iat": time.Now().Unix(),
	}).SignedString([]byte(secret))
	if err != nil {
		panic(err) // HMAC with a byte key doesn't fail
	}
	return token
}

// Node is one process of the binary.
type Node struct {
	world   *World
	env     []string
	address string // host:port of /ws
	admin   string

	cmd    *exec.Cmd
	stderr *tail
	exited chan struct{}
	code   int
}

var folder string // of what build has built

// build compiles the binary with the race detector; SCENARIO_BINARY names another one to judge.
var build = sync.OnceValues(func() (string, error) {
	if binary := os.Getenv("SCENARIO_BINARY"); binary != "" {
		return binary, nil
	}
	dir, err := os.MkdirTemp("", "outbox-relay-scenario-")
	if err != nil {
		return "", err
	}
	folder = dir
	binary := filepath.Join(dir, "outbox-relay")
	out, err := exec.Command("go", "build", "-race", "-o", binary, "github.com/outboxrelay/outboxrelay/cmd/outbox-relay").CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("build outbox-relay: %w\n%s", err, out)
	}
	return binary, nil
})

// RemoveBinary deletes what the scenarios built; for TestMain.
func RemoveBinary() {
	if folder != "" {
		_ = os.RemoveAll(folder)
	}
}

// Node starts a node with further settings (NAME=value) and waits until it serves. It is killed at the end of the test.
func (w *World) Node(env ...string) *Node {
	w.t.Helper()
	n := &Node{world: w, env: env, address: testenv.FreeAddr(w.t), admin: testenv.FreeAddr(w.t)}
	n.Start()
	w.t.Cleanup(n.Kill)
	return n
}

// Start starts the node (again), on the addresses that it had.
func (n *Node) Start() {
	t := n.world.t
	t.Helper()
	binary, err := build()
	if err != nil {
		t.Fatal(err)
	}
	n.stderr = &tail{}
	n.cmd = exec.Command(binary, "serve")
	n.cmd.Env = append(os.Environ(), "DATABASE_URL="+n.world.DatabaseURL, "REDIS_URL="+n.world.RedisURL, "JWT_ACCESS_SECRET="+secret,
		"LISTEN_ADDR="+n.address, "ADMIN_ADDR="+n.admin, "LOG_LEVEL=debug", "SHUTDOWN_GRACE=1s", "MAX_CONNECTIONS_PER_USER=10000", "PING_INTERVAL=250ms")
	n.cmd.Env = append(n.cmd.Env, n.env...)
	n.cmd.Stderr, n.cmd.Stdout = n.stderr, n.stderr
	n.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := n.cmd.Start(); err != nil {
		t.Fatalf("start node: %v", err)
	}
	n.exited = make(chan struct{})
	go func() {
		_ = n.cmd.Wait()
		n.code = n.cmd.ProcessState.ExitCode()
		close(n.exited)
	}()
	testenv.Eventually(t, 30*time.Second, func() error {
		select {
		case <-n.exited:
			t.Fatalf("the node ended with exit code %d:\n%s", n.code, n.stderr)
		default:
		}
		_, err := n.Get("/healthz")
		return err
	})
}

// Kill ends the node with SIGKILL.
func (n *Node) Kill() { n.signal(syscall.SIGKILL) }

// Signal sends a signal and waits for nothing.
func (n *Node) Signal(s syscall.Signal) { _ = n.cmd.Process.Signal(s) }

// Exited waits until the process has ended and returns its exit code, -1 if a signal ended it; false if it still runs after d.
func (n *Node) Exited(d time.Duration) (code int, ended bool) {
	select {
	case <-n.exited:
		return n.code, true
	case <-time.After(d):
		return 0, false
	}
}

// Leading tells whether the node's relay leads; false if the node doesn't answer.
func (n *Node) Leading() bool {
	leads, err := n.Metric("outbox_relay_leader")
	return err == nil && leads == 1
}

// Stop ends the node with SIGTERM and returns its exit code.
func (n *Node) Stop() int {
	n.signal(syscall.SIGTERM)
	return n.code
}

func (n *Node) signal(s syscall.Signal) {
	_ = n.cmd.Process.Signal(s)
	select {
	case <-n.exited:
	case <-time.After(40 * time.Second):
		n.world.t.Errorf("the node didn't end on %v:\n%s", s, n.stderr)
		_ = n.cmd.Process.Kill()
		<-n.exited
	}
}

// Pause and Resume stop and continue the process (SIGSTOP, SIGCONT).
func (n *Node) Pause() { _ = n.cmd.Process.Signal(syscall.SIGSTOP) }

// Resume is the end of Pause.
func (n *Node) Resume() { _ = n.cmd.Process.Signal(syscall.SIGCONT) }

// Log returns the end of what the node wrote.
func (n *Node) Log() string { return n.stderr.String() }

// Pid returns the process id.
func (n *Node) Pid() int { return n.cmd.Process.Pid }

// Address is the host:port where clients connect.
func (n *Node) Address() string { return n.address }

// URL is where clients connect.
func (n *Node) URL() string { return "ws://" + n.address + "/ws" }

// Get reads a page of the admin listener. A status other than 200 is an error, which holds the page.
func (n *Node) Get(path string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+n.admin+path, nil)
	if err != nil {
		return "", err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return "", err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		return "", err
	}
	if response.StatusCode != http.StatusOK {
		return "", fmt.Errorf("%s: %s: %s", path, response.Status, body)
	}
	return string(body), nil
}

// Metric reads one value from /metrics, by its name with labels as printed.
func (n *Node) Metric(name string) (value float64, err error) {
	page, err := n.Get("/metrics")
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(page) {
		if rest, ok := strings.CutPrefix(line, name+" "); ok {
			_, err := fmt.Sscan(rest, &value)
			return value, err
		}
	}
	return 0, errors.New("no metric " + name)
}

// Ready waits until /readyz is green.
func (n *Node) Ready() {
	n.world.t.Helper()
	testenv.Eventually(n.world.t, 30*time.Second, func() error {
		_, err := n.Get("/readyz")
		return err
	})
}

// tail keeps the end of what is written to it.
type tail struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (w *tail) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.buf.Len() > 1<<20 {
		w.buf.Next(w.buf.Len() - 1<<19)
	}
	return w.buf.Write(p)
}

func (w *tail) String() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.buf.String()
}
