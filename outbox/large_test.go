package outbox_test

import (
	"testing"

	"github.com/outboxrelay/outboxrelay/internal/testenv"
	"github.com/outboxrelay/outboxrelay/outbox"
)

// maxHeld is what the package says that it holds of a batch at a time.
const maxHeld = 8 << 20

// A batch was bounded by its rows alone: a thousand of the largest are 250 MB, which were read at once and sent to Redis in one pipeline
// that had to end within 3 seconds. Where it couldn't, the relay tried for ever.
func TestLargeRowsAreReadInSmallChunks(t *testing.T) {
	t.Parallel()
	pool, url := testenv.DB(t)
	r := newReader(t, url)
	exec(t, pool, "INSERT INTO relay.outbox (program_id, event) SELECT 'p1', 'a:b' FROM generate_series(1, 40)")
	exec(t, pool, "INSERT INTO relay.outbox (program_id, event, data) SELECT 'p1', 'a:b', json_build_object('x', repeat('x', 262000)) FROM generate_series(1, 70)")
	_, rows, err := outbox.Next(t.Context(), r.conn, r.last, r.cluster, 1000)
	if err != outbox.ErrLarge { //nolint:errorlint // the bare sentinel is the contract
		t.Fatalf("%d rows at once (%v), want ErrLarge", len(rows), err)
	}
	tick, err := outbox.CommitLarge(t.Context(), r.conn, r.last, r.cluster)
	if err != nil {
		t.Fatal(err)
	}
	var replayed []outbox.Row
	err = outbox.Replay(t.Context(), r.conn, tick, 1000, func(rows []outbox.Row) error {
		if n := bytes(rows); n > maxHeld {
			t.Errorf("a chunk of %d rows with %d bytes", len(rows), n)
		}
		replayed = append(replayed, rows...)
		return nil
	})
	if err != nil || int64(len(replayed)) != tick.Events || tick.Events != 110 {
		t.Errorf("%d of %d rows replayed (%v)", len(replayed), tick.Events, err)
	}
}

func bytes(rows []outbox.Row) (n int) {
	for _, r := range rows {
		n += len(r.Data)
	}
	return n
}
