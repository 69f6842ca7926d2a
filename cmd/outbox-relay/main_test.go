package main

import (
	"bytes"
	"context"
	"maps"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/outboxrelay/outboxrelay/internal/testenv"
)

func TestMain(m *testing.M) { testenv.Main(m) }

// output is what a command wrote; safe to read while it runs.
type output struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.String()
}

// call runs one command line to its end, as main does, and returns the exit code and what it wrote.
func call(t *testing.T, vars map[string]string, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out, diag output
	err := run(testenv.Context(t, time.Minute), args, environment(vars), &out, &diag)
	code = report(err, &diag)
	return code, out.String(), diag.String()
}

// background is a command that runs.
type background struct {
	t              *testing.T
	stdout, stderr output
	cancel         context.CancelFunc
	done           chan struct{}
	code           int // once done is closed
}

// start runs a command line until stop, or the end of the test.
func start(t *testing.T, vars map[string]string, args ...string) *background {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	b := &background{t: t, cancel: cancel, done: make(chan struct{})}
	go func() {
		defer close(b.done)
		err := run(ctx, args, environment(maps.Clone(vars)), &b.stdout, &b.stderr)
		b.code = report(err, &b.stderr)
	}()
	t.Cleanup(func() { b.stop() })
	return b
}

// stop does what a signal does and returns the exit code.
func (b *background) stop() int {
	b.t.Helper()
	b.cancel()
	select {
	case <-b.done:
	case <-time.After(time.Minute):
		b.t.Fatalf("it doesn't end:\n%s", b.stderr.String())
	}
	return b.code
}

func TestUsage(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		args []string
		code int
		want string // in what was written
	}{
		"help":               {[]string{"--help"}, 0, "serve"},
		"no command":         {nil, 0, "serve"},
		"version":            {[]string{"version"}, 0, "schema"},
		"unknown command":    {[]string{"server"}, 2, "outbox-relay: unknown argument \"server\": see `outbox-relay --help`\n"},
		"unknown argument":   {[]string{"serve", "now"}, 2, "outbox-relay: unknown argument \"now\""},
		"unknown flag":       {[]string{"serve", "--fast"}, 2, "outbox-relay: unknown flag: --fast: see `outbox-relay serve --help`\n"},
		"help of serve":      {[]string{"serve", "--help"}, 0, "[OUTBOX_RETENTION] (default \"24h\")"},
		"dev without dashes": {[]string{"dev", "ls"}, 2, "outbox-relay dev -- CMD"},
		"migrate":            {[]string{"migrate", "up"}, 2, "outbox-relay: DATABASE_URL: not set"},
		"migrate sideways":   {[]string{"migrate", "sideways"}, 2, "unknown argument"},
		"emit":               {[]string{"emit"}, 2, "DATABASE_URL: not set"},
		"token":              {[]string{"token", "--ttl", "48h"}, 2, "--user: not set"},
		"tail":               {[]string{"tail", "--since", "x", "--url", "ftp://h"}, 2, "--since: \"x\" is no position"},
		"tail from too far":  {[]string{"tail", "--since", "99999999999999999999"}, 2, "--since: \"99999999999999999999\" is no position"},
		"serve":              {[]string{"serve"}, 2, "outbox-relay: DATABASE_URL: not set: want postgres://"},
	} {
		code, stdout, stderr := call(t, nil, test.args...)
		if code != test.code || !strings.Contains(stdout+stderr, test.want) {
			t.Errorf("%s: exit code %d, want %d; wrote %q, want %q in it", name, code, test.code, stdout+stderr, test.want)
		}
		for line := range strings.Lines(stderr) {
			if code != 0 && !strings.HasPrefix(line, "outbox-relay: ") {
				t.Errorf("%s: a line on stderr isn't an error's: %q", name, line)
			}
		}
	}
}

func readFile(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}
