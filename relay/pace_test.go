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
		every  time.Duration
		events int64
		want   bool
	}{
		"single commits, slow":                    {5 * time.Millisecond, 1, false},
		"single commits, fast":                    {2 * time.Millisecond, 1, true},
		"many at a time":                          {5 * time.Millisecond, 20, true},
		"large transactions now and then":         {100 * time.Millisecond, 1000, false},
		"wake-ups that find nothing, fast enough": {time.Millisecond, 0, true},
	} {
		var p pace
		got := false
		for n := range 20 {
			got = p.fast(time.Unix(1, 0).Add(time.Duration(n)*test.every), test.events, flush)
		}
		if got != test.want {
			t.Errorf("%s: fast is %v, want %v", name, got, test.want)
		}
	}
}
