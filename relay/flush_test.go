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
	all := func(d time.Duration, others ...time.Duration) (probes [flushProbes]time.Duration) {
		for i := range probes {
			probes[i] = d
		}
		copy(probes[:], others)
		return probes
	}
	for _, test := range []struct {
		durable, idle [flushProbes]time.Duration
		want          time.Duration
	}{
		{all(50*ms, 4*ms, 3*ms, 5*ms), all(ms), 3 * ms},
		{all(3*ms, ms), all(50*ms, ms, ms), 2 * ms},
		{all(ms), all(ms), leastFlush},
		{all(ms), all(50 * ms), leastFlush},
	} {
		if got := flushOf(test.durable, test.idle); got != test.want {
			t.Errorf("durable %v, idle %v: %v, want %v", test.durable, test.idle, got, test.want)
		}
	}
}

func TestTheFlushIsMeasured(t *testing.T) {
	t.Parallel()
	pg := testenv.OwnPostgres(t, devstack.PostgresConfig{Settings: map[string]string{"commit_delay": "100000", "commit_siblings": "0"}}) // µs: a slow disk
	conn, err := connect(t.Context(), pg.URL(), "relay")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { closeConn(t.Context(), conn) })
	s := &session{Relay: &Relay{metrics: newMetrics(nil)}, conn: conn}
	if err := s.measureFlush(t.Context()); err != nil {
		t.Fatal(err)
	}
	if s.flush.wait < 50*time.Millisecond {
		t.Errorf("a flush takes %v, want 100 ms and more", s.flush.wait)
	}
	if _, err := conn.Exec(t.Context(), "SET commit_delay = 0"); err != nil {
		t.Fatal(err)
	}
	for range flushProbes {
		s.flush.at = time.Time{} // as if it were time
		if err := s.measureFlush(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if s.flush.wait > 50*time.Millisecond {
		t.Errorf("a flush takes %v on a disk that isn't slow any more", s.flush.wait)
	}
	probes := s.flush.probes
	if err := s.measureFlush(t.Context()); err != nil || s.flush.probes != probes {
		t.Errorf("%d probes, %v: made again at once", s.flush.probes-probes, err)
	}
}

// All the first probes are made in one moment. Where that was a bad one the relay stayed awake for two seconds at a rate at which it should sleep, and events waited for
// the next tick.
func TestTheFirstProbesAreSoonReplaced(t *testing.T) {
	t.Parallel()
	s, _, _ := led(t)
	measure := func(age time.Duration) (made int) {
		t.Helper()
		before := s.flush.probes
		s.flush.at = time.Now().Add(-age)
		if err := s.measureFlush(t.Context()); err != nil {
			t.Fatal(err)
		}
		return s.flush.probes - before
	}
	if n := measure(0); n != flushProbes {
		t.Fatalf("%d probes at first, want %d", n, flushProbes)
	}
	for i := range flushProbes {
		s.flush.durable[i] = time.Second // a bad moment
	}
	for range flushRank {
		if n := measure(2 * flushFirst); n != 1 {
			t.Fatalf("%d probes after %v, want 1", n, 2*flushFirst)
		}
	}
	if s.flush.wait > time.Second/2 {
		t.Errorf("a flush still takes %v", s.flush.wait)
	}
	for s.flush.probes < 2*flushProbes {
		measure(2 * flushFirst)
	}
	if n := measure(2 * flushFirst); n != 0 {
		t.Errorf("%d probes after %v when all of the first ones have been replaced, want none", n, 2*flushFirst)
	}
}
