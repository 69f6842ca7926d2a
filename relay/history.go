package relay

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/redis/go-redis/v9"

	"github.com/outboxrelay/outboxrelay/outbox"
)

// HistoryConfig tells a History where to read. Zero values are the defaults of Config.
type HistoryConfig struct {
	Redis     redis.UniversalClient // from OpenRedis; required
	Pool      *pgxpool.Pool         // may be a replica's; required
	RecentTTL time.Duration         // as the relay's; where they differ, the smaller one counts
	LogLimit  int                   // likewise
	DeepReads int                   // most reads of Postgres at a time; default 4
	Logger    *slog.Logger          // default: slog.Default()

	Registerer prometheus.Registerer // default: none
}

// Entry is one entry of a program's log.
type Entry struct {
	Position int64
	Frame    []byte   // what clients get; nil for a membership change
	Control  *Control // nil for an event
}

// Control is a membership change in a program's log.
type Control struct {
	ID      int64 // of the row, as an event's
	UserID  string
	In      bool
	Through int64 // position of the last row of the change's batch
}

// Page is the answer to one read. See ws.Page for what Through, More, Newest and Head promise.
type Page struct {
	Entries               []Entry
	Through, Newest, Head int64
	More                  bool
}

// pageBytes bounds the frames of a page; its first entry may have more.
const pageBytes = 1 << 20

// firstRead is how many entries Redis is asked for at first: it can be asked for a number, not for bytes.
const firstRead = 16

// History reads the programs' logs: Redis as far as it can vouch for, Postgres below that. Safe for concurrent use.
type History struct {
	config HistoryConfig
	deep   chan struct{} // one token per read of Postgres
	health *health

	clock  clock
	topics topics
	near   near
	limits limits                 // its own
	held   atomic.Pointer[limits] // of a Cluster's logs, as last read
	evicts atomic.Bool            // Redis may have dropped a log: a missing one says nothing
}

// NewHistory returns a History. It connects to nothing.
func NewHistory(c HistoryConfig) *History {
	c.RecentTTL, c.LogLimit = cmp.Or(c.RecentTTL, DefaultRecentTTL), cmp.Or(c.LogLimit, DefaultLogLimit)
	c.DeepReads, c.Logger = cmp.Or(c.DeepReads, 4), cmp.Or(c.Logger, slog.Default())
	degraded := prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Name: "outbox_relay_reader_degraded", Help: "1 if the state of the logs' reader is degraded; /readyz gives the reason.",
	}, []string{"state"})
	if c.Registerer != nil {
		c.Registerer.MustRegister(degraded)
	}
	return &History{
		config: c, limits: limits{c.RecentTTL, c.LogLimit}, deep: make(chan struct{}, c.DeepReads),
		clock: clock{every: clockEvery}, topics: topics{names: map[string]bool{}},
		health: newHealth(c.Logger, degraded, stateSubscription, stateEviction),
	}
}

// Ready returns why reads may be late or fail, one reason a line; nothing if all is well. It says what Watch has found.
func (h *History) Ready() []string { return h.health.problems() }

// After returns at most limit entries of the program with position > after, ascending, and through which position they are complete. They end
// at about a MiB; More says whether they were cut off. outbox.ErrExpired if after lies below what the outbox holds; any other error is Redis' or
// Postgres', and the read can be repeated.
func (h *History) After(ctx context.Context, program string, after int64, limit int) (Page, error) {
	page, vouched, err := h.recent(ctx, program, after, math.MaxInt64, limit, false)
	// Nothing above the head has been published: the room of a quiet program, however long it has been quiet, needn't ask Postgres.
	quiet := len(page.Entries) == 0 && page.Head != 0 && page.Head <= after
	if err != nil || vouched || quiet {
		page.Through = after
		if n := len(page.Entries); n > 0 {
			page.Through = page.Entries[n-1].Position
		}
		return page, err
	}
	return h.deepAfter(ctx, program, after, limit)
}

// Before returns at most limit entries of the program with after < position < before, the newest of them, descending. They end at about a
// MiB; More says whether there may be others. Errors as After.
func (h *History) Before(ctx context.Context, program string, before, after int64, limit int) (Page, error) {
	page, vouched, err := h.recent(ctx, program, after, before, limit, true)
	if err != nil || vouched || page.More { // a log is the newest part of its program's entries, without holes
		return page, err
	}
	if err := h.acquire(ctx); err != nil {
		return Page{}, err
	}
	defer h.release()
	rows, err := outbox.ReadHistoryBefore(ctx, h.config.Pool, program, before, after, limit, pageBytes)
	if err != nil {
		return Page{}, err
	}
	return Page{Entries: entries(rows), More: cut(rows, limit)}, nil
}

func (h *History) deepAfter(ctx context.Context, program string, after int64, limit int) (Page, error) {
	if err := h.acquire(ctx); err != nil {
		return Page{}, err
	}
	defer h.release()
	rows, through, err := outbox.ReadHistory(ctx, h.config.Pool, program, after, limit, pageBytes)
	if err != nil {
		return Page{}, err
	}
	return Page{Entries: entries(rows), Through: through, More: cut(rows, limit)}, nil
}

// cut reports whether an answer of Postgres may have been cut off: there are as many rows as were asked for, or another one might not have fitted.
func cut(rows []outbox.Row, limit int) bool {
	bytes := outbox.MaxDataBytes
	for i := range rows {
		bytes += len(rows[i].Data)
	}
	return len(rows) == limit || bytes > pageBytes
}

func (h *History) acquire(ctx context.Context) error {
	select {
	case h.deep <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (h *History) release() { <-h.deep }

// recent reads entries of the program's log with after < position < before, the newest or the oldest of them first, in steps that grow while the
// entries turn out to be small. vouched is that of the last step; if it is false, the log may lack entries at its lower end: what it has of the newest
// is still an answer, as far as it goes, and of the oldest it isn't.
func (h *History) recent(ctx context.Context, program string, after, before int64, limit int, newest bool) (page Page, vouched bool, err error) {
	low, high, bytes := after, before, 0
	for count := min(limit, firstRead); ; {
		by := &redis.ZRangeBy{Min: "(" + strconv.FormatInt(low, 10), Max: "(" + strconv.FormatInt(high, 10), Count: int64(count)}
		var step Page
		if step, vouched, err = h.step(ctx, program, after, by, newest); err != nil {
			return Page{}, false, err
		}
		if step.Newest < page.Newest { // it has lost its end since the last step: below what it holds now there may be a hole
			page.More = true
			return page, vouched, nil
		}
		page.Newest, page.Head = step.Newest, step.Head
		for _, e := range step.Entries {
			if bytes += len(e.Frame); bytes > pageBytes && len(page.Entries) > 0 {
				page.More = true
				return page, vouched, nil
			}
			page.Entries = append(page.Entries, e)
		}
		n := len(page.Entries)
		page.More = n == limit
		if page.More || len(step.Entries) < count || !vouched && !newest {
			return page, vouched, nil
		}
		if newest {
			high = page.Entries[n-1].Position
		} else {
			low = page.Entries[n-1].Position
		}
		count = min(limit-n, 4*n, 1+n*(pageBytes-bytes)/(bytes+1))
	}
}

// step reads the program's log and the head in one MULTI. vouched: nothing of the program lies above after that the log, if it hasn't
// lost its end, doesn't hold: neither trimmed by age (measured from the newest entry, and the key as a whole by the clock) nor by count.
func (h *History) step(ctx context.Context, program string, after int64, by *redis.ZRangeBy, newest bool) (page Page, vouched bool, err error) {
	key := keyPrefix + program
	now, err := h.clock.position(ctx, h.config.Pool)
	if err != nil {
		return Page{}, false, err
	}
	ctx, cancel := context.WithTimeout(ctx, redisTimeout)
	defer cancel()
	var (
		found, first, top *redis.ZSliceCmd
		count             *redis.IntCmd
		head, trimmed     *redis.StringCmd
	)
	before := h.held.Load()
	_, cluster := h.config.Redis.(*redis.ClusterClient)
	_, err = h.config.Redis.TxPipelined(ctx, func(pipe redis.Pipeliner) error {
		if newest {
			found = pipe.ZRevRangeByScoreWithScores(ctx, key, by)
		} else {
			found = pipe.ZRangeByScoreWithScores(ctx, key, by)
		}
		first, top = pipe.ZRangeWithScores(ctx, key, 0, 0), pipe.ZRevRangeWithScores(ctx, key, 0, 0)
		count = pipe.ZCard(ctx, key)
		if !cluster { // they lie in other slots there
			head, trimmed = pipe.Get(ctx, headKey), pipe.Get(ctx, limitsKey)
		}
		return nil
	})
	if err != nil && !errors.Is(err, redis.Nil) {
		return Page{}, false, fmt.Errorf("read %s: %w", key, err)
	}
	var held limits
	if cluster {
		held = h.clusterLimits(ctx, before)
	} else {
		held = parseLimits(trimmed.Val())
		if !h.evicts.Load() {
			page.Head = headPosition(head.Val())
		}
	}
	if page.Entries, err = parse(found.Val()); err != nil {
		return Page{}, false, fmt.Errorf("read %s: %w", key, err)
	}
	held = held.least(h.limits)
	window := held.window.Microseconds()
	vouched = held.most > 0 && after >= now-window
	if z := top.Val(); len(z) > 0 {
		page.Newest = int64(z[0].Score)
		vouched = vouched && after >= page.Newest-window &&
			(count.Val() < int64(held.most) || int64(first.Val()[0].Score) <= after)
	}
	return page, vouched, nil
}

// clusterLimits returns what a log of a Cluster that has just been read was trimmed by: no more than what was found before it was read, and after.
// Zero, so that Postgres is read, while the master that holds them doesn't answer: it is another one than the log's, which did.
func (h *History) clusterLimits(ctx context.Context, before *limits) limits {
	after, err := readLimits(ctx, h.config.Redis)
	if err != nil || before == nil {
		before = &limits{}
	}
	h.held.Store(&after)
	return after.least(*before)
}

var controlPrefix = []byte(`{"type":"control"`)

func parse(found []redis.Z) ([]Entry, error) {
	list := make([]Entry, 0, len(found))
	for _, z := range found {
		member, _ := z.Member.(string)
		e, err := newEntry(int64(z.Score), []byte(member))
		if err != nil {
			return nil, err
		}
		list = append(list, e)
	}
	return list, nil
}

// newEntry tells what the bytes of a log entry are. Frames are taken as they are.
func newEntry(position int64, text []byte) (Entry, error) {
	if !bytes.HasPrefix(text, controlPrefix) {
		return Entry{Position: position, Frame: text}, nil
	}
	var c control
	if err := json.Unmarshal(text, &c); err != nil {
		return Entry{}, fmt.Errorf("control entry at %d: %w", position, err)
	}
	id, err := strconv.ParseInt(c.ID, 10, 64)
	if err != nil {
		return Entry{}, fmt.Errorf("control entry at %d: id: %w", position, err)
	}
	through, err := strconv.ParseInt(c.Through, 10, 64)
	if err != nil {
		return Entry{}, fmt.Errorf("control entry at %d: through: %w", position, err)
	}
	return Entry{Position: position, Control: &Control{ID: id, UserID: c.UserID, In: c.Change == "in", Through: through}}, nil
}

// entries are what rows of the outbox look like in the log: the same bytes.
func entries(rows []outbox.Row) []Entry {
	list := make([]Entry, 0, len(rows))
	for i := range rows {
		r := &rows[i]
		e, err := newEntry(r.Position, appendEntry(nil, r))
		if err != nil {
			panic("relay: an entry just encoded is always readable: " + err.Error())
		}
		list = append(list, e)
	}
	return list
}
