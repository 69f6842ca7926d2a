package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/outboxrelay/outboxrelay/auth"
	"github.com/outboxrelay/outboxrelay/internal/testenv"
)

// sqlBlocks are the SQL code blocks of a document, in order.
func sqlBlocks(t *testing.T, path string) []string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var blocks []string
	for i, part := range strings.Split(string(text), "```") {
		if block, ok := strings.CutPrefix(part, "sql\n"); ok && i%2 == 1 {
			blocks = append(blocks, block)
		}
	}
	return blocks
}

// applyRecipe makes the application of docs/MEMBERSHIP.md, runs `fill` on its tables before the recipe, and applies that.
func (s *site) applyRecipe(fill string) {
	s.t.Helper()
	conn, err := s.pool.Acquire(s.t.Context()) // the recipe is one transaction
	if err != nil {
		s.t.Fatal(err)
	}
	defer conn.Release()
	for i, block := range sqlBlocks(s.t, "../../docs/MEMBERSHIP.md") {
		if i == 1 {
			block = fill + ";" + block
		}
		if _, err := conn.Exec(s.t.Context(), block, pgx.QueryExecModeSimpleProtocol); err != nil {
			s.t.Fatalf("block %d: %v", i+1, err)
		}
	}
}

func (s *site) exec(sql string) {
	s.t.Helper()
	if _, err := s.pool.Exec(s.t.Context(), sql); err != nil {
		s.t.Fatalf("%s: %v", sql, err)
	}
}

// peer is a WebSocket client.
type peer struct {
	t    *testing.T
	conn *websocket.Conn
}

func (s *site) connect(user, extra string) *peer {
	s.t.Helper()
	ctx := testenv.Context(s.t, 30*time.Second)
	token, err := auth.Mint([]byte(goodSecret), user, time.Hour)
	if err != nil {
		s.t.Fatal(err)
	}
	conn, _, err := websocket.Dial(ctx, "ws://"+s.vars["LISTEN_ADDR"]+"/ws", nil)
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { _ = conn.CloseNow() })
	if err := conn.Write(ctx, websocket.MessageText, fmt.Appendf(nil, `{"type":"auth","token":%q%s}`, token, extra)); err != nil {
		s.t.Fatal(err)
	}
	return &peer{s.t, conn}
}

// expect fails unless these frames come next, apart from `position`: "joined 1", "event 1 a:b", "ready [1 2]", "close 4503".
func (p *peer) expect(want ...string) {
	p.t.Helper()
	for _, w := range want {
		got := "position"
		for got == "position" {
			got = p.next()
		}
		if got != w {
			p.t.Fatalf("got %q, want %q", got, w)
		}
	}
}

func (p *peer) next() string {
	ctx, cancel := context.WithTimeout(context.Background(), 15*time.Second)
	defer cancel()
	_, text, err := p.conn.Read(ctx)
	if err != nil {
		if websocket.CloseStatus(err) != -1 {
			return fmt.Sprintf("close %d", websocket.CloseStatus(err))
		}
		return err.Error()
	}
	var f struct {
		Type, ProgramID, Event, Code string
		Programs                     []string
	}
	if err := json.Unmarshal(text, &f); err != nil {
		return err.Error()
	}
	switch f.Type {
	case "ready":
		return fmt.Sprintf("ready %v", f.Programs)
	case "event":
		return "event " + f.ProgramID + " " + f.Event
	case "joined", "left":
		return f.Type + " " + f.ProgramID
	case "error":
		return "error " + f.Code
	}
	return f.Type
}

const ann, bob = "5b0e6a3c-0c2f-4a51-9a53-1f2d6c1a0001", "5b0e6a3c-0c2f-4a51-9a53-1f2d6c1a0002"

// The recipe of docs/MEMBERSHIP.md, applied as it stands there, from the application's statements to a client.
func TestTheApplicationsOwnTables(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.applyRecipe(fmt.Sprintf(`INSERT INTO app.people VALUES ('%s', 'Ann'), ('%s', 'Bob'); INSERT INTO app.projects VALUES (1), (2), (3);
		INSERT INTO app.seats VALUES ('%[1]s', 1), ('%[2]s', 1); INSERT INTO app.teams VALUES (7)`, ann, bob))
	server := s.serve(nil)
	s.emit("1", "a:first")
	s.settled()
	a := s.connect(ann, `,"since":"1"`)
	a.expect("ready [1]", "event 1 a:first", "live")
	b := s.connect(bob, "")
	b.expect("ready [1]", "live")
	for _, step := range []struct{ statement, emit, want string }{
		{"DELETE FROM app.seats WHERE person_id = '" + ann + "'", "1", "left 1"},
		{"INSERT INTO app.seats VALUES ('" + ann + "', 1)", "1", "joined 1, event 1 a:b"},
		{"UPDATE app.seats SET project_id = 2 WHERE person_id = '" + ann + "'", "2", "left 1, joined 2, event 2 a:b"},
		{"INSERT INTO app.team_people VALUES (7, '" + ann + "')", "2", "event 2 a:b"},
		{"INSERT INTO app.team_projects VALUES (7, 3)", "3", "joined 3, event 3 a:b"},
		{"INSERT INTO app.team_projects VALUES (7, 2)", "2", "event 2 a:b"}, // a second way to the same
		{"DELETE FROM app.seats WHERE project_id = 2", "2", "event 2 a:b"},
		{"UPDATE app.people SET name = 'Anna' WHERE name = 'Ann'", "3", "event 3 a:b"},
		{"DELETE FROM app.team_people", "3", "left 2, left 3"},
		{"INSERT INTO app.team_people VALUES (7, '" + ann + "')", "3", "joined 2, joined 3, event 3 a:b"},
		{"DELETE FROM app.teams", "3", "left 2, left 3"}, // CASCADE
	} {
		t.Log(step.statement)
		s.exec(step.statement)
		s.emit(step.emit, "a:b")
		a.expectAll(strings.Split(step.want, ", ")...)
	}
	s.exec("INSERT INTO app.seats VALUES ('" + ann + "', 1)")
	a.expect("joined 1")
	s.exec("UPDATE app.people SET deleted_at = now() WHERE person_id = '" + ann + "'")
	a.expect("error user_inactive", "close 4503")
	s.connect(ann, "").expect("error user_inactive", "close 4503")
	for range 3 {
		s.emit("1", "b:c")
	}
	for got := ""; got != "event 1 b:c"; {
		got = b.next() // Bob was never touched
	}
	for _, table := range []string{"people", "seats", "team_people", "team_projects"} {
		var pe *pgconn.PgError
		if _, err := s.pool.Exec(t.Context(), "TRUNCATE app."+table+" CASCADE"); !errors.As(err, &pe) || pe.Code != "23001" {
			t.Errorf("TRUNCATE %s: %v, want restrict_violation", table, err)
		}
	}
	if strings.Contains(server.stderr.String(), "level=ERROR") {
		t.Errorf("the server complains:\n%s", server.stderr.String())
	}
}

// expectAll is expect in any order: nothing is promised across programs.
func (p *peer) expectAll(want ...string) {
	p.t.Helper()
	left := map[string]bool{}
	for _, w := range want {
		left[w] = true
	}
	for len(left) > 0 {
		got := p.next()
		if got != "position" && !left[got] {
			p.t.Fatalf("got %q, want one of %v", got, left)
		}
		delete(left, got)
	}
}

// A node whose view lacks a column would tell every client to try again later, and its operator nothing.
func TestServeRefusesViewsThatLackColumns(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct{ sql, want string }{
		"column":   {"ALTER TABLE relay.users RENAME role TO level", "relay.users has no column role"},
		"type":     {"ALTER TABLE relay.program_members ALTER is_active DROP DEFAULT, ALTER is_active TYPE text", "relay.program_members.is_active must be boolean, not text"},
		"key type": {"DROP TABLE relay.program_members; CREATE VIEW relay.program_members AS SELECT 1 AS user_id, 'p'::varchar AS program_id, true AS is_active", "relay.program_members.user_id must be text, not int4"},
		"nothing":  {"DROP TABLE relay.users", "relay.users has no column id"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newSite(t)
			s.exec(test.sql)
			code, _, stderr := call(t, s.vars, "serve")
			if code != 1 || !strings.Contains(stderr, test.want) || !strings.Contains(stderr, "docs/MEMBERSHIP.md") || strings.Count(stderr, "\n") != 1 {
				t.Errorf("exit code %d, wrote %q, want one line with %q", code, stderr, test.want)
			}
		})
	}
}

// A view that breaks while a node runs shows in /readyz with the first client that needs it, and heals by itself.
func TestReadinessTellsOfABrokenView(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.serve(nil)
	s.exec("ALTER TABLE relay.users RENAME role TO level")
	s.connect("u1", "").expect("close 1013")
	status, body, err := get("http://" + s.vars["ADMIN_ADDR"] + "/readyz")
	if err != nil || status != 503 || !strings.Contains(body, "memberships") || !strings.Contains(body, "role") {
		t.Errorf("readyz: %d %s (%v)", status, body, err)
	}
	s.exec("ALTER TABLE relay.users RENAME level TO role")
	s.emit("p1", "a:b")
	c := s.connect("u1", `,"since":"1"`)
	if got := c.next(); !strings.HasPrefix(got, "ready") {
		t.Errorf("got %s", got)
	}
	if status, body, err = get("http://" + s.vars["ADMIN_ADDR"] + "/readyz"); err != nil || status != 200 {
		t.Errorf("readyz: %d %s (%v)", status, body, err)
	}
}

// A person joins a team while the team is given a project, or loses one: neither transaction sees the other's row, and the log is told all
// the same, at either isolation level.
func TestTheRecipesTeamsRace(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.applyRecipe(fmt.Sprintf("INSERT INTO app.people VALUES ('%s', 'Ann'); INSERT INTO app.projects VALUES (1); INSERT INTO app.teams VALUES (7)", ann))
	join := "INSERT INTO app.team_people VALUES (7, '" + ann + "')"
	for _, level := range []string{"read committed", "repeatable read"} {
		for _, statement := range []string{"INSERT INTO app.team_projects VALUES (7, 1)", "DELETE FROM app.team_projects"} {
			first, second := testenv.Conn(t, s.vars["DATABASE_URL"]), testenv.Conn(t, s.vars["DATABASE_URL"])
			for _, sql := range []string{"BEGIN", join} {
				if _, err := first.Exec(t.Context(), sql); err != nil {
					t.Fatal(err)
				}
			}
			if _, err := second.Exec(t.Context(), "SET default_transaction_isolation = '"+level+"'"); err != nil {
				t.Fatal(err)
			}
			done := make(chan error, 1)
			go func() {
				_, err := second.Exec(context.Background(), statement)
				var pe *pgconn.PgError
				if errors.As(err, &pe) && pe.Code == "40001" && level == "repeatable read" {
					_, err = second.Exec(context.Background(), statement)
				}
				done <- err
			}()
			testenv.Eventually(t, 10*time.Second, func() error {
				var waits bool
				err := s.pool.QueryRow(t.Context(), "SELECT wait_event_type = 'Lock' FROM pg_stat_activity WHERE pid = $1", second.PgConn().PID()).Scan(&waits)
				if err == nil && !waits && len(done) == 0 {
					err = errors.New("the second transaction neither waits nor has ended")
				}
				return err
			})
			if _, err := first.Exec(t.Context(), "COMMIT"); err != nil {
				t.Fatal(err)
			}
			if err := <-done; err != nil {
				t.Fatal(err)
			}
			var untold int
			if err := s.pool.QueryRow(t.Context(), "SELECT relay.sync_memberships()").Scan(&untold); err != nil || untold != 0 {
				t.Errorf("%s: %s while somebody joins: %d memberships the log wasn't told of (%v)", level, statement, untold, err)
			}
			s.exec("DELETE FROM app.team_people")
		}
	}
}
