package main

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/outboxrelay/outboxrelay/internal/testenv"
)

// devVars is an environment for dev with a data folder of its own, which the user that Postgres runs as can reach.
func devVars(t *testing.T) map[string]string {
	t.Helper()
	root := os.TempDir()
	if os.Geteuid() == 0 {
		root = "/var/tmp"
	}
	data, err := os.MkdirTemp(root, "outbox-relay-dev-*")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(data); err != nil {
			t.Error(err)
		}
	})
	if err := os.Chmod(data, 0o755); err != nil { // MkdirTemp's is closed to that user
		t.Fatal(err)
	}
	return map[string]string{
		"OUTBOX_RELAY_DATA": data, "OUTBOX_RELAY_POSTGRES": rung(os.Getenv("OUTBOX_RELAY_POSTGRES")), "OUTBOX_RELAY_CACHE": os.Getenv("OUTBOX_RELAY_CACHE"),
		"HOME": os.Getenv("HOME"), "LISTEN_ADDR": testenv.FreeAddr(t), "ADMIN_ADDR": testenv.FreeAddr(t),
	}
}

// rung leaves out the one that needs DATABASE_URL.
func rung(forced string) string {
	if forced == "url" {
		return ""
	}
	return forced
}

// The second was told only once Postgres had been started, as "no Redis here: install one".
func TestDevNamesBadSourcesAtOnce(t *testing.T) {
	t.Parallel()
	code, _, stderr := call(t, map[string]string{"OUTBOX_RELAY_POSTGRES": "docker", "OUTBOX_RELAY_REDIS": "url", "OUTBOX_RELAY_DATA": t.TempDir()}, "dev")
	want := "outbox-relay: OUTBOX_RELAY_POSTGRES: \"docker\" is none of url, local, npm, apt\noutbox-relay: OUTBOX_RELAY_REDIS: it is url, and REDIS_URL is not set\n"
	if code != 2 || stderr != want {
		t.Errorf("exit code %d, wrote %q, want %q", code, stderr, want)
	}
}

func TestDevRunsCommand(t *testing.T) {
	t.Parallel()
	vars := devVars(t)
	seen := filepath.Join(vars["OUTBOX_RELAY_DATA"], "seen")
	code, stdout, stderr := call(t, vars, "dev", "--", "sh", "-c", `echo "$DATABASE_URL $REDIS_URL $RELAY_URL ${#JWT_ACCESS_SECRET}" >"$0"; echo hello; exit 7`, seen)
	if code != 7 || stdout != "hello\n" {
		t.Fatalf("exit code %d, wrote %q and\n%s", code, stdout, stderr)
	}
	text, err := os.ReadFile(seen)
	fields := strings.Fields(string(text))
	if err != nil || len(fields) != 4 || !strings.HasPrefix(fields[0], "postgres://") || !strings.HasPrefix(fields[1], "redis://") ||
		fields[2] != "ws://"+vars["LISTEN_ADDR"]+"/ws" || fields[3] != "64" {
		t.Errorf("the command saw %q (%v)", text, err)
	}
	if code, _, stderr := call(t, vars, "dev", "--", "sh", "-c", "kill -9 $$"); code != 128+9 {
		t.Errorf("a killed command: exit code %d:\n%s", code, stderr)
	}
	if code, _, stderr := call(t, vars, "dev", "--", "/nonexistent"); code != 1 || !strings.Contains(stderr, "outbox-relay: run \"/nonexistent\"") {
		t.Errorf("no such command: exit code %d:\n%s", code, stderr)
	}
	if code, _, stderr := call(t, vars, "dev", "--", "true"); code != 0 {
		t.Errorf("a good command: exit code %d:\n%s", code, stderr)
	}
}

func TestDevServesAndRefusesSecond(t *testing.T) {
	t.Parallel()
	vars := devVars(t)
	first := start(t, vars, "dev")
	testenv.Eventually(t, time.Minute, func() error {
		select {
		case <-first.done:
			t.Fatalf("dev ended with %d:\n%s", first.code, first.stderr.String())
		default:
		}
		if !strings.Contains(first.stdout.String(), "Ctrl-C") {
			return errors.New("dev isn't up:\n" + first.stderr.String())
		}
		return nil
	})
	if status, body, err := get("http://" + vars["LISTEN_ADDR"] + "/"); err != nil || status != 200 || !strings.Contains(body, "<html") {
		t.Errorf("the page: %d %.100q (%v)", status, body, err)
	}
	export := map[string]string{}
	for line := range strings.Lines(first.stdout.String()) {
		if name, value, ok := strings.Cut(strings.TrimPrefix(strings.TrimSpace(line), "export "), "="); ok {
			export[name] = strings.Trim(value, "'")
		}
	}
	tail := start(t, export, "tail", "--user", "u1", "--program", "p1", "--since", "1", "--url", "http://"+vars["LISTEN_ADDR"])
	if code, _, stderr := call(t, export, "emit", "--program", "p1", "--event", "comment:added"); code != 0 {
		t.Fatalf("emit: exit code %d: %s", code, stderr)
	}
	names := events(t, &tail.stdout, 1)
	if names[len(names)-1] != "comment:added" {
		t.Errorf("tail printed %q", names)
	}
	code, _, stderr := call(t, vars, "dev")
	if code != 1 || !strings.Contains(stderr, "outbox-relay: dev runs already on the data folder "+vars["OUTBOX_RELAY_DATA"]) {
		t.Errorf("a second dev: exit code %d:\n%s", code, stderr)
	}
	tail.stop()
	if code := first.stop(); code != 0 {
		t.Errorf("dev after Ctrl-C: exit code %d:\n%s", code, first.stderr.String())
	}
	if strings.Contains(first.stderr.String(), export["JWT_ACCESS_SECRET"]) {
		t.Error("the log holds the secret")
	}
}
