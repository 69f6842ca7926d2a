package scenario

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
)

// Report is the verdict on one scenario.
type Report struct {
	Committed     int // events
	Missing       []string
	Phantoms      []string
	Disorder      []string
	Inexact       []string // repeats that aren't exact, and positions with two bodies
	Trespass      []string // events of programs that the client's user is no member of
	WriterErrors  []error
	Outages       int // connections that the writers lost, and were allowed to lose
	Gaps          int
	Repeats       int           // exact ones: at or below the cursor, or after a rebase at another position
	LateCommit    time.Duration // 99th percentile of what a COMMIT took
	SlowestCommit time.Duration // the slowest COMMIT
}

// Err says what is wrong, nil if nothing is.
func (r Report) Err() error {
	var wrong []string
	for name, list := range map[string][]string{
		"missing": r.Missing, "phantoms": r.Phantoms, "disorder": r.Disorder, "inexact": r.Inexact, "not for the client's user": r.Trespass,
	} {
		if len(list) > 0 {
			wrong = append(wrong, fmt.Sprintf("%d %s, such as %s", len(list), name, list[0]))
		}
	}
	if len(r.WriterErrors) > 0 {
		wrong = append(wrong, fmt.Sprintf("%d writers' errors, such as %v", len(r.WriterErrors), r.WriterErrors[0]))
	}
	if len(wrong) == 0 {
		return nil
	}
	slices.Sort(wrong)
	return fmt.Errorf("of %d committed events: %s", r.Committed, strings.Join(wrong, "; "))
}

func (r Report) String() string {
	return fmt.Sprintf("committed %d, missing %d, phantoms %d, disorder %d, inexact %d, repeats %d, gaps %d, writers' errors %d, slowest COMMIT %v",
		r.Committed, len(r.Missing), len(r.Phantoms), len(r.Disorder), len(r.Inexact), r.Repeats, r.Gaps, len(r.WriterErrors), r.SlowestCommit.Round(time.Millisecond))
}

// truth is what the database says at the end.
type truth struct {
	programs map[string]string // of the committed events, by key
	resets   []gap             // positions that a failover or a restore has replaced: what clients were sent of them may be no more
}

func (j *Journal) truth(ctx context.Context) (t truth, err error) {
	if t, err = j.readTruth(ctx, j.pool); err != nil {
		return t, err
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	maps.Copy(t.programs, j.remembered)
	return t, nil
}

// queryer is a pool or a connection.
type queryer interface {
	Query(ctx context.Context, query string, args ...any) (pgx.Rows, error)
}

func (j *Journal) readTruth(ctx context.Context, db queryer) (t truth, err error) {
	t.programs = map[string]string{}
	var programs []string
	for n := range j.programs {
		programs = append(programs, fmt.Sprintf("%s%d", j.prefix, n))
	}
	rows, err := db.Query(ctx, "SELECT data->>'key', program_id FROM relay.outbox WHERE event = 'scenario:happened' AND program_id = ANY ($1)", programs)
	if err != nil {
		return t, err
	}
	var key, program string
	_, err = pgx.ForEachRow(rows, []any{&key, &program}, func() error {
		t.programs[key] = program
		return nil
	})
	if err != nil {
		return t, err
	}
	rows, err = db.Query(ctx, "SELECT rebased_from, position FROM relay.ticks WHERE rebased_from IS NOT NULL")
	if err != nil {
		return t, err
	}
	t.resets, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (g gap, err error) {
		err = row.Scan(&g.after, &g.before)
		return g, err
	})
	return t, err
}

// Trust is Remember for what the journal has committed.
func (j *Journal) Trust() {
	keys := j.Keys()
	j.mu.Lock()
	defer j.mu.Unlock()
	maps.Copy(j.remembered, keys)
}

// Remember keeps what is committed now for Check, also if it is deleted later: relayed rows are, by retention and by a restore.
func (j *Journal) Remember(ctx context.Context, db queryer) error {
	t, err := j.readTruth(ctx, db)
	if err != nil {
		return err
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	maps.Copy(j.remembered, t.programs)
	return nil
}

// Complete waits until each client has every event that the table holds, or has been told of a gap.
func (j *Journal) Complete(ctx context.Context, clients ...*Client) error {
	t, err := j.truth(ctx)
	if err != nil {
		return err
	}
	return Caught(ctx, t.programs, clients...)
}

// Caught waits until each client has the events with these keys, as far as its user is a member of their programs, or has been told
// of a gap.
func Caught(ctx context.Context, keys map[string]string, clients ...*Client) error {
	for _, c := range clients {
		var open []string
		for key, program := range keys {
			if c.Member(program) {
				open = append(open, key)
			}
		}
		done := func(c *Client) bool {
			for len(open) > 0 && c.keys[open[len(open)-1]] {
				open = open[:len(open)-1]
			}
			return len(open) == 0 || len(c.gaps) > 0 && c.quiet(time.Second)
		}
		if err := c.Until(ctx, done); err != nil {
			return fmt.Errorf("of %d committed events up to %d are missing, such as key %s: %w", len(keys), len(open), open[len(open)-1], err)
		}
	}
	return nil
}

// quiet tells whether the client's last event is older than d.
func (c *Client) quiet(d time.Duration) bool {
	return len(c.received) == 0 || time.Since(c.received[len(c.received)-1].at) > d
}

// Check compares journal, database and clients. What is deleted meanwhile must have been remembered.
func (j *Journal) Check(ctx context.Context, clients ...*Client) (Report, error) {
	t, err := j.truth(ctx)
	if err != nil {
		return Report{}, err
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	r := Report{Committed: len(t.programs), WriterErrors: j.errors, Outages: j.outages}
	if commits := slices.Sorted(slices.Values(j.commits)); len(commits) > 0 {
		r.LateCommit, r.SlowestCommit = commits[len(commits)*99/100], commits[len(commits)-1]
	}
	for _, tx := range j.transactions {
		for _, key := range tx.keys {
			if _, there := t.programs[key]; there != (tx.outcome == committed) && tx.outcome != unknown {
				r.Missing = append(r.Missing, fmt.Sprintf("the table's row of key %s: there %v, outcome %d", key, there, tx.outcome))
			}
		}
	}
	seen := sightings{bodies: map[string]string{}, positions: map[string][]int64{}}
	for _, c := range clients {
		c.mu.Lock() // all at once: what arrives in between would be held against it
		defer c.mu.Unlock()
		seen.add(c)
	}
	for _, c := range clients {
		r.Disorder = append(r.Disorder, c.unordered...)
		r.Gaps += len(c.gaps)
		r.judge(c, t, seen)
		r.order(c.received, j.transactions)
	}
	return r, nil
}

// sightings are what all clients together have been sent.
type sightings struct {
	bodies    map[string]string  // by program and position, the first that was seen
	positions map[string][]int64 // by key
}

func (s sightings) add(c *Client) {
	for _, e := range slices.Concat(c.received, c.again) {
		at := fmt.Sprintf("%s %d", e.program, e.position)
		if _, ok := s.bodies[at]; !ok {
			s.bodies[at] = e.body
		}
		if !slices.Contains(s.positions[e.key], e.position) {
			s.positions[e.key] = append(s.positions[e.key], e.position)
		}
	}
}

// judge looks for what one client should have received, and shouldn't.
func (r *Report) judge(c *Client, t truth, seen sightings) {
	first := map[string]event{}
	for _, e := range slices.Concat(c.received, c.again) {
		if !c.Member(e.program) {
			r.Trespass = append(r.Trespass, fmt.Sprintf("%s got %s", c.User, e.body))
		}
		if t.programs[e.key] != e.program && !replaced(t.resets, e.position) {
			r.Phantoms = append(r.Phantoms, fmt.Sprintf("%s got %s", c.User, e.body))
		}
		if body := seen.bodies[fmt.Sprintf("%s %d", e.program, e.position)]; body != e.body {
			r.Inexact = append(r.Inexact, fmt.Sprintf("position %d of %s is %s and %s", e.position, e.program, body, e.body))
		}
	}
	for _, e := range c.received {
		before, again := first[e.key]
		switch {
		case !again:
			first[e.key] = e
		case len(t.resets) > 0 && before.id == e.id && before.timestamp == e.timestamp:
			r.Repeats++
		default:
			r.Inexact = append(r.Inexact, fmt.Sprintf("%s got key %s twice above its cursor", c.User, e.key))
		}
	}
	for _, e := range c.again {
		if _, ok := first[e.key]; !ok {
			r.Disorder = append(r.Disorder, fmt.Sprintf("%s got key %s only below its cursor", c.User, e.key))
			continue
		}
		r.Repeats++
	}
	for key, program := range t.programs {
		if c.Member(program) && !c.keys[key] && !c.excused(program, seen.positions[key]) {
			r.Missing = append(r.Missing, fmt.Sprintf("%s never got key %s of %s", c.User, key, program))
		}
	}
}

// replaced tells whether a position lies in a stretch that may not have survived.
func replaced(resets []gap, position int64) bool {
	return slices.ContainsFunc(resets, func(g gap) bool { return position > g.after && position < g.before })
}

// excused tells whether a gap covers an event of which other clients know the positions; one that nobody knows lies in any gap.
func (c *Client) excused(program string, positions []int64) bool {
	return slices.ContainsFunc(c.gaps, func(g gap) bool {
		inside := func(p int64) bool { return p > g.after && p < g.before }
		return g.program == program && (len(positions) == 0 || slices.ContainsFunc(positions, inside))
	})
}

// order looks for events that stand before one whose transaction had ended before theirs began, and for events of one transaction that
// don't keep their order.
func (r *Report) order(received []event, transactions []*transaction) {
	type place struct {
		tx *transaction
		n  int
	}
	places := map[string]place{}
	for _, tx := range transactions {
		for n, key := range tx.keys {
			places[key] = place{tx, n}
		}
	}
	sorted := slices.Clone(received)
	slices.SortStableFunc(sorted, func(a, b event) int {
		return cmp.Or(cmp.Compare(a.program, b.program), cmp.Compare(a.position, b.position))
	})
	var program string
	var latest *transaction // the one that began last among those before
	last := map[*transaction]int{}
	for _, e := range sorted {
		if e.program != program {
			program, latest, last = e.program, nil, map[*transaction]int{}
		}
		p, ok := places[e.key]
		delete(places, e.key) // a repeat after a rebase stands where it stands
		if !ok {
			continue
		}
		if latest != nil && p.tx.outcome == committed && p.tx.returned.Before(latest.began) {
			r.Disorder = append(r.Disorder, fmt.Sprintf("key %s stands after an event whose transaction began after its own had ended", e.key))
		}
		if n, ok := last[p.tx]; ok && n > p.n {
			r.Disorder = append(r.Disorder, fmt.Sprintf("key %s stands after a later event of its transaction", e.key))
		}
		last[p.tx] = p.n
		if latest == nil || p.tx.began.After(latest.began) {
			latest = p.tx
		}
	}
}
