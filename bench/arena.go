//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
)

// arena is the place of one run: a database, a server process and its clients.
type arena struct {
	*stack
	plan    *plan
	at      string // the database's URL
	drop    func()
	conn    *pgx.Conn
	server  *process // nil: alone
	streams []*stream
	crowd   *crowd // nil: no clients
	window  window
	stopped func() error // ends the crowd
}

// open makes the database and its members. The caller closes the arena, also after an error.
func (s *stack) open(ctx context.Context, p *plan) (a *arena, err error) {
	a = &arena{stack: s, plan: p, streams: p.streams(), stopped: func() error { return nil }}
	if a.at, a.drop, err = s.database(ctx); err != nil {
		return a, err
	}
	if a.conn, err = pgx.Connect(ctx, a.at); err != nil {
		return a, fmt.Errorf("connect to the run's database: %w", err)
	}
	return a, a.enrol(ctx)
}

// enrol makes the users and their memberships.
func (a *arena) enrol(ctx context.Context) error {
	if a.plan.kind != ours {
		return nil
	}
	var users, members, programs []string
	for _, c := range a.plan.clients {
		users = append(users, c.user)
		for _, p := range c.programs {
			members, programs = append(members, c.user), append(programs, programName(p))
		}
	}
	_, err := a.conn.Exec(ctx, "INSERT INTO relay.users (id) SELECT unnest($1::text[])", users)
	if err == nil {
		_, err = a.conn.Exec(ctx, "INSERT INTO relay.program_members (user_id, program_id) SELECT * FROM unnest($1::text[], $2::text[])", members, programs)
	}
	if err == nil {
		_, err = a.conn.Exec(ctx, "VACUUM (ANALYZE) relay.outbox, relay.users, relay.program_members, relay.user_locks")
	}
	if err != nil {
		return fmt.Errorf("make the members: %w", err)
	}
	return nil
}

// serve starts the server that is measured and waits until it has relayed what there is.
func (a *arena) serve(ctx context.Context) error {
	if a.plan.kind == alone {
		return nil
	}
	if err := a.start(ctx); err != nil {
		return err
	}
	if err := a.server.ready(ctx); err != nil {
		return err
	}
	return a.relayed(ctx)
}

// start starts the server.
func (a *arena) start(ctx context.Context) (err error) {
	env := []string{"DATABASE_URL=" + a.at}
	switch a.plan.kind {
	case theFloor:
		a.server, err = startProcess(ctx, env, a.self, "floor")
	case ours:
		env = append(env, "REDIS_URL="+a.redis.URL(), "JWT_ACCESS_SECRET="+secret, "LISTEN_ADDR=127.0.0.1:0", "ADMIN_ADDR=127.0.0.1:0",
			"LOG_FORMAT=json", "LOG_LEVEL=info", "SHUTDOWN_GRACE=0s", "ROLE=all")
		a.server, err = startProcess(ctx, env, a.binary, "serve")
	}
	return err
}

// relayed waits until everything in the outbox belongs to a tick.
func (a *arena) relayed(ctx context.Context) error {
	if a.plan.kind != ours {
		return nil
	}
	return a.until(ctx, startTime, "the outbox isn't drained", func() (done bool, err error) {
		err = a.conn.QueryRow(ctx, "SELECT (SELECT coalesce(sum(events), 0) FROM relay.ticks) = (SELECT count(*) FROM relay.outbox)").Scan(&done)
		return done, err
	})
}

// until asks again and again whether something is done.
func (a *arena) until(ctx context.Context, within time.Duration, otherwise string, done func() (bool, error)) error {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for {
		if ok, err := done(); ok || err != nil {
			return err
		}
		select {
		case <-tick.C:
		case <-a.server.done:
			return fmt.Errorf("%s: the server has ended: %s", otherwise, a.server.log())
		case <-ctx.Done():
			return fmt.Errorf("%s after %v: %w", otherwise, within, context.Cause(ctx))
		}
	}
}

// errFailed ends a run of which a client has found something wrong; dismiss says what.
var errFailed = errors.New("a check failed")

// assemble makes the clients, which are not connected yet, and lets them read. What was sent before since, they don't expect. The context that it
// returns ends when a check fails.
func (a *arena) assemble(ctx context.Context, since string) (context.Context, error) {
	peers, err := a.plan.peers(a.server.address, since, a.streams)
	if err != nil {
		return ctx, err
	}
	return a.assembleOf(ctx, peers)
}

// assembleOf is assemble with clients that are made already.
func (a *arena) assembleOf(ctx context.Context, peers []*peer) (_ context.Context, err error) {
	if a.crowd, err = newCrowd(a.server.address, a.plan.loops, peers, a.streams, &a.window); err != nil {
		return ctx, err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	ended := make(chan error, 1)
	go func() {
		err := a.crowd.run(ctx)
		cancel(errFailed)
		ended <- err
	}()
	a.stopped = func() error {
		a.stopped = func() error { return nil }
		a.crowd.hangUp()
		cancel(nil)
		return errors.Join(<-ended, a.crowd.close())
	}
	return ctx, nil
}

// dismiss closes all connections and returns what was wrong with them.
func (a *arena) dismiss() error { return a.stopped() }

// writers connects the plan's writers.
func (a *arena) writers(ctx context.Context) ([]*writer, error) {
	list := make([]*writer, a.plan.writers)
	for i := range list {
		list[i] = &writer{kind: a.plan.kind, streams: a.plan.streamsOf(i, a.streams), size: a.plan.size, first: 100 * i, inTime: &a.window}
		if err := list[i].open(ctx, a.at); err != nil {
			return list[:i], err
		}
	}
	return list, nil
}

// expected is how many deliveries what was sent makes.
func (a *arena) expected() (n int64) {
	per := a.plan.perProgram()
	audience := make([]int64, a.plan.programs)
	for _, c := range a.plan.clients {
		for _, p := range c.programs {
			audience[p]++
		}
	}
	for i, s := range a.streams {
		n += s.next.Load() * audience[i/per]
	}
	return n
}

// close ends the run.
func (a *arena) close(ctx context.Context) error {
	err := a.stopped()
	if a.server != nil {
		err = errors.Join(err, a.server.stop())
	}
	if a.conn != nil {
		err = errors.Join(err, a.conn.Close(context.WithoutCancel(ctx)))
	}
	if a.drop != nil {
		a.drop()
	}
	if err != nil {
		return fmt.Errorf("%s of %s: %w", a.plan.name, a.plan.kind, err)
	}
	return nil
}
