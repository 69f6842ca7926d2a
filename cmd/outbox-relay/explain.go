package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/redis/go-redis/v9"
	"github.com/spf13/cobra"

	"github.com/outboxrelay/outboxrelay/auth"
	"github.com/outboxrelay/outboxrelay/outbox"
	"github.com/outboxrelay/outboxrelay/relay"
	"github.com/outboxrelay/outboxrelay/ws"
)

var explainSettings = []string{"DATABASE_URL", "REDIS_URL", "MAX_CATCHUP_EVENTS"}

const askRelay = "look at /readyz of the processes with ROLE=all or ROLE=relay"

func (p *program) explainCommand() *cobra.Command {
	var user string
	var id int64
	cmd := &cobra.Command{
		Use:   "explain",
		Short: "why a user did or didn't get an event",
		Long: "Says what became of one event on its way to one user, by the rule that every connection follows: whether it has been relayed, whether it\n" +
			"is the user's, and what a client gets of it that comes back now. It changes nothing, and needs the rights of ROLE=ws.\n" +
			"Exit code 1 if that isn't known, as of an event that retention has deleted.",
		Example: "  outbox-relay explain --user u1 --event 42",
		Args:    noArgs,
	}
	cmd.Flags().StringVar(&user, "user", "", "the user's id")
	cmd.Flags().Int64Var(&id, "event", 0, "the event's id")
	bind(cmd.Flags(), some(explainSettings...))
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		c, bad := load(cmd.Flags(), p.getenv, some(explainSettings...))
		bad.require(&c, map[string]string{"DATABASE_URL": wantDatabase, "REDIS_URL": wantRedis})
		if user == "" {
			bad.lines = append(bad.lines, "--user: want the id of a user")
		}
		if id <= 0 {
			bad.lines = append(bad.lines, "--event: want the id of an event, as in its frame")
		}
		if err := bad.err(); err != nil {
			return err
		}
		ctx, cancel := context.WithTimeout(cmd.Context(), time.Minute)
		defer cancel()
		return withServices(ctx, &c, func(pool *pgxpool.Pool, client redis.UniversalClient) error {
			e := explanation{
				out: p.stdout, pool: pool, store: auth.NewStore(pool), history: relay.NewHistory(relay.HistoryConfig{Redis: client, Pool: pool}),
				user: user, most: c.maxCatchup,
			}
			return e.explain(ctx, id)
		})
	}
	return cmd
}

// explanation follows an event on its way: the outbox, the memberships, Redis, the client.
type explanation struct {
	out      io.Writer
	pool     *pgxpool.Pool
	store    *auth.Store
	history  *relay.History
	user     string
	most     int                             // events in one catch-up
	withheld func(position, id int64) string // why an event of the program isn't the user's; "": it is
}

func (e *explanation) say(format string, args ...any) { fmt.Fprintf(e.out, format+"\n", args...) }

func (e *explanation) explain(ctx context.Context, id int64) error {
	row, err := outbox.ReadEvent(ctx, e.pool, id)
	switch {
	case errors.Is(err, outbox.ErrNotRelayed):
		return e.waiting(ctx, id)
	case errors.Is(err, outbox.ErrNoEvent):
		return e.missing(ctx, id)
	case err != nil:
		return err
	}
	e.say("event %d is %s of program %s, at position %d, inserted %s", id, row.Event, row.Program, row.Position, row.CreatedAt.UTC().Format(time.RFC3339Nano))
	m, err := e.store.Membership(ctx, e.user)
	if err != nil {
		return err
	}
	changes, err := e.store.Changes(ctx, e.user, min(m.Oldest, row.Position-1), m.Position)
	if err != nil {
		return err
	}
	e.withheld = func(position, id int64) string { return ws.Withheld(m, changes, row.Program, position, id) }
	why := e.withheld(row.Position, id)
	if why == "" {
		e.say("%s was a member then: every connection of %[1]s that was open got it, unless its `programs` left out %s", e.user, row.Program)
	} else {
		e.say("%s doesn't get it: %s", e.user, why)
	}
	switch {
	case !m.Found:
		e.say("%s isn't in relay.users: no connection is accepted", e.user)
	case !m.Active:
		e.say("%s is inactive in relay.users: no connection is accepted", e.user)
	case why != "":
	case !slices.Contains(m.Programs, row.Program):
		e.say("now %s is no member of %s: who comes back doesn't get it", e.user, row.Program)
	default:
		return e.comingBack(ctx, &row)
	}
	return nil
}

// waiting says why an event has no position yet.
func (e *explanation) waiting(ctx context.Context, id int64) error {
	tick, err := outbox.NewestTick(ctx, e.pool)
	if err != nil {
		return err
	}
	e.say("event %d is committed and hasn't been relayed yet: nobody gets it before", id)
	if tick.Position == 0 {
		e.say("nothing ever has: is there a process with ROLE=all or ROLE=relay?")
		return nil
	}
	e.say("the relay last relayed %s ago: if that is long, "+askRelay, time.Since(tick.At).Round(time.Millisecond))
	return nil
}

// missing returns why the outbox may not hold an event.
func (e *explanation) missing(ctx context.Context, id int64) error {
	var control bool
	var lowest, highest int64
	err := e.pool.QueryRow(ctx, `SELECT EXISTS (SELECT FROM relay.outbox WHERE id = $1),
		coalesce((SELECT id FROM relay.outbox ORDER BY id LIMIT 1), 0), coalesce((SELECT id FROM relay.outbox ORDER BY id DESC LIMIT 1), 0)`, id).
		Scan(&control, &lowest, &highest)
	switch {
	case err != nil:
		return fmt.Errorf("look for event %d: %w", id, err)
	case control:
		return fmt.Errorf("%d is a membership change, which clients see as joined or left, and no event", id)
	case lowest == 0:
		return fmt.Errorf("event %d: the outbox is empty: it never existed, or retention (OUTBOX_RETENTION) has deleted it", id)
	case id > highest:
		return fmt.Errorf("event %d: the newest event is %d: its transaction is still open, was rolled back, or never existed", id, highest)
	case id < lowest:
		return fmt.Errorf("event %d: the oldest event is %d: retention (OUTBOX_RETENTION) has deleted it", id, lowest)
	}
	return fmt.Errorf("event %d isn't in the outbox: its transaction is still open, was rolled back, or retention (OUTBOX_RETENTION) has deleted it", id)
}

// comingBack says what a client gets of the event that connects now with an older position.
func (e *explanation) comingBack(ctx context.Context, row *outbox.Row) error {
	newer, head, err := e.newer(ctx, row)
	switch {
	case err != nil:
		return err
	case head != 0 && head < row.TickThrough:
		e.say("it isn't in Redis yet, which has what lies at or below %d: if that lasts, "+askRelay, head)
	case newer >= e.most:
		e.say("who comes back with an older position is told of a gap (limit): newer events of %s: %d or more, MAX_CATCHUP_EVENTS: %d", row.Program, newer, e.most)
	default:
		e.say("who comes back with an older position gets it: newer events of %s: %d, MAX_CATCHUP_EVENTS: %d", row.Program, newer, e.most)
	}
	return nil
}

// newer counts the user's events of the program above the row, up to a catch-up's most, reading as a server does.
func (e *explanation) newer(ctx context.Context, row *outbox.Row) (count int, head int64, err error) {
	for before := int64(math.MaxInt64); ; {
		page, err := e.history.Before(ctx, row.Program, before, row.Position, e.most+1-count)
		if err != nil {
			return 0, 0, err
		}
		head = max(head, page.Head)
		for _, entry := range page.Entries {
			before = entry.Position
			var frame struct {
				ID int64 `json:"id,string"`
			}
			if entry.Control != nil {
				continue
			}
			if err := json.Unmarshal(entry.Frame, &frame); err != nil {
				return 0, 0, fmt.Errorf("read the event at %d: %w", entry.Position, err)
			}
			if e.withheld(entry.Position, frame.ID) == "" {
				count++
			}
		}
		if count >= e.most || !page.More || len(page.Entries) == 0 {
			return count, head, nil
		}
	}
}
