package auth

import (
	"context"
	"errors"
	"slices"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
)

// Questions that come while statements are under way share the next one; each gets its own answer.
func TestQuestionsAreGathered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		gate := make(chan struct{})
		var mu sync.Mutex
		var sizes []int
		g := &gather[int, string]{read: func(_ context.Context, questions []int) ([]string, error) {
			mu.Lock()
			sizes = append(sizes, len(questions))
			mu.Unlock()
			<-gate
			answers := make([]string, len(questions))
			for i, q := range questions {
				answers[i] = strconv.Itoa(q)
			}
			return answers, nil
		}}
		const asking = statements + mostAsked + 10
		var group sync.WaitGroup
		for q := range asking {
			group.Go(func() {
				if got, err := g.ask(t.Context(), q); err != nil || got != strconv.Itoa(q) {
					t.Errorf("%d was answered by %q (%v)", q, got, err)
				}
			})
			synctest.Wait()
		}
		if len(sizes) != statements {
			t.Fatalf("%d statements under way, want %d", len(sizes), statements)
		}
		close(gate)
		group.Wait()
		if len(sizes) > 2*statements+1 || slices.Max(sizes) != mostAsked { // the four that end give their turns away at the same time
			t.Errorf("statements for %v questions", sizes)
		}
		if g.running != 0 || len(g.waiting) != 0 {
			t.Errorf("%d still under way, %d wait", g.running, len(g.waiting))
		}
	})
}

// Who gives up, waiting or with the turn on its way, leaves the others answered.
func TestSomebodyGivesUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		gate := make(chan struct{})
		g := &gather[int, int]{read: func(ctx context.Context, questions []int) ([]int, error) {
			select {
			case <-gate:
				return questions, nil
			case <-ctx.Done():
				return nil, ctx.Err()
			}
		}}
		impatient, give := context.WithCancel(t.Context())
		var group sync.WaitGroup
		for q := range statements { // these read alone, and end with their own context
			group.Go(func() {
				if _, err := g.ask(impatient, q); !errors.Is(err, context.Canceled) {
					t.Errorf("%d: %v", q, err)
				}
			})
		}
		synctest.Wait()
		for q := range 20 {
			group.Go(func() {
				ctx := t.Context()
				if q%2 == 0 {
					ctx = impatient
				}
				if got, err := g.ask(ctx, q); q%2 == 1 && (err != nil || got != q) {
					t.Errorf("%d was answered by %d (%v)", q, got, err)
				}
			})
		}
		synctest.Wait()
		give()
		synctest.Wait()
		close(gate)
		group.Wait()
		if g.running != 0 || len(g.waiting) != 0 {
			t.Errorf("%d still under way, %d wait", g.running, len(g.waiting))
		}
	})
}
