package main

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/outboxrelay/outboxrelay/internal/devstack"
	"github.com/outboxrelay/outboxrelay/internal/testenv"
)

// pgbouncer starts a pooler in the given mode in front of a database and returns the database's URL through it.
func pgbouncer(t *testing.T, databaseURL, mode string, size int) string {
	t.Helper()
	c, err := pgx.ParseConfig(databaseURL)
	if err != nil {
		t.Fatal(err)
	}
	host, port, err := net.SplitHostPort(testenv.FreeAddr(t))
	if err != nil {
		t.Fatal(err)
	}
	root := t.TempDir()
	ini, users := filepath.Join(root, "pgbouncer.ini"), filepath.Join(root, "users.txt")
	text := fmt.Sprintf("[databases]\n%s = host=%s port=%d user=%s\n[pgbouncer]\nlisten_addr = %s\nlisten_port = %s\nauth_type = any\nauth_file = %s\npool_mode = %s\n"+
		"default_pool_size = %d\nunix_socket_dir =\nignore_startup_parameters = extra_float_digits\n", c.Database, c.Host, c.Port, c.User, host, port, users, mode, size)
	for name, content := range map[string]string{ini: text, users: fmt.Sprintf("%q %q\n", c.User, "")} {
		if err := os.WriteFile(name, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	args := []string{ini}
	if os.Geteuid() == 0 { // it refuses to run as root
		for dir := root; len(dir) > len(os.TempDir()); dir = filepath.Dir(dir) {
			if err := os.Chmod(dir, 0o755); err != nil {
				t.Fatal(err)
			}
		}
		args = []string{"-u", "nobody", ini}
	}
	log := &output{}
	cmd, err := devstack.Pgbouncer(testenv.Context(t, 3*time.Minute), "", testenv.Logger(t), args...) // may download
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	testenv.Eventually(t, 10*time.Second, func() error {
		conn, err := net.DialTimeout("tcp", net.JoinHostPort(host, port), time.Second)
		if err != nil {
			return fmt.Errorf("%w\n%s", err, log)
		}
		return conn.Close()
	})
	return fmt.Sprintf("postgres://%s@%s/%s?sslmode=disable", c.User, net.JoinHostPort(host, port), c.Database)
}

func TestTransactionPoolerIsRefused(t *testing.T) {
	t.Parallel()
	url := testenv.Postgres(t)
	if err := refusePooler(t.Context(), url); err != nil {
		t.Errorf("a direct URL: %v", err)
	}
	for _, test := range []struct {
		mode string
		size int
		want error
	}{{"session", 4, nil}, {"transaction", 4, errPooler}, {"transaction", 1, errPooler}} {
		t.Run(fmt.Sprintf("%s %d", test.mode, test.size), func(t *testing.T) {
			t.Parallel()
			if err := refusePooler(t.Context(), pgbouncer(t, url, test.mode, test.size)); !errors.Is(err, test.want) || test.want == nil && err != nil {
				t.Errorf("got %v, want %v", err, test.want)
			}
		})
	}
}
