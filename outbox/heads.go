package outbox

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"sort"
	"strconv"
	"strings"

	"github.com/outboxrelay/outboxrelay/outbox/internal/outboxdb"
)

// ReadHeads returns the newest position of every program that has an event in the ticks above the cursor `after` and up to the tick
// upto: what a new leader must know of the log before it goes on. Where the outbox holds less, it starts at the oldest tick.
func ReadHeads(ctx context.Context, db DB, after int64, upto Tick) (map[string]int64, error) {
	heads := map[string]int64{}
	if upto.Position <= after || upto.Position == 0 {
		return heads, nil
	}
	base, err := queries.Base(ctx, db, after)
	if err != nil {
		return nil, fmt.Errorf("find the tick below position %d: %w", after, err)
	}
	found, err := queries.TicksAfter(ctx, db, base.Position)
	if err != nil {
		return nil, fmt.Errorf("read the ticks: %w", err)
	}
	if base.Expired && len(found) > 0 {
		base.Position, base.Snapshot, found = found[0].Position, found[0].Snapshot, found[1:]
	}
	ticks := make([]batch, 0, len(found))
	for _, f := range found {
		if f.Position > upto.Position {
			break
		}
		s, err := parseSnapshot(f.Snapshot)
		if err != nil {
			return nil, err
		}
		ticks = append(ticks, batch{position: f.Position, events: f.Events, seen: s})
	}
	rows, err := queries.RowsAfter(ctx, db, outboxdb.RowsAfterParams{Snapshot: base.Snapshot, Upto: upto.Snapshot})
	if err != nil {
		return nil, fmt.Errorf("read the rows of the ticks: %w", err)
	}
	of := map[int64]*batch{} // by transaction: one that was open for long has a long way to its tick
	for _, r := range rows {
		t, known := of[r.Xid]
		if !known {
			t = tickOf(ticks, r.Xid)
			of[r.Xid] = t
		}
		if t != nil {
			t.rows = append(t.rows, r)
		}
	}
	for i := range ticks {
		ticks[i].heads(heads)
	}
	return heads, nil
}

type batch struct {
	position, events int64
	seen             snapshot
	rows             []outboxdb.RowsAfterRow
}

// tickOf returns the first tick whose snapshot sees xid; ticks ascend, and so do their xmax.
func tickOf(ticks []batch, xid int64) *batch {
	first := sort.Search(len(ticks), func(i int) bool { return ticks[i].seen.xmax > xid })
	for i := first; i < len(ticks); i++ {
		if ticks[i].seen.sees(xid) {
			return &ticks[i]
		}
	}
	return nil
}

// heads notes the position of each program's last row. A later tick overwrites an earlier one's.
func (b *batch) heads(heads map[string]int64) {
	slices.SortFunc(b.rows, func(x, y outboxdb.RowsAfterRow) int {
		if x.Control != y.Control {
			if x.Control {
				return -1
			}
			return 1
		}
		return cmp.Compare(x.ID, y.ID)
	})
	for i, r := range b.rows {
		heads[r.ProgramID] = b.position - b.events + int64(i) + 1
	}
}

// snapshot is a pg_snapshot (Postgres manual, 9.76 "Snapshot Components"): transactions below xmax have ended, but for those in xip.
type snapshot struct {
	xmax int64
	xip  []int64 // ascending
}

func (s snapshot) sees(xid int64) bool {
	if xid >= s.xmax {
		return false
	}
	_, running := slices.BinarySearch(s.xip, xid)
	return !running
}

// parseSnapshot reads the text form xmin:xmax:xip,….
func parseSnapshot(text string) (snapshot, error) {
	parts := strings.Split(text, ":")
	if len(parts) != 3 {
		return snapshot{}, fmt.Errorf("snapshot %q: want xmin:xmax:xip", text)
	}
	xmax, err := strconv.ParseInt(parts[1], 10, 64)
	if err != nil {
		return snapshot{}, fmt.Errorf("snapshot %q: %w", text, err)
	}
	s := snapshot{xmax: xmax}
	for f := range strings.SplitSeq(parts[2], ",") {
		if f == "" {
			continue
		}
		xid, err := strconv.ParseInt(f, 10, 64)
		if err != nil {
			return snapshot{}, fmt.Errorf("snapshot %q: %w", text, err)
		}
		s.xip = append(s.xip, xid)
	}
	slices.Sort(s.xip)
	return s, nil
}
