package main

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
)

// record returns parts that note when they end; the last one that is started reports it on started.
func record(names ...string) (parts []part, ended func() []string, started chan struct{}) {
	var mu sync.Mutex
	var list []string
	started = make(chan struct{})
	var running sync.WaitGroup
	running.Add(len(names))
	go func() { running.Wait(); close(started) }()
	for _, name := range names {
		parts = append(parts, part{name, func(ctx context.Context) error {
			running.Done()
			<-ctx.Done()
			mu.Lock()
			defer mu.Unlock()
			list = append(list, name)
			return nil
		}})
	}
	return parts, func() []string { mu.Lock(); defer mu.Unlock(); return slices.Clone(list) }, started
}

func TestPartsStopInOrder(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	parts, ended, started := record("listener", "sockets", "relay", "admin")
	done := make(chan error, 1)
	go func() { done <- runParts(ctx, parts) }()
	<-started
	cancel()
	if err := <-done; err != nil {
		t.Errorf("runParts: %v", err)
	}
	if got := strings.Join(ended(), " "); got != "listener sockets relay admin" {
		t.Errorf("ended in the order %s", got)
	}
}

func TestFailingPartStopsTheOthersInOrder(t *testing.T) {
	t.Parallel()
	broken := errors.New("broken")
	for name, fail := range map[string]error{"an error": broken, "a silent end": nil} {
		parts, ended, started := record("listener", "sockets", "admin")
		parts = slices.Insert(parts, 2, part{"relay", func(context.Context) error { <-started; return fail }})
		err := runParts(t.Context(), parts)
		if fail != nil && !errors.Is(err, broken) || fail == nil && (err == nil || err.Error() != "relay ended by itself") {
			t.Errorf("%s: runParts: %v", name, err)
		}
		if got := strings.Join(ended(), " "); got != "listener sockets admin" {
			t.Errorf("%s: ended in the order %s", name, got)
		}
	}
}
