package scenario_test

import (
	"context"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/outboxrelay/outboxrelay/internal/scenario"
	"github.com/outboxrelay/outboxrelay/internal/testenv"
	"github.com/outboxrelay/outboxrelay/relay"
)

func TestMain(m *testing.M) {
	testenv.Main(m, scenario.RemoveBinary)
}

// size is small in `make test` and full in `make test-long`.
func size[T any](small, full T) T {
	if testenv.Long() {
		return full
	}
	return small
}

// crowd runs clients until the test ends, and waits until they could resume.
func crowd(t *testing.T, clients ...*scenario.Client) {
	t.Helper()
	run(t, clients...)
	for _, c := range clients {
		ready := func(c *scenario.Client) bool { return c.Connected() && c.Resumable() }
		if err := c.Until(testenv.Context(t, 30*time.Second), ready); err != nil {
			t.Fatal(err)
		}
	}
}

// run runs clients until the test ends.
func run(t *testing.T, clients ...*scenario.Client) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	var group sync.WaitGroup
	for _, c := range clients {
		group.Go(func() { c.Run(ctx) })
	}
	t.Cleanup(func() {
		cancel()
		group.Wait()
	})
}

// verdict waits until the clients are complete, checks, and returns the report.
func verdict(t *testing.T, j *scenario.Journal, clients ...*scenario.Client) scenario.Report {
	t.Helper()
	if err := j.Complete(testenv.Context(t, 60*time.Second), clients...); err != nil {
		t.Error(err)
	}
	report, err := j.Check(t.Context(), clients...)
	if err != nil {
		t.Fatal(err)
	}
	t.Log(report)
	if err := report.Err(); err != nil {
		t.Error(err)
	}
	return report
}

// during runs the writers while work does its part, and for at least d.
func during(t *testing.T, j *scenario.Journal, mix scenario.Mix, d time.Duration, work func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		j.Write(ctx, mix)
	}()
	timer := time.NewTimer(d)
	if work != nil {
		work()
	}
	<-timer.C
	cancel()
	<-done
}

func openRedis(t *testing.T, url string) redis.UniversalClient {
	t.Helper()
	client, err := relay.OpenRedis(url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close() })
	return client
}

func percentile(list []time.Duration, p int) time.Duration {
	slices.Sort(list)
	return list[min(len(list)-1, len(list)*p/100)]
}
