package relay

import (
	"context"
	"fmt"
	"math"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/redis/go-redis/v9"

	"github.com/outboxrelay/outboxrelay/internal/testenv"
)

// What the script publishes is what it has added, behind its predecessor; a position alone where that isn't known or it would be too much.
func TestTheScriptPublishesWhatItAdds(t *testing.T) {
	t.Parallel()
	client, err := OpenRedis(testenv.Redis(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close() })
	single, _ := client.(*redis.Client)
	l := newModelLog(single)
	if err := l.load(t.Context()); err != nil {
		t.Fatal(err)
	}
	sub := client.Subscribe(t.Context(), keyPrefix+"p1")
	t.Cleanup(func() { sub.Close() })
	if _, err := sub.Receive(t.Context()); err != nil {
		t.Fatal(err)
	}
	published := func(positions []int64, frame string) News {
		t.Helper()
		p := part{program: "p1", positions: positions}
		for _, n := range positions {
			p.frames = append(p.frames, fmt.Appendf(nil, "%s %d\n", frame, n))
		}
		if behind, err := l.append(t.Context(), []part{p}); err != nil || len(behind) > 0 {
			t.Fatalf("append: %v, behind %v", err, behind)
		}
		message, err := sub.ReceiveMessage(context.WithoutCancel(t.Context()))
		if err != nil {
			t.Fatal(err)
		}
		news, err := parseNews(message.Payload)
		if err != nil {
			t.Fatalf("%q: %v", message.Payload, err)
		}
		return news
	}
	entry := func(n int64, frame string) Entry {
		return Entry{Position: n, Frame: fmt.Appendf(nil, "%s %d\n", frame, n)}
	}
	for _, step := range []struct {
		name      string
		positions []int64
		frame     string
		want      News
	}{
		{"the first", []int64{1764000000000001}, "é", News{After: 1764000000000001}},
		{"one more", []int64{1764000000000005}, "é", News{1764000000000001, []Entry{entry(1764000000000005, "é")}}},
		{"half of it there", []int64{1764000000000005, 1764000000000007}, "é", News{1764000000000005, []Entry{entry(1764000000000007, "é")}}},
		{"several", []int64{1764000000000010, 1764000000000011}, "", News{1764000000000007, []Entry{entry(1764000000000010, ""), entry(1764000000000011, "")}}},
		{"large", []int64{1764000000000020}, strings.Repeat("x", 16384), News{After: 1764000000000020}},
	} {
		if diff := cmp.Diff(step.want, published(step.positions, step.frame)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", step.name, diff)
		}
	}
}

func FuzzParseNews(f *testing.F) {
	for _, seed := range []string{"17", "1 2 3\nabc", "1 2 3 4 0\nabc", "1\n", "x 2 1\na", "5 2 1\na", "1 2 9\na", "1 2 -1\na", "1 2\na", "99999999999999999999", "-1", `1 2 17` + "\n" + `{"type":"control"`} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, message string) {
		news, err := parseNews(message)
		if err != nil && len(news.Entries) > 0 {
			t.Errorf("entries %v with %v", news.Entries, err)
		}
		if news.After < 0 || news.After == math.MaxInt64 && !strings.Contains(message, fmt.Sprint(math.MaxInt64)) {
			t.Errorf("%q is %v", message, news)
		}
		after := news.After
		for _, e := range news.Entries {
			if e.Position <= after {
				t.Errorf("positions don't ascend: %v", news)
			}
			after = e.Position
		}
	})
}
