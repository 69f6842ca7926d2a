package relay

import (
	"testing"
	"time"

	"github.com/outboxrelay/outboxrelay/internal/devstack"
	"github.com/outboxrelay/outboxrelay/internal/testenv"
)

// The first batch after a start is often large. When reads were what was measured, it made every flush seem slow for more than a second.
func TestWhatIsHeldUpIsNoFlush(t *testing.T) {
	t.Parallel()
	const ms = time.Millisecond
	for _, test := range []struct {
		durable, idle []time.Duration
		want          time.Duration
	}{
		{[]time.Duration{4 * ms, 3 * ms, 50 * ms}, []time.Duration{ms, ms, ms}, 3 * ms},
		{[]time.Duration{3 * ms, 3 * ms, 3 * ms}, []time.Duration{50 * ms, ms, ms}, 2 * ms},
		{[]time.Duration{ms, ms, ms}, []time.Duration{ms, ms, ms}, leastFlush},
		{[]time.Duration{ms, ms, ms}, []time.Duration{50 * ms, 50 * ms, ms}, leastFlush},
	} {
		if got := flushOf(test.durable, test.idle); got != test.want {
			t.Errorf("durable %v, idle %v: %v, want %v", test.durable, test.idle, got, test.want)
		}
	}
}

func TestTheFlushIsMeasured(t *testing.T) {
	t.Parallel()
	pg := testenv.OwnPostgres(t, devstack.PostgresConfig{Settings: map[string]string{"commit_delay": "50000", "commit_siblings": "0"}}) // µs: a slow disk
	conn, err := connect(t.Context(), pg.URL(), "relay")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { closeConn(t.Context(), conn) })
	s := &session{Relay: &Relay{metrics: newMetrics(nil)}, conn: conn}
	if err := s.measureFlush(t.Context()); err != nil {
		t.Fatal(err)
	}
	if s.flush < 25*time.Millisecond {
		t.Errorf("a flush takes %v, want 50 ms and more", s.flush)
	}
}
