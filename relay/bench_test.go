package relay

import (
	"fmt"
	"strconv"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/outboxrelay/outboxrelay/internal/testenv"
	"github.com/outboxrelay/outboxrelay/outbox"
)

// hotRows is a batch of n events in 100 programs, as it comes from the outbox.
func hotRows(n int) []outbox.Row {
	by, name := "u0", "Ann Lee"
	rows := make([]outbox.Row, n)
	for i := range rows {
		rows[i] = outbox.Row{
			Position: 1764000000000000 + int64(i), ID: int64(i), Program: "p" + strconv.Itoa(i%100), Event: "request:updated",
			Data: `{"title":"Travel to Bern","status":"approved","amount":1250}`, ByID: &by, ByName: &name, CreatedAt: time.UnixMicro(1764000000000000),
		}
	}
	return rows
}

func BenchmarkAppendEntry(b *testing.B) {
	row := &hotRows(1)[0]
	var buf []byte
	b.ReportAllocs()
	for b.Loop() {
		buf = appendEntry(buf[:0], row)
	}
}

func BenchmarkSplit(b *testing.B) {
	for _, n := range []int{1, 100, 1000} {
		rows := hotRows(n)
		b.Run(fmt.Sprintf("rows=%d", n), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				split(rows)
			}
		})
	}
}

// BenchmarkAppend appends batches of 100 events, one for each program, to a real Redis.
func BenchmarkAppend(b *testing.B) {
	options, err := redis.ParseURL(testenv.Redis(b))
	if err != nil {
		b.Fatal(err)
	}
	client := redis.NewClient(options)
	defer client.Close()
	l := newLogWriter(Config{Redis: client, RecentTTL: 5 * time.Minute, LogLimit: 10_000})
	if err := l.load(b.Context()); err != nil {
		b.Fatal(err)
	}
	rows := hotRows(100)
	b.ReportAllocs()
	for b.Loop() {
		for i := range rows {
			rows[i].Position += int64(len(rows))
		}
		parts, _ := split(rows)
		if behind, err := l.append(b.Context(), parts); err != nil || len(behind) > 0 {
			b.Fatalf("%d programs behind: %v", len(behind), err)
		}
	}
}

// TestHotPathAllocations fails when encoding a batch allocates more than it did when the bounds were set. Counts are stable where times are
// not; lower the bounds when they can be.
func TestHotPathAllocations(t *testing.T) {
	row, rows, buf := &hotRows(1)[0], hotRows(1000), make([]byte, 0, 1<<10)
	for name, c := range map[string]struct {
		most float64
		run  func()
	}{
		"one entry into a buffer":               {0, func() { buf = appendEntry(buf[:0], row) }},
		"a batch of 1,000 rows in 100 programs": {1042, func() { split(rows) }},
	} {
		if got := testing.AllocsPerRun(100, c.run); got > c.most {
			t.Errorf("%s: %.0f allocations, at most %.0f before", name, got, c.most)
		}
	}
}
