package scenario

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
)

// Report is the verdict on one scenario.
type Report struct {
	Committed   int // events
	Missing     []string
	Phantoms    []string
	Disorder    []string
	Inexact     []string // repeats that aren't exact, and positions with two bodies
	WriterError []error
	Gaps        int
	Repeats     int // exact ones at or below the cursor
	SlowestTx   time.Duration
}

// Err says what is wrong, nil if nothing is.
func (r Report) Err() error {
	var wrong []string
	for name, list := range map[string][]string{"missing": r.Missing, "phantoms": r.Phantoms, "disorder": r.Disorder, "inexact": r.Inexact} {
		if len(list) > 0 {
			wrong = append(wrong, fmt.Sprintf("%d %s, such as %s", len(list), name, list[0]))
		}
	}
	if len(r.WriterError) > 0 {
		wrong = append(wrong, fmt.Sprintf("%d writers' errors, such as %v", len(r.WriterError), r.WriterError[0]))
	}
	if len(wrong) == 0 {
		return nil
	}
	slices.Sort(wrong)
	return fmt.Errorf("of %d committed events: %s", r.Committed, strings.Join(wrong, "; "))
}

func (r Report) String() string {
	return fmt.Sprintf("committed %d, missing %d, phantoms %d, disorder %d, inexact %d, repeats %d, gaps %d, writers' errors %d, slowest COMMIT %v",
		r.Committed, len(r.Missing), len(r.Phantoms), len(r.Disorder), len(r.Inexact), r.Repeats, r.Gaps, len(r.WriterError), r.SlowestTx.Round(time.Millisecond))
}

// truth is what the table says at the end: the committed events by key.
func (j *Journal) truth(ctx context.Context) (map[string]string, error) {
	rows, err := j.world.Pool.Query(ctx, "SELECT data->>'key', program_id FROM relay.outbox WHERE event = 'scenario:happened'")
	if err != nil {
		return nil, err
	}
	truth := map[string]string{}
	var key, program string
	_, err = pgx.ForEachRow(rows, []any{&key, &program}, func() error {
		truth[key] = program
		return nil
	})
	return truth, err
}

// Complete waits until each client has every event that the table holds, or has been told of a gap.
func (j *Journal) Complete(ctx context.Context, clients ...*Client) error {
	truth, err := j.truth(ctx)
	if err != nil {
		return err
	}
	for _, c := range clients {
		if err := c.Until(ctx, func(c *Client) bool { return len(c.received) >= len(truth) || len(c.gaps) > 0 && c.quiet(time.Second) }); err != nil {
			return fmt.Errorf("%d events are committed: %w", len(truth), err)
		}
	}
	return nil
}

// quiet tells whether the client's last event is older than d.
func (c *Client) quiet(d time.Duration) bool {
	return len(c.received) == 0 || time.Since(c.received[len(c.received)-1].at) > d
}

// Check compares journal, table and clients. Retention must not have deleted anything.
func (j *Journal) Check(ctx context.Context, clients ...*Client) (Report, error) {
	truth, err := j.truth(ctx)
	if err != nil {
		return Report{}, err
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	r := Report{Committed: len(truth), WriterError: j.errors, SlowestTx: j.slowest}
	for _, tx := range j.transactions {
		for _, key := range tx.keys {
			if _, there := truth[key]; there != (tx.outcome == committed) && tx.outcome != unknown {
				r.Missing = append(r.Missing, fmt.Sprintf("the table's row of key %s: there %v, outcome %d", key, there, tx.outcome))
			}
		}
	}
	bodies := map[string]string{}
	for _, c := range clients {
		c.mu.Lock()
		r.Disorder = append(r.Disorder, c.unordered...)
		r.Gaps += len(c.gaps)
		r.Repeats += c.repeats
		r.judge(c, truth, bodies)
		r.order(c.received, j.transactions)
		c.mu.Unlock()
	}
	return r, nil
}

// judge looks for what one client should have received, and shouldn't.
func (r *Report) judge(c *Client, truth, bodies map[string]string) {
	seen := map[string]bool{}
	for _, e := range c.received {
		if truth[e.key] != e.program {
			r.Phantoms = append(r.Phantoms, fmt.Sprintf("%s got %s", c.User, e.body))
		}
		if seen[e.key] {
			r.Inexact = append(r.Inexact, fmt.Sprintf("%s got key %s twice above its cursor", c.User, e.key))
		}
		seen[e.key] = true
		at := fmt.Sprintf("%s %d", e.program, e.position)
		if body, ok := bodies[at]; ok && body != e.body {
			r.Inexact = append(r.Inexact, fmt.Sprintf("position %s is %s and %s", at, body, e.body))
		}
		bodies[at] = e.body
	}
	gapped := map[string]bool{}
	for _, g := range c.gaps {
		gapped[g.program] = true
	}
	for key, program := range truth {
		if !seen[key] && !gapped[program] {
			r.Missing = append(r.Missing, fmt.Sprintf("%s never got key %s of %s", c.User, key, program))
		}
	}
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
