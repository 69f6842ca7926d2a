package scenario

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
)

// Churn is what administrators did to the memberships of a world's users. Each user has one administrator, so that a user's changes have
// an order; it is drawn from Seed, as are the changes themselves.
type Churn struct {
	world           *World
	seed            uint64
	programs, users int

	mu      sync.Mutex
	changes map[member][]change // of the effective membership, in order; the first is how it began
	closed  map[string]bool     // users who were deactivated at some time, with programs or without
	errors  []error
}

type member struct{ user, program string }

// change is one change of an effective membership.
type change struct {
	in       bool
	began    time.Time
	issued   time.Time // before COMMIT was sent
	returned time.Time // after it had returned
	tick     int64     // position of its batch; from the database, see locate
}

// NewChurn gives each of the world's users some of the programs p0 … p<programs-1>.
func (w *World) NewChurn(ctx context.Context, seed uint64, programs, users int) (*Churn, error) {
	c := &Churn{world: w, seed: seed, programs: programs, users: users, changes: map[member][]change{}, closed: map[string]bool{}}
	rng := rand.New(rand.NewPCG(seed, 1))
	for u := range users {
		for p := range programs {
			m := member{fmt.Sprintf("u%d", u), fmt.Sprintf("p%d", p)}
			in := rng.IntN(programs) < 3
			c.changes[m] = []change{{in: in}}
			if !in {
				continue
			}
			if _, err := w.Pool.Exec(ctx, "INSERT INTO relay.program_members (user_id, program_id) VALUES ($1, $2)", m.user, m.program); err != nil {
				return nil, err
			}
		}
	}
	return c, nil
}

// Run lets administrators work, each with a pause of up to that length after every change, until ctx ends; then they activate all users.
func (c *Churn) Run(ctx context.Context, administrators int, pause time.Duration) {
	var group errgroup.Group
	for n := range administrators {
		group.Go(func() error {
			a := &administrator{churn: c, rng: rand.New(rand.NewPCG(c.seed, uint64(100+n))), n: n, of: administrators, active: map[string]bool{}, rows: map[member]bool{}}
			a.work(ctx, pause)
			return nil
		})
	}
	_ = group.Wait()
}

// administrator owns the users whose number has the remainder n.
type administrator struct {
	churn  *Churn
	rng    *rand.Rand
	n, of  int
	active map[string]bool
	rows   map[member]bool // in relay.program_members and active
}

func (a *administrator) work(ctx context.Context, pause time.Duration) {
	var users []string
	for u := a.n; u < a.churn.users; u += a.of {
		users = append(users, fmt.Sprintf("u%d", u))
	}
	for _, u := range users {
		a.active[u] = true
	}
	a.churn.mu.Lock()
	for m, list := range a.churn.changes {
		if a.active[m.user] {
			a.rows[m] = list[0].in
		}
	}
	a.churn.mu.Unlock()
	for ctx.Err() == nil {
		a.one(users[a.rng.IntN(len(users))])
		if !wait(ctx, time.Duration(a.rng.Int64N(int64(pause)))) {
			break
		}
	}
	for _, u := range users {
		for tries := 0; !a.active[u] && tries < 20; tries++ { // one in eight is rolled back
			a.setActive(u, true)
		}
	}
}

// one makes a random change of one user.
func (a *administrator) one(user string) {
	mine := a.programsOf(user)
	if !a.active[user] {
		a.setActive(user, true)
		return
	}
	other := fmt.Sprintf("p%d", a.rng.IntN(a.churn.programs))
	switch kind := a.rng.IntN(12); {
	case kind == 0:
		a.setActive(user, false)
	case len(mine) < 2 || kind < 5 && !slices.Contains(mine, other):
		a.set(user, []string{other}, []bool{true})
	case kind < 9:
		a.set(user, []string{mine[a.rng.IntN(len(mine))]}, []bool{false})
	case kind == 9: // away and back in one transaction
		p := mine[a.rng.IntN(len(mine))]
		a.set(user, []string{p, p}, []bool{false, true})
	case kind == 10 && !slices.Contains(mine, other): // from one program to another
		a.set(user, []string{mine[a.rng.IntN(len(mine))], other}, []bool{false, true})
	default: // away, and back at once
		p := mine[a.rng.IntN(len(mine))]
		a.set(user, []string{p}, []bool{false})
		a.set(user, []string{p}, []bool{true})
	}
}

func (a *administrator) programsOf(user string) (list []string) {
	for m, in := range a.rows {
		if in && m.user == user {
			list = append(list, m.program)
		}
	}
	slices.Sort(list)
	return list
}

// set gives and takes memberships in one transaction, by different statements.
func (a *administrator) set(user string, programs []string, in []bool) {
	statements := []string{
		"DELETE FROM relay.program_members WHERE user_id = $1 AND program_id = $2",
		"UPDATE relay.program_members SET is_active = false WHERE user_id = $1 AND program_id = $2",
	}
	var done []func(change)
	a.transact(user, func(exec func(string, ...any)) {
		for i, p := range programs {
			statement := "INSERT INTO relay.program_members (user_id, program_id) VALUES ($1, $2) ON CONFLICT (user_id, program_id) DO UPDATE SET is_active = true"
			if !in[i] {
				statement = statements[a.rng.IntN(2)]
			}
			exec(statement, user, p)
			done = append(done, func(c change) {
				m := member{user, p}
				if a.rows[m] == in[i] { // the transaction that was to take it away was rolled back
					return
				}
				a.rows[m] = in[i]
				c.in = in[i]
				a.churn.changes[m] = append(a.churn.changes[m], c)
			})
		}
	}, &done)
}

func (a *administrator) setActive(user string, active bool) {
	done := []func(change){func(c change) {
		a.active[user] = active
		a.churn.closed[user] = a.churn.closed[user] || !active
		c.in = active
		for _, p := range a.programsOf(user) {
			a.churn.changes[member{user, p}] = append(a.churn.changes[member{user, p}], c)
		}
	}}
	a.transact(user, func(exec func(string, ...any)) {
		exec("UPDATE relay.users SET is_active = $2 WHERE id = $1", user, active)
	}, &done)
}

// transact runs work in a transaction, one in eight of which is rolled back; the others are written down. One in four stays open for a while
// with its control rows written.
func (a *administrator) transact(user string, work func(exec func(string, ...any)), done *[]func(change)) {
	ctx := context.Background()
	c := change{began: time.Now()}
	tx, err := a.churn.world.Pool.Begin(ctx)
	if err != nil {
		a.fail(user, err)
		return
	}
	defer tx.Rollback(ctx) //nolint:errcheck // after COMMIT it does nothing
	work(func(query string, args ...any) {
		if err == nil {
			_, err = tx.Exec(ctx, query, args...)
		}
	})
	if a.rng.IntN(4) == 0 && err == nil {
		_, err = tx.Exec(ctx, "SELECT pg_sleep($1)", a.rng.Float64()*0.03)
	}
	if a.rng.IntN(8) == 0 && err == nil {
		return
	}
	c.issued = time.Now()
	if err == nil {
		err = tx.Commit(ctx)
	}
	c.returned = time.Now()
	if err != nil {
		a.fail(user, err)
		return
	}
	a.churn.mu.Lock()
	defer a.churn.mu.Unlock()
	for _, f := range *done {
		f(c)
	}
}

func (a *administrator) fail(user string, err error) {
	a.churn.mu.Lock()
	defer a.churn.mu.Unlock()
	a.churn.errors = append(a.churn.errors, fmt.Errorf("change of %s: %w", user, err))
}
