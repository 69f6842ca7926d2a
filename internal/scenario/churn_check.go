package scenario

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
)

// Verdict is what the clients of a churning world got, judged by the journal of transactions.
type Verdict struct {
	Events    int
	Changes   int
	Received  int
	Repeats   int      // exact ones, of what had been received before the user left and came back
	Forbidden []string // events committed after a revocation
	Missing   []string // events committed during a membership
	Other     []string // everything else that is wrong
	Told      int      // missing, but in a gap that the client was told of
	Away      int      // missing, because the client was away until it was no member any more
}

// Err says what is wrong, nil if nothing is.
func (v *Verdict) Err() error {
	var wrong []string
	for name, list := range map[string][]string{"forbidden": v.Forbidden, "missing": v.Missing, "otherwise wrong": v.Other} {
		if len(list) > 0 {
			wrong = append(wrong, fmt.Sprintf("%d %s, such as %s", len(list), name, strings.Join(list[:min(3, len(list))], " | ")))
		}
	}
	if len(wrong) == 0 {
		return nil
	}
	return fmt.Errorf("of %d events and %d changes: %s", v.Events, v.Changes, strings.Join(wrong, "; "))
}

func (v *Verdict) String() string {
	return fmt.Sprintf("events %d, changes %d, received %d, repeats %d, forbidden %d, missing %d, otherwise wrong %d; told by gaps %d, away %d",
		v.Events, v.Changes, v.Received, v.Repeats, len(v.Forbidden), len(v.Missing), len(v.Other), v.Told, v.Away)
}

// fact is a committed event.
type fact struct {
	*transaction
	key, program   string
	position, tick int64
}

// Complete waits until each client has been told that everything through the newest tick has been sent. A client without programs is told so
// only when its memberships are read again by the clock.
func (c *Churn) Complete(ctx context.Context, clients ...*Client) error {
	var newest int64
	for {
		var all bool
		err := c.world.Pool.QueryRow(ctx, `WITH t AS (SELECT * FROM relay.ticks ORDER BY position DESC LIMIT 1)
			SELECT coalesce((SELECT position FROM t), 0), NOT EXISTS (SELECT FROM relay.outbox o WHERE NOT EXISTS
			(SELECT FROM t WHERE pg_visible_in_snapshot(o.xid, t.snapshot)))`).Scan(&newest, &all)
		if err != nil {
			return err
		}
		if all {
			break
		}
		if !wait(ctx, 20*time.Millisecond) {
			return ctx.Err()
		}
	}
	for _, client := range clients {
		if err := client.Until(ctx, func(client *Client) bool { return client.live && (client.all >= newest || !c.seated(client.User)) }); err != nil {
			return fmt.Errorf("waiting for a checkpoint at %d, last %d: %w", newest, client.checkpoint(), err)
		}
	}
	return nil
}

func (c *Client) checkpoint() int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.all
}

// seated tells whether the user is a member of anything at the end.
func (c *Churn) seated(user string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	for m, list := range c.changes {
		if m.user == user && list[len(list)-1].in {
			return true
		}
	}
	return false
}

// Check judges what the clients, one per user, have received. Retention must not have deleted anything.
func (c *Churn) Check(ctx context.Context, j *Journal, clients ...*Client) (*Verdict, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	j.mu.Lock()
	defer j.mu.Unlock()
	v := &Verdict{}
	facts, err := c.facts(ctx, j)
	if err != nil {
		return nil, err
	}
	if err := c.locate(ctx, v); err != nil {
		return nil, err
	}
	for _, err := range append(c.errors, j.errors...) {
		v.Other = append(v.Other, err.Error())
	}
	v.Events = len(facts)
	for _, client := range clients {
		client.mu.Lock()
		c.judge(v, client, facts)
		var order Report
		order.order(client.received, j.transactions)
		v.Other = append(append(v.Other, order.Disorder...), client.unordered...)
		client.mu.Unlock()
	}
	return v, nil
}

// batches gives each row of the outbox its position and that of its batch.
const batches = `SELECT o.*, t.position AS tick, t.position - t.events + row_number() OVER (PARTITION BY t.position ORDER BY o.control DESC, o.id) AS position
	FROM relay.outbox o, LATERAL (SELECT k.position, k.events FROM relay.ticks k
		WHERE pg_snapshot_xmax(k.snapshot) > o.xid AND pg_visible_in_snapshot(o.xid, k.snapshot)
		ORDER BY pg_snapshot_xmax(k.snapshot), k.position LIMIT 1) t`

// facts returns the events of committed transactions by key.
func (c *Churn) facts(ctx context.Context, j *Journal) (map[string]fact, error) {
	by := map[string]*transaction{}
	for _, tx := range j.transactions {
		for _, key := range tx.keys {
			by[key] = tx
		}
	}
	rows, err := c.world.Pool.Query(ctx, "SELECT data ->> 'key', program_id, position, tick FROM ("+batches+") b WHERE NOT control")
	if err != nil {
		return nil, err
	}
	facts := map[string]fact{}
	var f fact
	_, err = pgx.ForEachRow(rows, []any{&f.key, &f.program, &f.position, &f.tick}, func() error {
		if f.transaction = by[f.key]; f.transaction == nil {
			return fmt.Errorf("the journal has no event %s", f.key)
		}
		facts[f.key] = f
		return nil
	})
	return facts, err
}

// locate finds the batch of each change. The log must hold exactly the changes of the journal, in their order.
func (c *Churn) locate(ctx context.Context, v *Verdict) error {
	rows, err := c.world.Pool.Query(ctx, "SELECT performed_by_id, program_id, data ->> 'change', tick FROM ("+batches+") b WHERE control ORDER BY id")
	if err != nil {
		return err
	}
	next := map[member]int{}
	for m, list := range c.changes {
		if !list[0].in {
			next[m] = 1 // nothing says that somebody has never been a member
		}
		v.Changes += len(list) - 1
	}
	var m member
	var kind string
	var tick int64
	_, err = pgx.ForEachRow(rows, []any{&m.user, &m.program, &kind, &tick}, func() error {
		n, list := next[m], c.changes[m]
		if n >= len(list) || list[n].in != (kind == "in") {
			v.Other = append(v.Other, fmt.Sprintf("control row %d of %v says %s, and nobody did that", n, m, kind))
			return nil
		}
		list[n].tick = tick
		next[m]++
		return nil
	})
	for m, list := range c.changes {
		if next[m] != len(list) {
			v.Other = append(v.Other, fmt.Sprintf("the log has %d of %d changes of %v", next[m], len(list), m))
		}
	}
	return err
}

// judge compares one client with the facts.
func (c *Churn) judge(v *Verdict, client *Client, facts map[string]fact) {
	got := map[string]string{}
	for _, e := range client.received {
		f, ok := facts[e.key]
		switch {
		case !ok || f.program != e.program || f.position != e.position:
			v.Other = append(v.Other, fmt.Sprintf("%s got %s, which isn't in the table", client.User, e.body))
			continue
		case got[e.key] == e.body: // after `left` a client has no position of the program
			v.Repeats++
		case got[e.key] != "":
			v.Other = append(v.Other, fmt.Sprintf("%s got event %s twice, with different bodies", client.User, e.key))
		}
		got[e.key] = e.body
		v.Received++
		if r := c.revoked(member{client.User, f.program}, f); r != "" {
			v.Forbidden = append(v.Forbidden, fmt.Sprintf("%s got event %s of %s (position %d, batch %d), %s", client.User, f.key, f.program, f.position, f.tick, r))
		}
	}
	for _, f := range facts {
		if got[f.key] != "" {
			continue
		}
		in, out := c.during(member{client.User, f.program}, f)
		switch {
		case in == nil:
		case client.excused(f.program, []int64{f.position}):
			v.Told++
		case out != nil && client.away(f, out):
			v.Away++
		default:
			v.Missing = append(v.Missing, fmt.Sprintf("%s never got event %s of %s (position %d)", client.User, f.key, f.program, f.position))
		}
	}
}

// revoked says why an event must not be received: its COMMIT was issued after that of a revocation had returned, and had returned before the
// transaction that gave the membership back began. Empty: it may be.
func (c *Churn) revoked(m member, f fact) string {
	list := c.changes[m]
	for i, r := range list {
		if r.in || !f.issued.After(r.returned) {
			continue
		}
		if i+1 == len(list) {
			return fmt.Sprintf("committed %v after the last revocation", f.issued.Sub(r.returned))
		}
		if next := list[i+1]; f.returned.Before(next.began) {
			return fmt.Sprintf("committed %v after a revocation (batch %d), %v before the next membership began (batch %d)",
				f.issued.Sub(r.returned), r.tick, next.began.Sub(f.returned), next.tick)
		}
	}
	return ""
}

// during returns the beginning and the end, if any, of the membership during which an event happened: its transaction began after the
// COMMIT of the one had returned, and had ended before the COMMIT of the other was issued.
func (c *Churn) during(m member, f fact) (in, out *change) {
	list := c.changes[m]
	for i := range list {
		if !list[i].in || !f.began.After(list[i].returned) {
			continue
		}
		if i+1 == len(list) {
			return &list[i], nil
		}
		if f.returned.Before(list[i+1].issued) {
			return &list[i], &list[i+1]
		}
	}
	return nil, nil
}

// away reports whether the client had no connection on which it had to get an event: it was away when the event happened, or lost its
// connection before it was told that it had left the program, and was no member any more when it came back.
func (c *Client) away(f fact, out *change) bool {
	end := 0
	for _, back := range append(c.begins, time.Now()) {
		if end == len(c.ends) || c.ends[end].After(back) {
			continue // no connection ended between this one and the one before
		}
		from := c.ends[end]
		for end < len(c.ends) && c.ends[end].Before(back) {
			end++
		}
		if back.After(f.began) && out.issued.Before(back) && !c.leftBetween(f.program, f.began, from) {
			return true
		}
	}
	return false
}

func (c *Client) leftBetween(program string, after, before time.Time) bool {
	for _, l := range c.lefts {
		if l.program == program && l.at.After(after) && l.at.Before(before) {
			return true
		}
	}
	return false
}

// Outages returns how many connections the client has lost.
func (c *Client) Outages() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.ends)
}

// Steady are the users who were never deactivated.
func (c *Churn) Steady() map[string]bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	steady := map[string]bool{}
	for u := range c.users {
		user := fmt.Sprintf("u%d", u)
		steady[user] = !c.closed[user]
	}
	return steady
}
