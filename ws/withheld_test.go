package ws

import (
	"testing"

	"pgregory.net/rapid"

	"github.com/outboxrelay/outboxrelay/auth"
)

// Withheld agrees with what connections are shown, for every event, whatever of the changes before it is known too.
func TestWithheldSaysWhatConnectionsAreShown(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		h := drawHistory(t)
		m := auth.Membership{UserID: "u"}
		if h.end {
			m.Programs = []string{"o", "p"}
		}
		for _, e := range h.entries {
			if e.Control != nil {
				continue
			}
			changes := h.changes
			if rapid.Bool().Draw(t, "only later changes") {
				for len(changes) > 0 && changes[0].Through < e.Position {
					changes = changes[1:]
				}
			}
			if why := Withheld(m, changes, "p", e.Position, e.id()); (why == "") != h.visible[e.Position] {
				t.Fatalf("the event at %d is shown: %v, and withheld: %q", e.Position, h.visible[e.Position], why)
			}
		}
	})
}

func TestWithheldSaysWhy(t *testing.T) {
	t.Parallel()
	const s = 1_000_000 // µs
	given, taken := auth.Change{Program: "p", After: 10 * s, Through: 11 * s, ID: 50, First: true, Last: true},
		auth.Change{Program: "p", After: 20 * s, Through: 21 * s, ID: 60, Lost: true}
	for _, c := range []struct {
		position, id int64
		changes      []auth.Change
		want         string
	}{
		{5 * s, 40, []auth.Change{given, taken}, "no member of p then; became one at 11000000 (1970-01-01T00:00:11Z)"},
		{10*s + 5, 49, []auth.Change{given, taken}, "the membership of p was given by change 50, after the event had been inserted"},
		{10*s + 5, 51, []auth.Change{given, taken}, ""},
		{15 * s, 55, []auth.Change{given, taken}, ""},
		{20*s + 5, 59, []auth.Change{given, taken}, "the membership of p was taken away in the batch that ends at 21000000 (1970-01-01T00:00:21Z), and the event lies in it"},
		{25 * s, 70, []auth.Change{given, taken}, "no member of p then, since 21000000 (1970-01-01T00:00:21Z), nor now"},
		{25 * s, 70, nil, "no member of p then, nor now"},
	} {
		if why := Withheld(auth.Membership{}, c.changes, "p", c.position, c.id); why != c.want {
			t.Errorf("event %d at %d: %q, want %q", c.id, c.position, why, c.want)
		}
	}
	if why := Withheld(auth.Membership{Programs: []string{"p"}}, []auth.Change{{Program: "q", First: true}}, "p", 5, 5); why != "" {
		t.Errorf("a member: %s", why)
	}
}
