// Command chaos judges a running stack while you do your worst to it: it writes transactions, listens as several clients that come and go, and
// tells in the end what was missing, never committed, out of order, repeated otherwise than exactly, or not for the client's user.
//
//	DATABASE_URL=… JWT_ACCESS_SECRET=… go run ./internal/scenario/chaos --url ws://127.0.0.1:8080/ws --for 1m
//
// It works with programs and users of its own, whose names begin with chaos-, and deletes the users and memberships when it ends; its events go with
// the outbox' retention. DATABASE_URL must be allowed to write relay.users and relay.program_members, and these must be tables. Exit code 0: nothing
// was wrong, 1: something was (or the stack couldn't be used), 2: usage.
package main

import (
	"context"
	"crypto/rand"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/outboxrelay/outboxrelay/internal/scenario"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	err := run(ctx, os.Args[1:], os.Getenv, os.Stdout, os.Stderr)
	if errors.Is(err, errUsage) {
		os.Exit(2)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "chaos:", err)
		os.Exit(1)
	}
}

var errUsage = errors.New("usage")

// options are what the command line and the environment say.
type options struct {
	database, secret      string
	issuer, audienceClaim string
	urls                  []string
	last, patience        time.Duration
	writers, clients      int
	prefix                string
}

func parse(args []string, getenv func(string) string, stderr io.Writer) (options, error) {
	o := options{database: getenv("DATABASE_URL"), secret: getenv("JWT_ACCESS_SECRET"), issuer: getenv("JWT_ISSUER"), audienceClaim: getenv("JWT_AUDIENCE"), prefix: "chaos-" + strings.ToLower(rand.Text()[:6]) + "-"}
	flags := flag.NewFlagSet("chaos", flag.ContinueOnError)
	flags.SetOutput(stderr)
	url := flags.String("url", "ws://127.0.0.1:8080/ws", "where the nodes are, comma separated: a client goes to any of them")
	flags.DurationVar(&o.last, "for", time.Minute, "how long to write; at most 24h")
	flags.DurationVar(&o.patience, "patience", time.Minute, "how long to wait for the last events afterwards")
	flags.IntVar(&o.writers, "writers", 4, "transactions at a time, 1 to 60")
	flags.IntVar(&o.clients, "clients", 4, "clients, half of which drop their connections again and again, 2 to 1000")
	if err := flags.Parse(args); err != nil {
		return o, errUsage
	}
	o.urls = strings.Split(*url, ",")
	for name, bad := range map[string]bool{
		"DATABASE_URL: not set: want the stack's Postgres": o.database == "", "JWT_ACCESS_SECRET: not set: want the key that the nodes check tokens with": o.secret == "",
		"--for: want more than 0 and at most 24h": o.last <= 0 || o.last > 24*time.Hour, "--writers: want 1 to 60": o.writers < 1 || o.writers > 60,
		"--clients: want 2 to 1000": o.clients < 2 || o.clients > 1000,
	} {
		if bad {
			fmt.Fprintln(stderr, "chaos:", name)
			return o, errUsage
		}
	}
	return o, nil
}

const programs = 4

func run(ctx context.Context, args []string, getenv func(string) string, stdout, stderr io.Writer) error {
	o, err := parse(args, getenv, stderr)
	if err != nil {
		return err
	}
	config, err := pgxpool.ParseConfig(o.database)
	if err != nil {
		return errors.New("DATABASE_URL can't be read: want postgres://user:password@host:5432/database")
	}
	config.MaxConns = 64
	pool, err := pgxpool.NewWithConfig(ctx, config)
	if err != nil {
		return err
	}
	defer pool.Close()
	if err := o.settle(ctx, pool); err != nil {
		return err
	}
	defer o.leave(context.WithoutCancel(ctx), pool, stderr)
	fmt.Fprintf(stdout, "writing to %s0 … %s%d for %v: do your worst\n", o.prefix, o.prefix, programs-1, o.last)
	return o.judge(ctx, pool, stdout)
}

// settle creates users and memberships. One user is a member of the first program only.
func (o *options) settle(ctx context.Context, pool *pgxpool.Pool) error {
	_, err := pool.Exec(ctx, `WITH u AS (INSERT INTO relay.users (id) SELECT $1 || name FROM unnest(ARRAY['member', 'guest']) name RETURNING id)
		INSERT INTO relay.program_members (user_id, program_id) SELECT u.id, $1 || n FROM u, generate_series(0, $2::int - 1) n
		WHERE n = 0 OR u.id = $1 || 'member'`, o.prefix, programs)
	if err != nil {
		return fmt.Errorf("create users and memberships (they must be tables, and DATABASE_URL's user may write them): %w", err)
	}
	return nil
}

// leave deletes them again.
func (o *options) leave(ctx context.Context, pool *pgxpool.Pool, stderr io.Writer) {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	for _, statement := range []string{"DELETE FROM relay.program_members WHERE starts_with(user_id, $1)", "DELETE FROM relay.users WHERE starts_with(id, $1)"} {
		if _, err := pool.Exec(ctx, statement, o.prefix); err != nil {
			fmt.Fprintf(stderr, "chaos: clean up: %v: run it by hand for %q: %s\n", err, o.prefix, statement)
		}
	}
}

func (o *options) sign(user string) string {
	token, err := jwt.NewWithClaims(jwt.SigningMethodHS256, jwt.MapClaims{
		"sub": user, "exp": time.Now().Add(time.Hour).Unix(), "iss": o.issuer, "aud": o.audienceClaim,
	}).SignedString([]byte(o.secret))
	if err != nil {
		panic(err) // HMAC with a byte key doesn't fail
	}
	return token
}

func (o *options) audience() []*scenario.Client {
	var list []*scenario.Client
	for n := range o.clients {
		c := scenario.NewClientAt(o.prefix+"member", o.urls...)
		if n == 1 {
			c = scenario.NewClientAt(o.prefix+"guest", o.urls...)
			c.Programs = []string{o.prefix + "0"}
		}
		c.Sign, c.Patience = o.sign, time.Minute
		list = append(list, c)
	}
	return list
}

// judge runs clients and writers, and compares.
func (o *options) judge(ctx context.Context, pool *pgxpool.Pool, stdout io.Writer) error {
	clients := o.audience()
	alive, end := context.WithCancel(context.WithoutCancel(ctx))
	var group sync.WaitGroup
	defer group.Wait()
	defer end()
	for _, c := range clients {
		group.Go(func() { c.Run(alive) })
	}
	for _, c := range clients {
		ready := func(c *scenario.Client) bool { return c.Connected() && c.Resumable() }
		if err := c.Until(timeout(ctx, 30*time.Second), ready); err != nil {
			return fmt.Errorf("no client gets in: is --url right, and JWT_ACCESS_SECRET the nodes' own? %w", err)
		}
	}
	journal := scenario.NewJournal(pool, o.prefix, programs)
	writing := timeout(ctx, o.last)
	group.Go(func() { drop(writing, clients) })
	journal.Write(writing, scenario.Mix{Writers: o.writers, Pause: 50 * time.Millisecond, Sleep: 100 * time.Millisecond, Tolerate: true, Seed: uint64(time.Now().UnixNano())})
	late := journal.Complete(timeout(context.WithoutCancel(ctx), o.patience), clients...)
	report, err := journal.Check(context.WithoutCancel(ctx), clients...)
	if err != nil {
		return fmt.Errorf("read what is committed: %w", err)
	}
	fmt.Fprintf(stdout, "%v, connections lost by writers %d, 99th percentile of COMMIT %v\n", report, report.Outages, report.LateCommit.Round(time.Millisecond))
	return errors.Join(report.Err(), late)
}

// drop cuts every second client's connection again and again.
func drop(ctx context.Context, clients []*scenario.Client) {
	tick := time.NewTicker(500 * time.Millisecond)
	defer tick.Stop()
	for n := 0; ; n++ {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			clients[1+n%(len(clients)/2)].Drop()
		}
	}
}

// timeout is a context that ends by itself.
func timeout(ctx context.Context, d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(ctx, d)
	context.AfterFunc(ctx, cancel)
	return ctx
}
