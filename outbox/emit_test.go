package outbox_test

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"log"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	_ "github.com/jackc/pgx/v5/stdlib"

	"github.com/outboxrelay/outboxrelay/internal/testenv"
	"github.com/outboxrelay/outboxrelay/outbox"
)

func TestMain(m *testing.M) { testenv.Main(m) }

// stored is what a test reads back of a row.
type stored struct {
	Program, Event        string
	Request, ByID, ByName *string
	Data                  string
	Traceparent           *string
}

func read(t *testing.T, url string, id int64) (s stored) {
	t.Helper()
	err := testenv.Conn(t, url).QueryRow(t.Context(), `SELECT program_id, event, request_id, performed_by_id, performed_by_name, data::text, traceparent
		FROM relay.outbox WHERE id = $1`, id).Scan(&s.Program, &s.Event, &s.Request, &s.ByID, &s.ByName, &s.Data, &s.Traceparent)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestEmitStoresWhatWasGiven(t *testing.T) {
	t.Parallel()
	pool, url := testenv.DB(t)
	db, err := sql.Open("pgx", url)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()

	full := outbox.Event{
		Program: "p1", Name: outbox.CommentAdded, Request: "r 1", Traceparent: "00-1-2-03",
		Data: json.RawMessage(` { "a" : 1,  "z" : "\u0000<&>" } `),
		By:   outbox.Actor{UserID: "u1", Name: "Änn 'Lee\""},
	}
	least := outbox.Event{Program: "P.2_x:y-z", Name: "invoice:paid"}
	emits := map[string]func(...outbox.Event) ([]int64, error){
		"pgx": func(e ...outbox.Event) (ids []int64, err error) {
			err = pgx.BeginFunc(t.Context(), pool, func(tx pgx.Tx) error { ids, err = outbox.Emit(t.Context(), tx, e...); return err })
			return ids, err
		},
		"database/sql": func(e ...outbox.Event) ([]int64, error) {
			tx, err := db.BeginTx(t.Context(), nil)
			if err != nil {
				return nil, err
			}
			defer tx.Rollback()
			ids, err := outbox.EmitSQL(t.Context(), tx, e...)
			if err != nil {
				return nil, err
			}
			return ids, tx.Commit()
		},
	}
	for name, emit := range emits {
		ids, err := emit(full, least)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if len(ids) != 2 || ids[1] <= ids[0] {
			t.Fatalf("%s: ids %v, want two, ascending", name, ids)
		}
		want := stored{
			Program: "p1", Event: "comment:added", Request: new("r 1"), ByID: new("u1"), ByName: new("Änn 'Lee\""),
			Data: ` { "a" : 1,  "z" : "\u0000<&>" } `, Traceparent: new("00-1-2-03"),
		}
		if d := cmp.Diff(want, read(t, url, ids[0])); d != "" {
			t.Errorf("%s: %s", name, d)
		}
		if d := cmp.Diff(stored{Program: "P.2_x:y-z", Event: "invoice:paid", Data: "{}"}, read(t, url, ids[1])); d != "" {
			t.Errorf("%s: %s", name, d)
		}
	}
}

func TestEmitOfManyKeepsTheirOrder(t *testing.T) {
	t.Parallel()
	pool, _ := testenv.DB(t)
	events := make([]outbox.Event, 12_001) // three statements
	for i := range events {
		events[i] = outbox.Event{Program: "p1", Name: outbox.RequestUpdated, Data: map[string]int{"n": i}}
	}
	ids, err := outbox.Emit(t.Context(), pool, events...)
	if err != nil {
		t.Fatal(err)
	}
	if len(ids) != len(events) || !slices.IsSorted(ids) {
		t.Fatalf("%d ids, sorted %v", len(ids), slices.IsSorted(ids))
	}
	var wrong int
	err = pool.QueryRow(t.Context(), `SELECT count(*) FROM unnest($1::bigint[]) WITH ORDINALITY u(id, n) JOIN relay.outbox o USING (id)
		WHERE (o.data->>'n')::bigint <> n - 1`, ids).Scan(&wrong)
	if err != nil || wrong != 0 {
		t.Fatalf("%d events stand at the wrong id (%v)", wrong, err)
	}
}

// invalid are events that nothing may accept, and the column that the error must name.
var invalid = []struct {
	column string
	event  outbox.Event
}{
	{"program_id", outbox.Event{Name: "a:b"}},
	{"program_id", outbox.Event{Program: strings.Repeat("p", 129), Name: "a:b"}},
	{"program_id", outbox.Event{Program: "p{1}", Name: "a:b"}},
	{"program_id", outbox.Event{Program: ".p", Name: "a:b"}},
	{"program_id", outbox.Event{Program: "p\n", Name: "a:b"}},
	{"event", outbox.Event{Program: "p1"}},
	{"event", outbox.Event{Program: "p1", Name: "created"}},
	{"event", outbox.Event{Program: "p1", Name: "Request:created"}},
	{"event", outbox.Event{Program: "p1", Name: "a:b:c"}},
	{"event", outbox.Event{Program: "p1", Name: "a:b\n"}},
	{"event", outbox.Event{Program: "p1", Name: outbox.Name("a:" + strings.Repeat("b", 63))}},
	{"event", outbox.Event{Program: "p1", Name: "relay:membership"}},
	{"request_id", outbox.Event{Program: "p1", Name: "a:b", Request: strings.Repeat("ä", 129)}},
	{"performed_by_id", outbox.Event{Program: "p1", Name: "a:b", By: outbox.Actor{UserID: strings.Repeat("u", 129)}}},
	{"performed_by_name", outbox.Event{Program: "p1", Name: "a:b", By: outbox.Actor{Name: strings.Repeat("n", 257)}}},
	{"traceparent", outbox.Event{Program: "p1", Name: "a:b", Traceparent: strings.Repeat("t", 129)}},
	{"data", outbox.Event{Program: "p1", Name: "a:b", Data: []int{1}}},
	{"data", outbox.Event{Program: "p1", Name: "a:b", Data: json.RawMessage(`null`)}},
	{"data", outbox.Event{Program: "p1", Name: "a:b", Data: json.RawMessage(`"{}"`)}},
	{"data", outbox.Event{Program: "p1", Name: "a:b", Data: json.RawMessage(`{"a":`)}},
	{"data", outbox.Event{Program: "p1", Name: "a:b", Data: json.RawMessage(`{"a":"` + strings.Repeat("x", outbox.MaxDataBytes) + `"}`)}},
}

func TestEmitRefusesAndNamesTheField(t *testing.T) {
	t.Parallel()
	pool, _ := testenv.DB(t)
	for _, c := range invalid {
		_, err := outbox.Emit(t.Context(), pool, outbox.Event{Program: "p1", Name: "a:b"}, c.event)
		var e *outbox.InvalidError
		if !errors.As(err, &e) || e.Field != c.column || e.Index != 1 {
			t.Errorf("Emit(%+.80v): error %v, want an InvalidError of field %s and index 1", c.event, err, c.column)
		}
	}
	var rows int
	if err := pool.QueryRow(t.Context(), "SELECT count(*) FROM relay.outbox").Scan(&rows); err != nil || rows != 0 {
		t.Errorf("%d rows were written (%v)", rows, err)
	}
}

func TestTableAndFunctionRefuseAndNameTheField(t *testing.T) {
	t.Parallel()
	conn := testenv.Conn(t, testenv.Postgres(t))
	const plain = `INSERT INTO relay.outbox (program_id, event, data, request_id, performed_by_id, performed_by_name) VALUES ($1, $2, $3::json, $4, $5, $6)`
	const function = `SELECT relay.emit($1, $2, $3::json, $4, $5, $6)`
	for _, c := range invalid {
		if c.column == "traceparent" {
			continue // no argument of relay.emit
		}
		data := "{}"
		switch d := c.event.Data.(type) {
		case json.RawMessage:
			data = string(d)
		case []int:
			data = "[1]"
		}
		for _, query := range []string{plain, function} {
			_, err := conn.Exec(t.Context(), query, c.event.Program, string(c.event.Name), data, null(c.event.Request), null(c.event.By.UserID), null(c.event.By.Name))
			var pe *pgconn.PgError
			if !errors.As(err, &pe) {
				t.Errorf("%s: %+.80v was accepted", query, c.event)
				continue
			}
			if !strings.HasPrefix(pe.ConstraintName, c.column+" ") && pe.Code != "22P02" { // 22P02: not JSON at all, and the message says so
				t.Errorf("%s: error %v, want one that names %s", query, err, c.column)
			}
		}
	}
	for _, query := range []string{
		"SELECT relay.emit(NULL, 'a:b')", "SELECT relay.emit('p1', NULL)", "SELECT relay.emit('p1', 'a:b', NULL)", "SELECT relay.emit('p1', 'a:b', request_id => '')",
	} {
		if _, err := conn.Exec(t.Context(), query); err == nil {
			t.Errorf("%s was accepted", query)
		}
	}
}

func null(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}

func TestAnEventIsNeverUpdated(t *testing.T) {
	t.Parallel()
	conn := testenv.Conn(t, testenv.Postgres(t))
	if _, err := conn.Exec(t.Context(), "SELECT relay.emit(program_id => 'p1', event => 'a:b')"); err != nil {
		t.Fatal(err)
	}
	_, err := conn.Exec(t.Context(), `UPDATE relay.outbox SET data = '{"a":1}'`)
	var pe *pgconn.PgError
	if !errors.As(err, &pe) || pe.Code != "23001" {
		t.Errorf("UPDATE: %v, want restrict_violation", err)
	}
}

// Example writes an event in the transaction of the change that it tells of.
func Example() {
	ctx := context.Background()
	conn, err := pgx.Connect(ctx, os.Getenv("DATABASE_URL"))
	if err != nil {
		log.Fatal(err)
	}
	defer conn.Close(ctx)
	err = pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, "UPDATE requests SET status = 'done' WHERE id = $1", "r1"); err != nil {
			return err
		}
		_, err := outbox.Emit(ctx, tx, outbox.Event{
			Program: "p1", Name: outbox.RequestStatusChanged, Request: "r1",
			Data: map[string]string{"status": "done"},
			By:   outbox.Actor{UserID: "u1", Name: "Ann Lee"},
		})
		return err
	})
	if err != nil {
		fmt.Println(err)
	}
}
