package relay

import (
	"bytes"
	"context"
	"errors"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/redis/go-redis/v9"

	"github.com/outboxrelay/outboxrelay/internal/testenv"
	"github.com/outboxrelay/outboxrelay/outbox"
)

// beforeAppends calls look before each pipeline that appends.
type beforeAppends struct{ look func() }

func (b beforeAppends) DialHook(next redis.DialHook) redis.DialHook          { return next }
func (b beforeAppends) ProcessHook(next redis.ProcessHook) redis.ProcessHook { return next }

func (b beforeAppends) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		if cmds[0].Name() == "evalsha" {
			b.look()
		}
		return next(ctx, cmds)
	}
}

// ear keeps the news of p1 that bring entries.
type ear struct {
	mu    sync.Mutex
	heard []News
}

func (e *ear) wake(topic string, news News) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if topic == "program:p1" && len(news.Entries) > 0 {
		for i := range news.Entries {
			news.Entries[i].Frame = bytes.Clone(news.Entries[i].Frame)
		}
		e.heard = append(e.heard, news)
	}
}

func (e *ear) all() []News {
	e.mu.Lock()
	defer e.mu.Unlock()
	return slices.Clone(e.heard)
}

// What the relay's own process watches hears of a tick before Redis does, and the same as Redis tells it then. It doesn't if another history may have begun
// without the relay's knowing, if there is more than a message brings, or if nobody watches.
func TestWhatIsNearHearsBeforeRedisDoes(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		topic   string
		nearFor time.Duration
		rows    int
		data    string
		before  int // messages that were heard before the append …
		after   int // … and that are heard in all
	}{
		"an event":                {"program:p1", nearFor, 1, "x", 1, 2},
		"several":                 {"program:p1", nearFor, 20, "x", 1, 2},
		"no fresh head":           {"program:p1", 0, 1, "x", 0, 1},
		"many":                    {"program:p1", nearFor, nearEntries + 1, "x", 0, 0},
		"large":                   {"program:p1", nearFor, 1, strings.Repeat("x", nearBytes), 0, 0},
		"another program":         {"program:p2", nearFor, 1, "x", 0, 0},
		"membership":              {"program:p1", nearFor, 0, "", 1, 2},
		"too old for Redis":       {"program:p1", nearFor, -1, "x", 0, 0},
		"a clock that has jumped": {"program:p1", nearFor, -2, "x", 0, 1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, pool, _ := led(t)
			ctx := testenv.Context(t, 20*time.Second)
			if err := s.openLog(ctx); err != nil {
				t.Fatal(err)
			}
			h := NewHistory(HistoryConfig{Redis: s.log.redis, Pool: pool, Logger: testenv.Logger(t)})
			s.config.Near, s.nearFor = h, c.nearFor
			if err := h.Subscribe(ctx, c.topic); err != nil {
				t.Fatal(err)
			}
			var ear ear
			confirmed, last := make(chan struct{}, 1), make(chan struct{}, 1)
			go func() {
				_ = h.Watch(ctx, func(topic string, news News) {
					ear.wake(topic, news)
					switch topic {
					case c.topic:
						token(confirmed)
					case "nodes":
						if news.After == 1 {
							token(last)
						}
					}
				})
			}()
			select {
			case <-confirmed:
			case <-ctx.Done():
				t.Fatal("the subscription isn't confirmed")
			}
			step := func(query string, args ...any) {
				t.Helper()
				if _, err := pool.Exec(ctx, query, args...); err != nil {
					t.Fatal(err)
				}
				if _, err := s.step(ctx); err != nil {
					t.Fatal(err)
				}
			}
			const insert = "INSERT INTO relay.outbox (program_id, event, data) SELECT 'p1', 'a:b', json_build_object('x', $2::text) FROM generate_series(1, $1::int)"
			step(insert, 1, "the predecessor")
			if n := len(ear.all()); n != 0 {
				t.Fatalf("%d messages of an entry whose predecessor isn't known", n)
			}
			var before []News
			s.log.redis.AddHook(beforeAppends{func() { before = ear.all() }})
			switch c.rows {
			case 0:
				step("SELECT relay.membership_changed('u1', 'p1', 'in')")
			case -1: // the program was silent for longer than Redis keeps anything
				s.log.inWindow(s.now() + 2*s.log.window.Microseconds())
				step(insert, 1, c.data)
			case -2: // Postgres and the relay have stood still together, and only the clock knows
				step("INSERT INTO relay.outbox (program_id, event, created_at) VALUES ('p1', 'a:b', now() + $1::interval)", outbox.RebaseGap)
			default:
				step(insert, c.rows, c.data)
			}
			if len(before) != c.before {
				t.Errorf("%d messages were heard before the append, want %d", len(before), c.before)
			}
			if err := tellNodes(ctx, s.log.redis, 1); err != nil { // the end of what Redis tells
				t.Fatal(err)
			}
			select {
			case <-last:
			case <-ctx.Done():
				t.Fatal("the last message isn't heard")
			}
			all := ear.all()
			if len(all) != c.after {
				t.Errorf("%d messages were heard, want %d", len(all), c.after)
			}
			if len(all) == 2 {
				if diff := cmp.Diff(all[0], all[1]); diff != "" {
					t.Errorf("Redis told something else (-near +Redis):\n%s", diff)
				}
			}
		})
	}
}

// stuck dials until it is told to hang.
type stuck struct {
	mu    sync.Mutex
	conns []net.Conn
	hang  chan struct{} // until it is closed; nil: it doesn't
}

func (d *stuck) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if hang := d.hang; hang != nil {
		d.mu.Unlock()
		<-hang
		d.mu.Lock()
		return nil, errors.New("hung")
	}
	conn, err := new(net.Dialer).DialContext(ctx, network, addr)
	d.conns = append(d.conns, conn)
	return conn, err
}

// Where a subscription hung, as it was dialled anew, and another room began, the relay waited for it too, and with it everybody's events: it asks what is watched here
// before it goes to Redis.
func TestASubscriptionThatHangsHoldsUpNobody(t *testing.T) {
	t.Parallel()
	s, pool, _ := led(t)
	ctx := testenv.Context(t, 30*time.Second)
	if err := s.openLog(ctx); err != nil {
		t.Fatal(err)
	}
	var dialer stuck
	options := *s.log.redis.(*redis.Client).Options()
	options.Dialer = dialer.dial
	client := redis.NewClient(&options)
	defer client.Close()
	h := NewHistory(HistoryConfig{Redis: client, Pool: pool, Logger: testenv.Logger(t)})
	s.config.Near = h
	if err := h.Subscribe(ctx, "program:p1"); err != nil {
		t.Fatal(err)
	}
	watching, cancel := context.WithCancel(ctx)
	confirmed, watched := make(chan struct{}, 1), make(chan struct{})
	var ear ear
	go func() {
		defer close(watched)
		_ = h.Watch(watching, func(topic string, news News) {
			ear.wake(topic, news)
			token(confirmed)
		})
	}()
	<-confirmed
	step := func() error {
		if _, err := pool.Exec(ctx, "INSERT INTO relay.outbox (program_id, event) VALUES ('p1', 'a:b')"); err != nil {
			return err
		}
		_, err := s.step(ctx)
		return err
	}
	if err := step(); err != nil {
		t.Fatal(err)
	}
	hang := make(chan struct{})
	dialer.mu.Lock()
	dialer.hang = hang
	for _, conn := range dialer.conns {
		_ = conn.Close()
	}
	dialer.mu.Unlock()
	var another sync.WaitGroup // rooms that begin meanwhile
	defer another.Wait()
	testenv.Eventually(t, 10*time.Second, func() error {
		if h.topics.mu.TryLock() {
			h.topics.mu.Unlock()
			another.Go(func() { _ = h.Subscribe(ctx, "program:p2") })
			return errors.New("nobody waits for the subscription")
		}
		return nil
	})
	heard := len(ear.all())
	done := make(chan error, 1)
	go func() { done <- step() }()
	select {
	case err := <-done:
		if err != nil || len(ear.all()) == heard {
			t.Errorf("heard nothing, or %v", err)
		}
		close(hang)
	case <-time.After(15 * time.Second):
		t.Error("the relay waits for the subscription")
		close(hang)
		<-done
	}
	cancel()
	<-watched
}

func token(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
