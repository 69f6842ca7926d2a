package testenv

import (
	"context"
	"io"
	"log/slog"
	"sync"
	"testing"
	"time"
)

// Eventually calls check every 5 ms until it returns nil; after timeout the test fails with the last error. check must look at a real condition.
func Eventually(t testing.TB, timeout time.Duration, check func() error) {
	t.Helper()
	deadline := time.NewTimer(timeout)
	defer deadline.Stop()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		err := check()
		if err == nil {
			return
		}
		select {
		case <-deadline.C:
			t.Fatalf("not within %v: %v", timeout, err)
		case <-tick.C:
		}
	}
}

// Context returns a context that ends after timeout or with the test.
func Context(t testing.TB, timeout time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), timeout)
	t.Cleanup(cancel)
	return ctx
}

// Logger returns a logger whose lines, debug included, go to the test's log. What is logged after the end of the test is dropped.
func Logger(t testing.TB) *slog.Logger {
	w := &logWriter{t: t}
	t.Cleanup(func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.t = nil
	})
	return slog.New(slog.NewTextHandler(w, &slog.HandlerOptions{Level: slog.LevelDebug}))
}

var _ io.Writer = (*logWriter)(nil)

type logWriter struct {
	mu sync.Mutex
	t  testing.TB // nil after the test
}

func (w *logWriter) Write(line []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.t != nil {
		w.t.Log(string(line[:max(0, len(line)-1)]))
	}
	return len(line), nil
}
