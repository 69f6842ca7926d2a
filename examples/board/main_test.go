package board_test

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/outboxrelay/outboxrelay/examples/board"
	"github.com/outboxrelay/outboxrelay/internal/testenv"
)

func TestMain(m *testing.M) { testenv.Main(m) }

// world is the example on a database of its own.
type world struct {
	t    *testing.T
	ctx  context.Context
	pool *pgxpool.Pool
	h    http.Handler
}

func newWorld(t *testing.T) *world {
	t.Helper()
	pool, _ := testenv.DB(t)
	ctx := testenv.Context(t, time.Minute)
	if err := board.Setup(ctx, pool); err != nil {
		t.Fatal(err)
	}
	mint := func(user string, _ time.Duration) (string, error) { return "token of " + user, nil }
	return &world{t, ctx, pool, board.Handler(board.Config{Pool: pool, Mint: mint, Logger: testenv.Logger(t)})}
}

// do makes a request as a user (empty: nobody) and returns the answer.
func (w *world) do(user, method, path string, body any) *httptest.ResponseRecorder {
	w.t.Helper()
	var in io.Reader
	if body != nil {
		text, err := json.Marshal(body)
		if err != nil {
			w.t.Fatal(err)
		}
		in = bytes.NewReader(text)
	}
	r := httptest.NewRequestWithContext(w.ctx, method, path, in)
	if user != "" {
		r.Header.Set("Authorization", "Bearer token of "+user)
	}
	rec := httptest.NewRecorder()
	w.h.ServeHTTP(rec, r)
	return rec
}

func (w *world) signIn(user string) {
	w.t.Helper()
	if rec := w.do("", "POST", "/demo/token", map[string]string{"user": user}); rec.Code != http.StatusOK {
		w.t.Fatalf("sign in as %s: %d %s", user, rec.Code, rec.Body)
	}
}

// answer is what a change answers with.
type answer struct {
	Request    string
	ID         string
	Events     []int64
	RolledBack bool
}

// change makes a change that must succeed.
func (w *world) change(user, method, path string, body any) answer {
	w.t.Helper()
	return decode[answer](w.t, w.do(user, method, path, body))
}

func decode[T any](t *testing.T, rec *httptest.ResponseRecorder) (v T) {
	t.Helper()
	if rec.Code != http.StatusOK {
		t.Fatalf("answer: %d %s", rec.Code, rec.Body)
	}
	if err := json.Unmarshal(rec.Body.Bytes(), &v); err != nil {
		t.Fatalf("answer %s: %v", rec.Body, err)
	}
	return v
}

// event is a row of the outbox.
type event struct {
	ID      int64
	Program string
	Event   string
	Request string
	By      string
	Name    string
	Data    string
}

// events returns what was committed, without the control rows of memberships.
func (w *world) events() []event {
	w.t.Helper()
	rows, err := w.pool.Query(w.ctx, `
		SELECT id, program_id AS program, event, request_id AS request, performed_by_id AS by, performed_by_name AS name, data::text
		FROM relay.outbox WHERE NOT control ORDER BY id`)
	if err != nil {
		w.t.Fatal(err)
	}
	events, err := pgx.CollectRows(rows, pgx.RowToStructByName[event])
	if err != nil {
		w.t.Fatal(err)
	}
	return events
}

// count returns the number that a query selects.
func (w *world) count(sql string) (n int) {
	w.t.Helper()
	if err := w.pool.QueryRow(w.ctx, sql).Scan(&n); err != nil {
		w.t.Fatal(err)
	}
	return n
}
