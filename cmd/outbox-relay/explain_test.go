package main

import (
	"fmt"
	"strings"
	"testing"

	"github.com/outboxrelay/outboxrelay/internal/testenv"
)

// emitted emits an event, waits until it has been relayed and returns its id.
func (s *site) emitted(program, event string) (id int64) {
	s.t.Helper()
	if err := s.pool.QueryRow(s.t.Context(), "SELECT relay.emit($1, $2)", program, event).Scan(&id); err != nil {
		s.t.Fatal(err)
	}
	s.settled()
	return id
}

// explained runs explain, which must end with code and print each of the texts.
func (s *site) explained(user string, id int64, code int, texts ...string) {
	s.t.Helper()
	got, stdout, stderr := call(s.t, s.vars, "explain", "--user", user, "--event", fmt.Sprint(id), "--max-catchup-events", "2")
	if got != code {
		s.t.Errorf("explain %s %d: exit code %d\n%s%s", user, id, got, stdout, stderr)
	}
	for _, text := range texts {
		if !strings.Contains(stdout+stderr, text) {
			s.t.Errorf("explain %s %d lacks %q:\n%s%s", user, id, text, stdout, stderr)
		}
	}
}

// TestExplainAgreesWithWhatIsSent: who comes back with an old position gets the events of which explain says so, and no others.
func TestExplainAgreesWithWhatIsSent(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.exec("INSERT INTO relay.users (id) VALUES ('u2')")
	s.explained("u1", 1, 1, "1 is a membership change, which clients see as joined or left, and no event")
	server := s.serve(map[string]string{"MAX_CATCHUP_EVENTS": "2"})
	s.settled()
	other := s.emitted("p2", "an:other")
	first := s.emitted("p1", "the:first")
	s.exec("INSERT INTO relay.program_members VALUES ('u2', 'p1')")
	s.settled()
	second := s.emitted("p1", "the:second")
	s.exec("DELETE FROM relay.program_members WHERE user_id = 'u2'")
	s.settled()
	third := s.emitted("p1", "the:third")

	s.explained("u1", first, 0, "is the:first of program p1, at position 1", "u1 was a member then", "told of a gap (limit): newer events of p1: 2 or more, MAX_CATCHUP_EVENTS: 2")
	s.explained("u1", second, 0, "u1 was a member then", "gets it: newer events of p1: 1, MAX_CATCHUP_EVENTS: 2")
	s.explained("u1", third, 0, "u1 was a member then", "gets it: newer events of p1: 0,")
	s.explained("u1", other, 0, "u1 doesn't get it: no member of p2 then, nor now")
	tail := start(t, s.vars, "tail", "--user", "u1", "--since", "1", "--url", "http://"+s.vars["LISTEN_ADDR"])
	if got := strings.Join(events(t, &tail.stdout, 2), " "); got != "the:second the:third" || !strings.Contains(tail.stderr.String(), `"limit"`) {
		t.Errorf("u1 got %s\n%s", got, tail.stderr.String())
	}

	s.explained("u2", first, 0, "u2 doesn't get it: no member of p1 then; became one at 1")
	s.explained("u2", second, 0, "u2 was a member then", "now u2 is no member of p1: who comes back doesn't get it")
	s.explained("u2", third, 0, "u2 doesn't get it: no member of p1 then, since 1", ", nor now")
	s.explained("nobody", first, 0, "nobody doesn't get it: no member of p1 then, nor now", "nobody isn't in relay.users: no connection is accepted")
	s.exec("INSERT INTO relay.program_members VALUES ('u2', 'p1')")
	s.settled()
	s.explained("u2", second, 0, "gets it: newer events of p1: 0,") // the third was sent while there was no membership
	s.explained("u2", third, 0, "no member of p1 then, since 1", "; became one at 1")
	back := start(t, s.vars, "tail", "--user", "u2", "--since", "1", "--url", "http://"+s.vars["LISTEN_ADDR"])
	fourth := s.emitted("p1", "the:fourth")
	if got := strings.Join(events(t, &back.stdout, 2), " "); got != "the:second the:fourth" {
		t.Errorf("u2 got %s\n%s", got, back.stderr.String())
	}
	s.exec("UPDATE relay.users SET is_active = false WHERE id = 'u2'")
	s.settled()
	s.explained("u2", second, 0, "u2 was a member then", "u2 is inactive in relay.users: no connection is accepted")

	tail.stop()
	back.stop()
	if code := server.stop(); code != 0 {
		t.Errorf("serve: exit code %d", code)
	}
	var waiting int64
	if err := s.pool.QueryRow(t.Context(), "SELECT relay.emit('p1', 'no:relay')").Scan(&waiting); err != nil {
		t.Fatal(err)
	}
	s.explained("u1", waiting, 0, "hasn't been relayed yet", "the relay last relayed ", askRelay)
	s.explained("u1", waiting+1, 1, fmt.Sprintf("event %d: the newest event is %d: its transaction is still open, was rolled back, or never existed", waiting+1, waiting))
	s.exec(fmt.Sprintf("DELETE FROM relay.outbox WHERE id IN (%d, (SELECT min(id) FROM relay.outbox))", fourth))
	s.explained("u1", fourth, 1, "isn't in the outbox")
	s.explained("u1", 1, 1, "retention (OUTBOX_RETENTION) has deleted it")
}

func TestExplainWithoutARelay(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.emit("p1", "no:relay")
	s.explained("u1", 2, 0, "hasn't been relayed yet", "nothing ever has: is there a process with ROLE=all or ROLE=relay?")
	s.explained("u1", 3, 1, "the newest event is 2")
	code, _, stderr := call(t, map[string]string{}, "explain")
	for _, text := range []string{"DATABASE_URL", "REDIS_URL", "--user: want the id of a user", "--event: want the id of an event"} {
		if code != 2 || !strings.Contains(stderr, text) {
			t.Errorf("exit code %d, lacks %q:\n%s", code, text, stderr)
		}
	}
	s.vars["DATABASE_URL"] = testenv.EmptyPostgres(t)
	s.explained("u1", 2, 1, "outbox-relay migrate up")
}
