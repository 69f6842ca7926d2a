//go:build unix

package devstack_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"go.uber.org/goleak"

	"github.com/outboxrelay/outboxrelay/internal/devstack"
)

// TestMain doubles as the process that is killed in TestChildrenDieWithTheirParent.
func TestMain(m *testing.M) {
	if dir := os.Getenv("DEVSTACK_TEST_PARENT"); dir != "" {
		parent(dir)
		return
	}
	goleak.VerifyTestMain(m)
}

// parent starts both servers, prints their process ids and waits to be killed.
func parent(dir string) {
	ctx := context.Background()
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	p, err := devstack.StartPostgres(ctx, devstack.PostgresConfig{DataDir: dir, Log: log, Rung: os.Getenv("OUTBOX_RELAY_POSTGRES")})
	if err != nil {
		fmt.Println("error", err)
		return
	}
	r, err := devstack.StartRedis(ctx, devstack.RedisConfig{RequireReal: true, Log: log})
	if err != nil {
		fmt.Println("error", err)
		return
	}
	fmt.Println("running", p.Pid(), r.Pid(), r.Dir)
	_, _ = io.Copy(io.Discard, os.Stdin)
}

// spawnParent starts this test binary as such a process and returns it with the ids of its children.
func spawnParent(t *testing.T, dir string) (cmd *exec.Cmd, pg, redis int) {
	t.Helper()
	cmd = exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "DEVSTACK_TEST_PARENT="+dir)
	cmd.Stderr = os.Stderr
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = stdin.Close()
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	line, _ := bufio.NewReader(out).ReadString('\n')
	var temp string
	if n, err := fmt.Sscanf(line, "running %d %d %s", &pg, &redis, &temp); n != 3 {
		t.Fatalf("child printed %q: %v", line, err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(temp) }) // a killed process can't
	return cmd, pg, redis
}

// dataDir returns a folder that the unprivileged user can reach, also when the test runs as root.
func dataDir(t *testing.T) string {
	t.Helper()
	root := os.TempDir()
	if os.Geteuid() == 0 {
		root = "/var/tmp"
	}
	dir, err := os.MkdirTemp(root, "devstack-test-*")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return filepath.Join(dir, "data")
}

func testContext(t *testing.T, d time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

func start(t *testing.T, cfg devstack.PostgresConfig) *devstack.Postgres {
	t.Helper()
	cfg.Log = slog.New(slog.NewTextHandler(t.Output(), nil))
	p, err := devstack.StartPostgres(testContext(t, 3*time.Minute), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return p
}

// query returns one text value.
func query(t *testing.T, url, sql string) string {
	t.Helper()
	ctx := testContext(t, 20*time.Second)
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(ctx)
	var s string
	if err := conn.QueryRow(ctx, sql).Scan(&s); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	return s
}

// gone waits until no process has this id (a zombie that waits for its parent counts as gone).
func gone(t *testing.T, what string, pid int) {
	t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for syscall.Kill(pid, 0) == nil && !zombie(pid) {
		if time.Now().After(deadline) {
			t.Fatalf("%s (process %d) outlives its parent", what, pid)
		}
		<-tick.C
	}
}

func zombie(pid int) bool {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return false
	}
	_, rest, _ := strings.Cut(string(b), ") ")
	return strings.HasPrefix(rest, "Z")
}
