package relay

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/outboxrelay/outboxrelay/internal/testenv"
	"github.com/outboxrelay/outboxrelay/outbox"
)

// led is a session on a database and a Redis of its own, whose connection goes through a proxy. It is not run.
func led(t *testing.T) (*session, *pgxpool.Pool, *testenv.TCPProxy) {
	t.Helper()
	pool, url := testenv.DB(t)
	direct, err := pgx.ParseConfig(url)
	if err != nil {
		t.Fatal(err)
	}
	proxy := testenv.Proxy(t, fmt.Sprintf("%s:%d", direct.Host, direct.Port))
	client, err := OpenRedis(testenv.Redis(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close() })
	r, err := New(Config{DatabaseURL: proxy.URL(url), Redis: client, Logger: testenv.Logger(t)})
	if err != nil {
		t.Fatal(err)
	}
	s := &session{Relay: r, last: outbox.Tick{Snapshot: outbox.Genesis}, log: newLogWriter(r.config)}
	s.log.now = s.now
	s.dial(t)
	return s, pool, proxy
}

// dial gives the session a (new) connection.
func (s *session) dial(t *testing.T) {
	t.Helper()
	conn, err := connect(t.Context(), s.config.DatabaseURL, "outbox-relay")
	if err != nil {
		t.Fatal(err)
	}
	server, err := outbox.ReadServer(t.Context(), conn)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		closeConn(context.Background(), conn)
		<-conn.PgConn().CleanupDone()
	})
	s.conn, s.cluster, s.used, s.clockAt, s.clockRead = conn, server.Cluster, time.Now(), server.Now, time.Now()
}

const bulk = "INSERT INTO relay.outbox (program_id, event) SELECT 'p1', 'a:b' FROM generate_series(1, 2500)"

// The leader's session is pinged, but not while it works: a large batch, the log of a program that is built anew and retention waited without end for a
// server that didn't answer.
func TestAServerThatDoesNotAnswerIsGivenUp(t *testing.T) {
	t.Parallel()
	const patience = 200 * time.Millisecond
	for name, work := range map[string]func(context.Context, *session, *testenv.TCPProxy) error{
		"the start": func(ctx context.Context, s *session, proxy *testenv.TCPProxy) error {
			proxy.Blackhole()
			return s.begin(ctx)
		},
		"the tick of a large batch": func(ctx context.Context, s *session, proxy *testenv.TCPProxy) error {
			proxy.Blackhole(testenv.ToClient)
			_, err := s.commitLarge(ctx)
			return err
		},
		"opening a large batch": func(ctx context.Context, s *session, proxy *testenv.TCPProxy) error {
			proxy.Blackhole(testenv.ToTarget)
			return s.publishTick(ctx, s.last, nil)
		},
		"a chunk of a large batch": func(ctx context.Context, s *session, proxy *testenv.TCPProxy) error {
			return outbox.Replay(ctx, s.conn, s.last, maxBatch, s.patience, func([]outbox.Row) error {
				proxy.Blackhole()
				return nil
			})
		},
		"a log built anew": func(ctx context.Context, s *session, proxy *testenv.TCPProxy) error {
			proxy.Blackhole()
			return s.refill(ctx, "p1")
		},
		"a chunk of a log built anew": func(ctx context.Context, s *session, proxy *testenv.TCPProxy) error {
			return outbox.ReplayPrograms(ctx, s.conn, []string{"p1"}, 0, s.last, maxBatch, s.patience, func([]outbox.Row) error {
				proxy.Blackhole()
				return nil
			})
		},
		"retention": func(ctx context.Context, s *session, proxy *testenv.TCPProxy) error {
			proxy.Blackhole()
			_, err := (&outbox.Retention{Patience: patience}).Delete(ctx, s.conn, time.Hour)
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, pool, proxy := led(t)
			s.patience = patience
			if _, err := pool.Exec(t.Context(), bulk); err != nil {
				t.Fatal(err)
			}
			var err error
			if s.last, err = outbox.CommitLarge(t.Context(), s.conn, outbox.Tick{Snapshot: outbox.Genesis}, s.cluster); err != nil {
				t.Fatal(err)
			}
			began, ctx := time.Now(), testenv.Context(t, 20*time.Second)
			err = work(ctx, s, proxy)
			if !errors.Is(err, context.DeadlineExceeded) || ctx.Err() != nil {
				t.Errorf("%v after %v, want an error after %v", err, time.Since(began), patience)
			}
			proxy.Resume()
		})
	}
}

// A backlog that takes the server longer than it is given would never be relayed, were it given the same time again and again.
func TestPatienceGrowsWithTheBacklog(t *testing.T) {
	t.Parallel()
	s, pool, _ := led(t)
	s.patience = 50 * time.Millisecond
	if _, err := pool.Exec(t.Context(), bulk); err != nil {
		t.Fatal(err)
	}
	slow, err := pool.Begin(t.Context()) // stands for the time that it takes
	if err != nil {
		t.Fatal(err)
	}
	if _, err := slow.Exec(t.Context(), "LOCK TABLE relay.ticks"); err != nil {
		t.Fatal(err)
	}
	for n := range 3 {
		began := time.Now()
		if _, err := s.commitLarge(t.Context()); !errors.Is(err, context.DeadlineExceeded) {
			t.Fatalf("%v, want the deadline", err)
		}
		if took, least := time.Since(began), s.patience<<n; took < least {
			t.Errorf("try %d ended after %v, want %v", n, took, least)
		}
		s.dial(t)
	}
	if err := slow.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	s.patience = time.Second
	if err := s.openLog(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n, err := s.step(t.Context()); n != 2500 || err != nil {
		t.Fatalf("%d events (%v)", n, err)
	}
	if s.lacking != 0 {
		t.Errorf("patience is still 2^%d times what it was", s.lacking)
	}
}
