package relay_test

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/redis/go-redis/v9"

	"github.com/outboxrelay/outboxrelay/internal/testenv"
	"github.com/outboxrelay/outboxrelay/outbox"
	"github.com/outboxrelay/outboxrelay/relay"
)

func TestMain(m *testing.M) { testenv.Main(m) }

// stack is a database, a Redis and what a test starts on them.
type stack struct {
	t     testing.TB
	pool  *pgxpool.Pool
	url   string
	redis redis.UniversalClient
}

func newStack(t testing.TB) *stack {
	t.Helper()
	pool, url := testenv.DB(t)
	return &stack{t: t, pool: pool, url: url, redis: openRedis(t, testenv.Redis(t))}
}

func openRedis(t testing.TB, url string) redis.UniversalClient {
	t.Helper()
	client, err := relay.OpenRedis(url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close() })
	return client
}

// running is a relay that runs until stop is called or the test ends.
type running struct {
	*relay.Relay
	registry *prometheus.Registry
	stop     func()
}

func (s *stack) relay(change func(*relay.Config)) *running {
	s.t.Helper()
	return s.relayWith(change, nil)
}

// relayWith is relay with access to what only tests may change, before it runs.
func (s *stack) relayWith(change func(*relay.Config), prepare func(*relay.Relay)) *running {
	s.t.Helper()
	registry := prometheus.NewRegistry()
	config := relay.Config{DatabaseURL: s.url, Redis: s.redis, Logger: testenv.Logger(s.t), Registerer: registry}
	if change != nil {
		change(&config)
	}
	r, err := relay.New(config)
	if err != nil {
		s.t.Fatal(err)
	}
	if prepare != nil {
		prepare(r)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx) }()
	var stopped bool
	stop := func() {
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
	return &running{r, registry, stop}
}

// metric reads a counter or gauge without labels.
func (r *running) metric(t testing.TB, name string) float64 {
	t.Helper()
	families, err := r.registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == "outbox_relay_"+name {
			m := f.GetMetric()[0]
			return m.GetCounter().GetValue() + m.GetGauge().GetValue()
		}
	}
	t.Fatalf("no metric %q", name)
	return 0
}

// degraded reads the gauge of a state.
func (r *running) degraded(t testing.TB, state string) float64 {
	t.Helper()
	families, err := r.registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			if f.GetName() == "outbox_relay_degraded" && m.GetLabel()[0].GetValue() == state {
				return m.GetGauge().GetValue()
			}
		}
	}
	t.Fatalf("no state %q", state)
	return 0
}

func (r *running) asleep(t testing.TB) func() error {
	return func() error {
		if r.metric(t, "asleep") != 1 {
			return fmt.Errorf("not asleep (%v)", r.Ready())
		}
		return nil
	}
}

// emit commits one event and returns its id.
func (s *stack) emit(program string, data any) int64 {
	s.t.Helper()
	ids, err := outbox.Emit(s.t.Context(), s.pool, outbox.Event{Program: program, Name: outbox.RequestCreated, Data: data})
	if err != nil {
		s.t.Fatal(err)
	}
	return ids[0]
}

// frame is what a test looks at in an event frame.
type frame struct {
	Type      string          `json:"type"`
	ID        string          `json:"id"`
	Position  string          `json:"position"`
	Event     string          `json:"event"`
	ProgramID string          `json:"programId"`
	Data      json.RawMessage `json:"data"`
	UserID    string          `json:"userId"`
	Change    string          `json:"change"`
	Through   string          `json:"through"`
}

// log reads a program's log from Redis, and fails if a score isn't its frame's position.
func (s *stack) log(program string) []frame {
	s.t.Helper()
	found, err := s.redis.ZRangeWithScores(context.Background(), "socket:events:program:"+program, 0, -1).Result()
	if err != nil {
		s.t.Fatal(err)
	}
	list := make([]frame, len(found))
	for i, z := range found {
		if err := json.Unmarshal([]byte(z.Member.(string)), &list[i]); err != nil {
			s.t.Fatalf("member %q: %v", z.Member, err)
		}
		if strconv.FormatInt(int64(z.Score), 10) != list[i].Position {
			s.t.Fatalf("score %.0f, position %s", z.Score, list[i].Position)
		}
	}
	return list
}

// eventuallyLog waits until the log of a program holds exactly these ids, in this order.
func (s *stack) eventuallyLog(program string, want ...int64) {
	s.t.Helper()
	testenv.Eventually(s.t, 10*time.Second, func() error {
		var got []string
		for _, f := range s.log(program) {
			got = append(got, f.ID)
		}
		text := fmt.Sprint(got)
		if text != fmt.Sprint(strs(want)) {
			return fmt.Errorf("log of %s holds %s, want %v", program, text, want)
		}
		return nil
	})
}

func strs(ids []int64) []string {
	var list []string
	for _, id := range ids {
		list = append(list, strconv.FormatInt(id, 10))
	}
	return list
}
