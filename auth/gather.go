package auth

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
)

// gather lets those who ask at the same time share a statement: while `statements` of them are under way further questions wait, and the next
// statement takes all that have come. One question alone costs what it would cost without it; when thousands of clients come back at once,
// a statement answers a hundred of them.
type gather[Q, A any] struct {
	read func(ctx context.Context, questions []Q) ([]A, error) // an answer for each, in order; begins after all of them were asked

	mu      sync.Mutex
	running int            // statements under way
	waiting []*asked[Q, A] // oldest first, without those whose turn it is; none if fewer than `statements` run
}

// errRows says that a user has several rows, or none where one was asked for.
var errRows = errors.New("relay.users must have one row for each id")

const (
	statements   = 4   // of one kind at a time
	mostAsked    = 128 // questions in one
	gatherExpiry = 10 * time.Second

	// Who is asked for together with a user whose rows hang must be answered before its own patience ends: so long may the statement for all of them
	// take, and so long one of those that then ask for each.
	togetherExpiry = 3 * time.Second
	singleExpiry   = time.Second
)

// asked is one question.
type asked[Q, A any] struct {
	question Q
	answer   A
	err      error
	turn     chan bool // true: answered; false: it is up to this one to read for all who wait. Holds one
}

// ask returns the answer of a statement that begins after the call.
func (g *gather[Q, A]) ask(ctx context.Context, question Q) (A, error) {
	a := &asked[Q, A]{question: question, turn: make(chan bool, 1)}
	g.mu.Lock()
	wait := g.running == statements
	if wait {
		g.waiting = append(g.waiting, a)
	} else {
		g.running++
	}
	g.mu.Unlock()
	if !wait {
		g.readFor(ctx, a)
		return a.answer, a.err
	}
	select {
	case answered := <-a.turn:
		if !answered {
			g.readFor(ctx, a)
		}
		return a.answer, a.err
	case <-ctx.Done():
		g.leave(a)
		var none A
		return none, ctx.Err()
	}
}

// readFor reads for a, and for those who wait.
func (g *gather[Q, A]) readFor(ctx context.Context, a *asked[Q, A]) {
	g.mu.Lock()
	others := min(len(g.waiting), mostAsked-1)
	batch := append([]*asked[Q, A]{a}, g.waiting[:others]...)
	g.waiting = slices.Delete(g.waiting, 0, others)
	g.mu.Unlock()
	n := len(batch)
	questions := make([]Q, n)
	for i, b := range batch {
		questions[i] = b.question
	}
	var answers []A
	var err error
	if n == 1 {
		answers, err = g.read(ctx, questions)
	} else { // the others' answers don't depend on the patience of one
		detached, cancel := context.WithTimeout(context.WithoutCancel(ctx), gatherExpiry)
		defer cancel()
		ctx = detached
		answers, err = g.readWithin(ctx, togetherExpiry, questions)
	}
	singly := n > 1 && mayBeOfOne(err)
	for i, b := range batch {
		if singly && ctx.Err() == nil {
			var one []A
			if one, b.err = g.readWithin(ctx, singleExpiry, questions[i:i+1]); b.err == nil {
				b.answer = one[0]
			}
		} else if b.err = err; err == nil {
			b.answer = answers[i]
		}
		if b != a {
			b.turn <- true
		}
	}
	g.mu.Lock()
	g.pass()
	g.mu.Unlock()
}

func (g *gather[Q, A]) readWithin(ctx context.Context, d time.Duration, questions []Q) ([]A, error) {
	ctx, cancel := context.WithTimeout(ctx, d)
	defer cancel()
	return g.read(ctx, questions)
}

// mayBeOfOne reports whether a statement may have failed for one of its questions: a view of the application's may fail or hang for one user,
// which isn't the others' fault.
func mayBeOfOne(err error) bool {
	var refused *pgconn.PgError
	return errors.As(err, &refused) || errors.Is(err, errRows) || errors.Is(err, context.DeadlineExceeded)
}

// pass gives the turn to the next one, who waits no longer. The caller holds mu.
func (g *gather[Q, A]) pass() {
	if len(g.waiting) == 0 {
		g.running--
		return
	}
	next := g.waiting[0]
	g.waiting = slices.Delete(g.waiting, 0, 1)
	next.turn <- false
}

// leave takes back a question. One that is being read is answered to nobody.
func (g *gather[Q, A]) leave(a *asked[Q, A]) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if i := slices.Index(g.waiting, a); i >= 0 {
		g.waiting = slices.Delete(g.waiting, i, i+1)
		return
	}
	select {
	case answered := <-a.turn:
		if !answered { // it was up to this one
			g.pass()
		}
	default:
	}
}
