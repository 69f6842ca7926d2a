package relay

import (
	"testing"
	"time"
)

// Only wake-ups were counted. Of writers fast enough several commits come together and wake the relay once, and it slept over thousands of them a
// second, each with its NOTIFY.
func TestCommitsThatComeTogetherCount(t *testing.T) {
	t.Parallel()
	const flush = 250 * time.Microsecond // serialised commits could do 4,000 a second: 400 are fast
	for name, test := range map[string]struct {
		every   time.Duration
		commits int
		want    bool
	}{
		"single commits, slow":                      {5 * time.Millisecond, 1, false},
		"single commits, fast":                      {2 * time.Millisecond, 1, true},
		"many at a time":                            {5 * time.Millisecond, 20, true},
		"very many, by a relay that is slow itself": {100 * time.Millisecond, 100, true},
		"very many, after a stall":                  {500 * time.Millisecond, 100, false},
	} {
		var wakes arrivals
		got := false
		for n := range 64 {
			got = wakes.fast(time.Unix(1, 0).Add(time.Duration(n)*test.every), test.commits, flush)
		}
		if got != test.want {
			t.Errorf("%s: fast is %v, want %v", name, got, test.want)
		}
	}
}

// A few commits that happen to come together, as after a moment's stall, aren't fast: awake, the others would wait for the next tick.
func TestAFewTogetherAreNotFast(t *testing.T) {
	t.Parallel()
	var wakes arrivals
	now := time.Unix(1, 0)
	for range 10 { // 200 a second, which come by twenties
		for range 20 {
			if wakes.fast(now, 1, 250*time.Microsecond) {
				t.Fatal("turned awake")
			}
			now = now.Add(100 * time.Microsecond)
		}
		now = now.Add(98 * time.Millisecond)
	}
}

func TestTicksLeaveTimeForTheWriters(t *testing.T) {
	t.Parallel()
	const ms = time.Millisecond
	for _, test := range []struct{ flush, worked, want time.Duration }{
		{leastFlush, ms, leastPace},
		{leastFlush, 3 * ms, 12 * ms},
		{leastFlush, 15 * ms, mostPace}, // else batches that take longer would make themselves larger still
		{leastFlush, time.Second, mostPace},
		{2 * ms, 3 * ms, 20 * ms},
		{5 * ms, 15 * ms, 50 * ms},
		{time.Second, time.Second, slowPace},
	} {
		s := session{flush: flush{wait: test.flush}}
		if got := s.pace(test.worked); got != test.want {
			t.Errorf("flush %v, worked %v: ticks are %v apart, want %v", test.flush, test.worked, got, test.want)
		}
	}
}
