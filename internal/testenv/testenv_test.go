package testenv_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"net/url"
	"os"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/redis/go-redis/v9"

	"github.com/outboxrelay/outboxrelay/internal/devstack"
	"github.com/outboxrelay/outboxrelay/internal/testenv"
)

func TestMain(m *testing.M) { testenv.Main(m) }

func TestDatabasesAreMigratedAndSeparate(t *testing.T) {
	t.Parallel()
	ctx := testenv.Context(t, 20*time.Second)
	a, _ := testenv.DB(t)
	b, _ := testenv.DB(t)
	if _, err := a.Exec(ctx, "CREATE TABLE only_in_a ()"); err != nil {
		t.Fatal(err)
	}
	var inB, migrated bool
	err := b.QueryRow(ctx, "SELECT to_regclass('only_in_a') IS NOT NULL, to_regclass('relay.outbox') IS NOT NULL").Scan(&inB, &migrated)
	if err != nil || inB || !migrated {
		t.Errorf("second database: table of the first %v (want false), migrated %v (want true), error %v", inB, migrated, err)
	}
}

func TestDatabaseIsDroppedWithItsSessions(t *testing.T) {
	t.Parallel()
	ctx := testenv.Context(t, 20*time.Second)
	other := testenv.Conn(t, testenv.EmptyPostgres(t))
	var dropped string
	var left *pgx.Conn
	t.Run("inner", func(t *testing.T) {
		dropped = testenv.Postgres(t)
		var err error
		if left, err = pgx.Connect(ctx, dropped); err != nil {
			t.Fatal(err)
		}
	})
	defer left.Close(ctx)
	if err := left.Ping(ctx); err == nil {
		t.Error("a session of a dropped database still answers")
	}
	u, _ := url.Parse(dropped)
	var exists bool
	if err := other.QueryRow(ctx, "SELECT EXISTS (SELECT FROM pg_database WHERE datname = $1)", u.Path[1:]).Scan(&exists); err != nil || exists {
		t.Errorf("database exists: %v (error %v), want gone", exists, err)
	}
}

func TestOwnPostgresSurvivesACrash(t *testing.T) {
	t.Parallel()
	ctx := testenv.Context(t, 60*time.Second)
	p := testenv.OwnPostgres(t, devstack.PostgresConfig{MaxPrepared: 5})
	conn := testenv.Conn(t, p.URL())
	for _, sql := range []string{"CREATE TABLE kept (n int)", "INSERT INTO kept VALUES (1)", "BEGIN", "INSERT INTO kept VALUES (2)", "PREPARE TRANSACTION 'two'"} {
		if _, err := conn.Exec(ctx, sql); err != nil {
			t.Fatalf("%s: %v", sql, err)
		}
	}
	before := p.URL()
	if err := p.StopImmediate(ctx); err != nil {
		t.Fatal(err)
	}
	if _, err := pgx.Connect(ctx, before); err == nil {
		t.Fatal("a stopped server accepts connections")
	}
	if err := p.Start(ctx); err != nil {
		t.Fatal(err)
	}
	if p.URL() != before {
		t.Errorf("URL after the restart %q, want %q", p.URL(), before)
	}
	var rows, prepared int
	again := testenv.Conn(t, p.URL())
	if err := again.QueryRow(ctx, "SELECT (SELECT count(*) FROM kept), (SELECT count(*) FROM pg_prepared_xacts)").Scan(&rows, &prepared); err != nil {
		t.Fatal(err)
	}
	if rows != 1 || prepared != 1 {
		t.Errorf("after the crash: %d rows and %d prepared transactions, want 1 and 1", rows, prepared)
	}
}

func TestOwnRedisIsAloneAndFails(t *testing.T) {
	t.Parallel()
	ctx := testenv.Context(t, 30*time.Second)
	a, b := testenv.OwnRedis(t), testenv.OwnRedis(t)
	ca, cb := client(t, a.URL()), client(t, b.URL())
	if err := ca.Set(ctx, "k", "v", 0).Err(); err != nil {
		t.Fatal(err)
	}
	if n, err := cb.Exists(ctx, "k").Result(); err != nil || n != 0 {
		t.Errorf("key of one server in the other: %d (error %v), want 0", n, err)
	}
	if err := a.Pause(); err != nil {
		t.Fatal(err)
	}
	short, cancel := context.WithTimeout(ctx, 100*time.Millisecond)
	defer cancel()
	if err := ca.Get(short, "k").Err(); err == nil {
		t.Error("a paused server answers")
	}
	if err := a.Continue(); err != nil {
		t.Fatal(err)
	}
	if v, err := ca.Get(ctx, "k").Result(); err != nil || v != "v" {
		t.Errorf("after the pause: %q (error %v), want %q", v, err, "v")
	}
	if err := errors.Join(a.Kill(ctx), a.Start(ctx)); err != nil {
		t.Fatal(err)
	}
	testenv.Eventually(t, 5*time.Second, func() error {
		n, err := ca.Exists(ctx, "k").Result()
		if err == nil && n != 0 {
			return fmt.Errorf("the key survived the kill")
		}
		return err
	})
}

func TestRedisReplica(t *testing.T) {
	t.Parallel()
	ctx := testenv.Context(t, 30*time.Second)
	primary := testenv.OwnRedis(t)
	host, port, _ := net.SplitHostPort(primary.Addr)
	replica := testenv.OwnRedis(t, "--replicaof", host+" "+port)
	if err := client(t, primary.URL()).Set(ctx, "k", "v", 0).Err(); err != nil {
		t.Fatal(err)
	}
	cr := client(t, replica.URL())
	testenv.Eventually(t, 10*time.Second, func() error { return cr.Get(ctx, "k").Err() })
}

func client(t *testing.T, rawURL string) *redis.Client {
	t.Helper()
	opts, err := redis.ParseURL(rawURL)
	if err != nil {
		t.Fatal(err)
	}
	opts.DisableIdentity = true
	opts.MaxRetries = -1
	opts.ContextTimeoutEnabled = true
	c := redis.NewClient(opts)
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func TestProxyFaults(t *testing.T) {
	t.Parallel()
	p := testenv.Proxy(t, echo(t))
	conn := dial(t, p.Addr())
	exchange(t, conn, "through")
	p.Segments(1)
	exchange(t, conn, "in single bytes")
	p.Segments(0)

	p.Latency(30 * time.Millisecond)
	began := time.Now()
	exchange(t, conn, "late")
	if d := time.Since(began); d < 60*time.Millisecond {
		t.Errorf("round trip took %v, want at least 60ms", d)
	}
	p.Latency(0)

	p.Blackhole()
	send(t, conn, "held")
	_ = conn.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
	if n, err := conn.Read(make([]byte, 1)); n != 0 || err == nil {
		t.Errorf("read through a black hole: %d bytes, error %v", n, err)
	}
	p.Resume()
	receive(t, conn, "held")

	p.Blackhole(testenv.ToClient)
	send(t, conn, "answered")
	_ = conn.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
	if n, err := conn.Read(make([]byte, 1)); n != 0 || err == nil {
		t.Errorf("read an answer that is held: %d bytes, error %v", n, err)
	}
	p.Resume()
	receive(t, conn, "answered")

	p.Throttle(1000)
	began = time.Now()
	exchange(t, conn, string(make([]byte, 100))) // there and back
	if d := time.Since(began); d < 100*time.Millisecond {
		t.Errorf("100 bytes at 1,000 a second came back after %v", d)
	}
	p.Throttle(0)

	p.Cut()
	_ = conn.SetReadDeadline(time.Now().Add(5 * time.Second))
	if _, err := conn.Read(make([]byte, 1)); err == nil {
		t.Error("a cut connection can be read")
	}
	exchange(t, dial(t, p.Addr()), "a new connection")

	p.Down()
	if refused, err := net.Dial("tcp", p.Addr()); err == nil { // the reset may come before or after the handshake
		_ = refused.SetReadDeadline(time.Now().Add(5 * time.Second))
		if _, err := refused.Read(make([]byte, 1)); err == nil {
			t.Error("a connection made while the proxy is down can be read")
		}
		_ = refused.Close()
	}
	p.Resume()
	exchange(t, dial(t, p.Addr()), "back again")
}

func echo(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				_, _ = io.Copy(c, c)
			}()
		}
	}()
	return l.Addr().String()
}

func dial(t *testing.T, addr string) net.Conn {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func exchange(t *testing.T, c net.Conn, s string) {
	t.Helper()
	send(t, c, s)
	receive(t, c, s)
}

func send(t *testing.T, c net.Conn, s string) {
	t.Helper()
	if _, err := io.WriteString(c, s); err != nil {
		t.Fatalf("send %q: %v", s, err)
	}
}

func receive(t *testing.T, c net.Conn, want string) {
	t.Helper()
	_ = c.SetReadDeadline(time.Now().Add(5 * time.Second))
	got := make([]byte, len(want))
	if _, err := io.ReadFull(c, got); err != nil || string(got) != want {
		t.Fatalf("received %q (error %v), want %q", got, err, want)
	}
}

// TestFreeAddr: nobody who listens on any port, or connects, is given the port between the call and its use.
func TestFreeAddr(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("/proc/sys/net/ipv4/ip_local_port_range")
	if err != nil {
		t.Skip("the range of the system's own choice is known on Linux only")
	}
	var low, high int
	if _, err := fmt.Sscan(string(text), &low, &high); err != nil {
		t.Fatal(err)
	}
	for range 20 {
		addr := netip.MustParseAddrPort(testenv.FreeAddr(t))
		if port := int(addr.Port()); port >= low && port <= high {
			t.Errorf("port %d is one that the system gives away (%d to %d)", port, low, high)
		}
	}
}
