package main

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/outboxrelay/outboxrelay/internal/scenario"
	"github.com/outboxrelay/outboxrelay/internal/testenv"
)

func TestMain(m *testing.M) {
	testenv.Main(m, scenario.RemoveBinary)
}

// The judge finds nothing where nothing is wrong, cleans up, and finds it where events don't arrive.
func TestChaosJudgesAStack(t *testing.T) {
	t.Parallel()
	const secret = "a-signing-key-of-more-than-32-bytes-for-chaos"
	w := scenario.Default(t, 1, 1)
	node := w.Node("JWT_ACCESS_SECRET="+secret, "MAX_CATCHUP_EVENTS=10000")
	env := map[string]string{"DATABASE_URL": w.DatabaseURL, "JWT_ACCESS_SECRET": secret}
	var out strings.Builder
	getenv := func(name string) string { return env[name] }
	if err := run(t.Context(), []string{"--url", node.URL(), "--for", "2s"}, getenv, &out, &out); err != nil {
		t.Errorf("%v\n%s", err, &out)
	}
	if !strings.Contains(out.String(), "missing 0, phantoms 0") {
		t.Errorf("it says %s", &out)
	}
	var left int
	if err := w.Pool.QueryRow(t.Context(), "SELECT count(*) FROM relay.users WHERE starts_with(id, 'chaos-')").Scan(&left); err != nil || left > 0 {
		t.Errorf("%d users are left (%v)", left, err)
	}
	killed := make(chan struct{})
	go func() {
		defer close(killed)
		testenv.Eventually(t, 20*time.Second, func() error {
			var writing bool
			err := w.Pool.QueryRow(t.Context(), "SELECT count(*) > $1 FROM relay.outbox", 600).Scan(&writing)
			if err == nil && !writing {
				err = errors.New("nobody writes")
			}
			return err
		})
		node.Kill()
	}()
	err := run(t.Context(), []string{"--url", node.URL(), "--for", "6s", "--patience", "1s"}, getenv, &out, &out)
	<-killed
	if err == nil || !strings.Contains(err.Error(), "missing") {
		t.Errorf("the node is dead, and nothing is missing: %v", err)
	}
	if err := run(t.Context(), []string{"--clients", "1"}, getenv, &out, &out); !errors.Is(err, errUsage) {
		t.Errorf("one client: %v", err)
	}
}
