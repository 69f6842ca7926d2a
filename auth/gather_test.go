package auth

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/outboxrelay/outboxrelay/internal/testenv"
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

// A database that answers nobody is asked for a bounded time, and not for each who waits.
func TestNobodyIsAnswered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		reads := 0
		g := &gather[int, int]{read: func(ctx context.Context, _ []int) ([]int, error) {
			mu.Lock()
			reads++
			mu.Unlock()
			<-ctx.Done()
			return nil, ctx.Err()
		}}
		began := time.Now()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second) // of those who read alone
		defer cancel()
		var group sync.WaitGroup
		for q := range statements + statements*mostAsked {
			if q == statements {
				ctx = t.Context()
			}
			group.Go(func() {
				if _, err := g.ask(ctx, q); !errors.Is(err, context.DeadlineExceeded) {
					t.Errorf("%d: %v", q, err)
				}
			})
			synctest.Wait()
		}
		group.Wait()
		most := 3 + int((gatherExpiry-togetherExpiry)/singleExpiry) // of one slot
		if took := time.Since(began); took > time.Second+gatherExpiry || reads > statements*most {
			t.Errorf("%d statements in %v", reads, took)
		}
	})
}

// What a view of the application's does for one user isn't the others' fault: those who shared a statement with a row that hangs were told nothing
// for as long as they could wait, and gave up.
func TestOneUsersRowFails(t *testing.T) {
	t.Parallel()
	pool, url := testenv.DB(t)
	s, gate := NewStore(pool), testenv.Conn(t, url)
	for _, sql := range []string{
		"INSERT INTO relay.users (id) SELECT 'u' || n FROM generate_series(1, 100) n UNION VALUES ('bad'), ('hangs')",
		"INSERT INTO relay.users (id) SELECT 'first' || n FROM generate_series(1, 4) n",
		"INSERT INTO relay.program_members (user_id, program_id) SELECT id, 'p1' FROM relay.users",
		`INSERT INTO relay.ticks (position, after, base, snapshot, events, at, system_id, timeline)
			VALUES (1000, 0, 0, pg_current_snapshot(), 106, now(), 1, 1)`,
		"ALTER TABLE relay.program_members RENAME TO members",
		`CREATE FUNCTION relay.judge(id text) RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN
			PERFORM pg_advisory_xact_lock_shared(1) WHERE id LIKE 'first%';
			PERFORM pg_advisory_xact_lock_shared(2) WHERE id = 'hangs';
			IF id = 'bad' THEN RAISE 'a bad row'; END IF;
			RETURN true;
		END $$`,
		"CREATE VIEW relay.program_members AS SELECT user_id, program_id, relay.judge(user_id) AS is_active FROM relay.members",
	} {
		if _, err := pool.Exec(t.Context(), sql); err != nil {
			t.Fatalf("%s: %v", sql, err)
		}
	}
	for _, users := range []string{"bad", "hangs", "bad hangs"} {
		if _, err := gate.Exec(t.Context(), "SELECT pg_advisory_lock(1), pg_advisory_lock(2)"); err != nil {
			t.Fatal(err)
		}
		var group sync.WaitGroup
		ask := func(user string) {
			group.Go(func() {
				ctx, cancel := context.WithTimeout(t.Context(), gatherExpiry)
				defer cancel()
				m, err := s.Membership(ctx, user)
				var of *ReadError
				switch fails := user == "bad" || user == "hangs"; {
				case !fails && (err != nil || m.UserID != user || !m.Found):
					t.Errorf("with %s: %s was answered by %+v, %v", users, user, m, err)
				case fails && (!errors.As(err, &of) || of.UserID != user || strings.Contains(err.Error(), user+`"`)):
					t.Errorf("with %s: %s: %v", users, user, err)
				case user == "bad" && !of.OfRows, user == "hangs" && !errors.Is(err, context.DeadlineExceeded):
					t.Errorf("with %s: %s: %v, of rows %v", users, user, err, of.OfRows)
				}
			})
		}
		waiting := func(want int) {
			t.Helper()
			testenv.Eventually(t, 5*time.Second, func() error {
				s.memberships.mu.Lock()
				defer s.memberships.mu.Unlock()
				if running, waiting := s.memberships.running, len(s.memberships.waiting); running != statements || waiting != want {
					return fmt.Errorf("%d run and %d wait, want %d", running, waiting, want)
				}
				return nil
			})
		}
		for n := range statements {
			ask(fmt.Sprintf("first%d", n+1))
		}
		waiting(0)
		for n := range statements { // the turn is theirs
			ask(fmt.Sprintf("u%d", n+1))
		}
		waiting(statements)
		failing := strings.Fields(users)
		for _, user := range failing {
			ask(user)
		}
		waiting(statements + len(failing))
		for n := statements; n < 100; n++ {
			ask(fmt.Sprintf("u%d", n+1))
		}
		waiting(len(failing) + 100)
		if _, err := gate.Exec(t.Context(), "SELECT pg_advisory_unlock(1)"); err != nil {
			t.Fatal(err)
		}
		group.Wait()
		if _, err := gate.Exec(t.Context(), "SELECT pg_advisory_unlock(2)"); err != nil {
			t.Fatal(err)
		}
	}
}
