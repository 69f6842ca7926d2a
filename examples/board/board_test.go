package board_test

import (
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sync/errgroup"

	"github.com/outboxrelay/outboxrelay/client"
	"github.com/outboxrelay/outboxrelay/examples/board"
	"github.com/outboxrelay/outboxrelay/internal/testenv"
)

// stateOf is what /api/state answers with, as far as the tests look.
type stateOf struct {
	Program  struct{ ID, Name string }
	Members  []struct{ ID, Name string }
	Requests []struct {
		ID, Title, Status string
		Assignee          *struct{ ID, Name string }
		Comments          []struct{ ID, Body string }
		Attachments       []struct {
			ID, Name string
			Size     int64
		}
	}
}

func TestEachChangeIsOneEventOfItsTransaction(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.signIn("u1")
	made := w.change("u1", "POST", "/api/requests", map[string]string{"program": "p1", "title": " A shelf "})
	path := "/api/requests/" + made.Request
	all := []answer{made}
	add := func(a answer) answer { all = append(all, a); return a }
	add(w.change("u1", "PATCH", path, map[string]string{"title": "A bench"}))
	add(w.change("u1", "POST", path+"/status", map[string]string{"status": "done"}))
	add(w.change("u1", "POST", path+"/assignee", map[string]string{"user": "u2"}))
	comment := add(w.change("u1", "POST", path+"/comments", map[string]string{"body": "Oak"}))
	add(w.change("u1", "POST", path+"/comments", map[string]string{"body": "<b>Pine</b>"}))
	file := add(w.change("u1", "POST", path+"/attachments", map[string]any{"name": "plan.pdf", "size": 12}))
	add(w.change("u1", "DELETE", "/api/comments/"+comment.ID, nil))
	add(w.change("u1", "DELETE", "/api/attachments/"+file.ID, nil))

	want := []string{
		"request:created", "request:updated", "request:status_changed", "request:assigned", "comment:added", "comment:added",
		"attachment:uploaded", "comment:deleted", "attachment:deleted",
	}
	events := w.events()
	var names []string
	for i, e := range events {
		names = append(names, e.Event)
		if e.Program != "p1" || e.Request != made.Request || e.By != "u1" || e.Name != "Ann Lee" {
			t.Errorf("event %d: %+v, want it of p1, %s, by u1, Ann Lee", i, e, made.Request)
		}
		if i < len(all) && !slices.Equal(all[i].Events, []int64{e.ID}) {
			t.Errorf("answer %d names events %v, committed is %d", i, all[i].Events, e.ID)
		}
	}
	if !slices.Equal(names, want) {
		t.Fatalf("events %v, want %v", names, want)
	}
	if got := events[2].Data; !strings.Contains(got, `"from":"open"`) || !strings.Contains(got, `"status":"done"`) {
		t.Errorf("data of the status change: %s", got)
	}

	state := decode[stateOf](t, w.do("u1", "GET", "/api/state?program=p1", nil))
	r := state.Requests[0] // newest first
	if r.ID != made.Request || r.Title != "A bench" || r.Status != "done" || r.Assignee == nil || r.Assignee.Name != "Ben Ito" ||
		len(r.Comments) != 1 || r.Comments[0].Body != "<b>Pine</b>" || len(r.Attachments) != 0 {
		t.Errorf("state after the changes: %+v", r)
	}
	if state.Program.Name != "Building services" || len(state.Members) != 3 {
		t.Errorf("program %+v, members %+v", state.Program, state.Members)
	}
}

// What was rolled back leaves neither a row of the application nor an event, though the statements ran and ids were handed out.
func TestRollbackLeavesNothing(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.signIn("u1")
	before := w.count("SELECT count(*) FROM board.requests")
	const details = "SELECT (SELECT count(*) FROM board.comments) + (SELECT count(*) FROM board.attachments)"
	beside := w.count(details)
	gone := w.change("u1", "POST", "/api/rollback", map[string]string{"program": "p1", "title": "Never"})
	if !gone.RolledBack || len(gone.Events) != 5 || gone.Request == "" {
		t.Fatalf("answer %+v, want 5 events rolled back", gone)
	}
	later := w.change("u1", "POST", "/api/requests", map[string]string{"program": "p1", "title": "Later"})
	if events := w.events(); len(events) != 1 || events[0].ID != later.Events[0] || events[0].ID <= gone.Events[4] {
		t.Errorf("committed %+v, want only event %d, with a later id than %v", events, later.Events[0], gone.Events)
	}
	if n := w.count("SELECT count(*) FROM board.requests"); n != before+1 {
		t.Errorf("%d requests, want %d", n, before+1)
	}
	if after := w.count(details); after != beside {
		t.Errorf("%d comments and attachments of a transaction that was rolled back", after-beside)
	}
}

// u2 is a member of p1 only.
func TestRefusals(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.signIn("u1")
	w.signIn("u2")
	other := w.change("u1", "POST", "/api/requests", map[string]string{"program": "p2", "title": "Not Ben's"})
	comment := w.change("u1", "POST", "/api/requests/"+other.Request+"/comments", map[string]string{"body": "Nor this"})
	mine := w.change("u2", "POST", "/api/requests", map[string]string{"program": "p1", "title": "Ben's"})
	before := len(w.events())
	for _, c := range []struct {
		name, user, method, path string
		body                     any
		want                     int
	}{
		{"no token", "", "POST", "/api/requests", map[string]string{"program": "p1", "title": "x"}, 401},
		{"a token that wasn't handed out", "u3", "GET", "/api/state?program=p1", nil, 401},
		{"state of a foreign program", "u2", "GET", "/api/state?program=p2", nil, 404},
		{"state of no program", "u2", "GET", "/api/state?program=nope", nil, 404},
		{"create in a foreign program", "u2", "POST", "/api/requests", map[string]string{"program": "p2", "title": "x"}, 404},
		{"roll back in a foreign program", "u2", "POST", "/api/rollback", map[string]string{"program": "p2", "title": "x"}, 404},
		{"status of a foreign request", "u2", "POST", "/api/requests/" + other.Request + "/status", map[string]string{"status": "done"}, 404},
		{"a foreign comment", "u2", "DELETE", "/api/comments/" + comment.ID, nil, 404},
		{"a comment that isn't there", "u2", "DELETE", "/api/comments/99999", nil, 404},
		{"a comment that can't be", "u2", "DELETE", "/api/comments/x", nil, 404},
		{"assign to somebody outside", "u2", "POST", "/api/requests/" + mine.Request + "/assignee", map[string]string{"user": "u4"}, 404},
		{"empty title", "u2", "POST", "/api/requests", map[string]string{"program": "p1", "title": "  "}, 400},
		{"long title", "u2", "POST", "/api/requests", map[string]string{"program": "p1", "title": strings.Repeat("ä", 201)}, 400},
		{"NUL", "u2", "POST", "/api/requests", map[string]string{"program": "p1", "title": "a\x00b"}, 400},
		{"unknown status", "u2", "POST", "/api/requests/" + mine.Request + "/status", map[string]string{"status": "lost"}, 400},
		{"negative size", "u2", "POST", "/api/requests/" + mine.Request + "/attachments", map[string]any{"name": "x", "size": -1}, 400},
		{"no JSON object", "u2", "POST", "/api/requests", []int{1}, 400},
		{"huge body", "u2", "POST", "/api/requests", map[string]string{"program": "p1", "title": strings.Repeat("x", 20<<10)}, 400},
		{"leave a program that isn't one's own", "u2", "DELETE", "/api/programs/p2/membership", nil, 404},
		{"join a program that never was one's own", "u2", "PUT", "/api/programs/p2/membership", nil, 404},
		{"programs of nobody", "", "GET", "/api/programs", nil, 401},
		{"a token for no time", "", "POST", "/demo/token", map[string]any{"user": "u1", "seconds": 0}, 400},
		{"a token for ever", "", "POST", "/demo/token", map[string]any{"user": "u1", "seconds": 1 << 30}, 400},
		{"sign in as nobody", "", "POST", "/demo/token", map[string]string{"user": "u99"}, 404},
	} {
		if rec := w.do(c.user, c.method, c.path, c.body); rec.Code != c.want || !strings.Contains(rec.Body.String(), `"error"`) {
			t.Errorf("%s: %d %s, want %d", c.name, rec.Code, rec.Body, c.want)
		}
	}
	if after := len(w.events()); after != before {
		t.Errorf("%d events of refused changes", after-before)
	}
}

// Leaving and joining again are membership changes, and so entries of the program's log; whoever has left sees and changes nothing.
func TestLeaveAndJoinAgain(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.signIn("u2")
	type program struct {
		ID, Name string
		Member   bool
	}
	expect := func(member bool, state int) {
		t.Helper()
		got := decode[[]program](t, w.do("u2", "GET", "/api/programs", nil))
		if want := []program{{"p1", "Building services", member}}; !slices.Equal(got, want) {
			t.Errorf("programs %v, want %v", got, want)
		}
		if code := w.do("u2", "GET", "/api/state?program=p1", nil).Code; code != state {
			t.Errorf("state: %d, want %d", code, state)
		}
	}
	const controls = "SELECT count(*) FROM relay.outbox WHERE control AND program_id = 'p1' AND data::text LIKE '%u2%'"
	before := w.count(controls)
	expect(true, 200)
	for range 2 { // the second time nothing changes
		w.change("u2", "DELETE", "/api/programs/p1/membership", nil)
		expect(false, 404)
	}
	w.change("u2", "PUT", "/api/programs/p1/membership", nil)
	expect(true, 200)
	if n := w.count(controls) - before; n != 2 {
		t.Errorf("%d control rows, want one for leaving and one for joining", n)
	}
}

// Of many deletions of one comment at the same time, one is a change and emits; the others find nothing.
func TestConcurrentDeletionsEmitOnce(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.signIn("u1")
	made := w.change("u1", "POST", "/api/requests", map[string]string{"program": "p1", "title": "x"})
	comment := w.change("u1", "POST", "/api/requests/"+made.Request+"/comments", map[string]string{"body": "x"})
	codes := make([]int, 8)
	var group errgroup.Group
	for i := range codes {
		group.Go(func() error {
			codes[i] = w.do("u1", "DELETE", "/api/comments/"+comment.ID, nil).Code
			return nil
		})
	}
	_ = group.Wait()
	slices.Sort(codes)
	if codes[0] != http.StatusOK || codes[1] != http.StatusNotFound || codes[7] != http.StatusNotFound {
		t.Errorf("status codes %v, want one 200 and seven 404", codes)
	}
	if n := w.count("SELECT count(*) FROM relay.outbox WHERE event = 'comment:deleted'"); n != 1 {
		t.Errorf("%d events, want 1", n)
	}
}

// A restart of the demo must neither bring back a revoked membership nor write a control row.
func TestSetupAgainChangesNothing(t *testing.T) {
	t.Parallel()
	pool, _ := testenv.DB(t)
	w := &world{t: t, ctx: t.Context(), pool: pool}
	var group errgroup.Group
	for range 4 { // the first of them together
		group.Go(func() error { return board.Setup(t.Context(), pool) })
	}
	if err := group.Wait(); err != nil {
		t.Fatal(err)
	}
	if _, err := pool.Exec(t.Context(), "UPDATE relay.program_members SET is_active = false WHERE user_id = 'u1' AND program_id = 'p1'"); err != nil {
		t.Fatal(err)
	}
	const everything = `SELECT (SELECT count(*) FROM relay.outbox) + 100 * (SELECT count(*) FROM board.requests)
		+ 10000 * (SELECT count(*) FROM relay.program_members WHERE is_active)`
	before := w.count(everything)
	if err := board.Setup(t.Context(), pool); err != nil {
		t.Fatal(err)
	}
	if after := w.count(everything); after != before {
		t.Errorf("a second Setup changed %d to %d", before, after)
	}
	if n := w.count("SELECT count(*) FROM board.requests"); n != 13 {
		t.Errorf("%d requests to begin with, want 13", n)
	}
}

func TestPage(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for _, path := range []string{"/", "/app.js", "/style.css", "/board.css", "/feed.css", "/favicon.svg"} {
		rec := w.do("", "GET", path, nil)
		csp := rec.Header().Get("Content-Security-Policy")
		if rec.Code != http.StatusOK || !strings.Contains(csp, "script-src 'self'") || strings.Contains(csp, "unsafe") {
			t.Errorf("GET %s: %d, policy %q", path, rec.Code, csp)
		}
	}
	if rec := w.do("", "GET", client.Path, nil); rec.Code != http.StatusOK || !strings.HasPrefix(rec.Header().Get("Content-Type"), "text/javascript") {
		t.Errorf("GET %s: %d, type %q", client.Path, rec.Code, rec.Header().Get("Content-Type"))
	}
	if rec := w.do("", "GET", "/nothing", nil); rec.Code != http.StatusNotFound {
		t.Errorf("GET /nothing: %d, want 404", rec.Code)
	}
	html := w.do("", "GET", "/", nil).Body.String()
	if strings.Contains(html, "<style") || strings.Contains(html, "onclick") || strings.Contains(html, "<script>") || strings.Contains(html, "style=") {
		t.Error("the page has inline code, which its policy blocks")
	}
}

// A page of another site could otherwise sign in here, since there is no password.
func TestForeignSiteIsRefused(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	r := httptest.NewRequestWithContext(w.ctx, "POST", "/demo/token", strings.NewReader(`{"user":"u1"}`))
	r.Header.Set("Origin", "https://evil.example")
	rec := httptest.NewRecorder()
	w.h.ServeHTTP(rec, r)
	if rec.Code != http.StatusForbidden {
		t.Errorf("sign-in from a foreign origin: %d, want 403", rec.Code)
	}
}
