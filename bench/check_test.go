//go:build linux

package main

import (
	"context"
	"encoding/binary"
	"strings"
	"testing"
	"time"
)

// hall is two streams of one program with sent events, and two clients of it; they are not connected.
func hall(t *testing.T) (l *loop, peers []*peer, frame func(stream int, number int64) []byte) {
	t.Helper()
	p := &plan{kind: ours, programs: 1, clients: spread(2, 1), writers: 2, size: 100, capacity: 4}
	streams := p.streams()
	peers, err := p.peers("127.0.0.1:1", "", streams)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range streams {
		for range s.sent {
			if _, _, err := s.make(nil, p.size); err != nil {
				t.Fatal(err)
			}
		}
		if _, _, err := s.make(nil, p.size); err == nil {
			t.Fatal("a stream took more than the plan has room for")
		}
	}
	l = &loop{streams: streams, window: &window{}, live: make(chan *peer, 2), peers: peers}
	for _, peer := range peers {
		peer.live = true
	}
	return l, peers, func(stream int, number int64) []byte {
		at := time.Now().UnixNano()
		if number < int64(len(streams[stream%2].sent)) {
			at = streams[stream%2].sent[number].at.Load()
		}
		return append(appendData([]byte(`{"type":"event","id":"1",`+mark[:len(mark)-len(`{"s":`)]), stream, number, at, 100), '}')
	}
}

func TestAClientNoticesWhatIsWrong(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		numbers []int64
		stream  int
		want    string
	}{
		"in order":      {[]int64{0, 1, 2, 3}, 0, ""},
		"lost":          {[]int64{0, 2}, 0, "lost or reordered, 1 is due"},
		"repeated":      {[]int64{0, 1, 1}, 0, "repeated, 2 is due"},
		"reordered":     {[]int64{1, 0}, 0, "lost or reordered, 0 is due"},
		"never sent":    {[]int64{0, 1, 2, 3, 4}, 0, "not what was sent"},
		"misdirected":   {[]int64{0}, 2, "misdirected"},
		"second stream": {[]int64{0, 1}, 1, ""},
	} {
		l, peers, frame := hall(t)
		var err error
		for _, n := range c.numbers {
			if err = l.message(peers[0], frame(c.stream, n), 1); err != nil {
				break
			}
		}
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
		if c.want == "" && l.delivered.Load() != int64(len(c.numbers)) {
			t.Errorf("%s: %d deliveries were counted", name, l.delivered.Load())
		}
	}
	l, peers, frame := hall(t)
	batch := "[" + string(frame(0, 0)) + "," + string(frame(0, 1)) + `,{"type":"position","position":"1"}]`
	if err := l.message(peers[0], []byte(batch), 1); err != nil || peers[0].received != 2 {
		t.Errorf("a batch: %d events, %v", peers[0].received, err)
	}
	if err := l.message(peers[0], []byte(`{"type":"gap","programId":"p0","before":"5","reason":"limit"}`), 1); err == nil {
		t.Error("a gap was taken")
	}
}

// TestClientsMustAgree: a stream's own numbers say nothing about the order of events of different writers.
func TestClientsMustAgree(t *testing.T) {
	t.Parallel()
	for _, agree := range []bool{true, false} {
		l, peers, frame := hall(t)
		first, second := frame(0, 0), frame(1, 0)
		order := [][2][]byte{{first, second}, {first, second}}
		if !agree {
			order[1] = [2][]byte{second, first}
		}
		for i, p := range peers {
			for _, b := range order[i] {
				if err := l.message(p, b, 1); err != nil {
					t.Fatal(err)
				}
			}
		}
		c := &crowd{loops: []*loop{l}, peers: peers}
		if err := c.drained(context.Background(), 4, time.Second); (err == nil) != agree {
			t.Errorf("agree %v: %v", agree, err)
		}
		if err := c.drained(context.Background(), 5, time.Millisecond); err == nil {
			t.Error("a missing delivery wasn't noticed")
		}
	}
}

func TestNextFrame(t *testing.T) {
	t.Parallel()
	for _, n := range []int{0, 125, 126, 65535, 65536} {
		b := []byte{0x81}
		switch {
		case n < 126:
			b = append(b, byte(n))
		case n < 1<<16:
			b = binary.BigEndian.AppendUint16(append(b, 126), uint16(n))
		default:
			b = binary.BigEndian.AppendUint64(append(b, 127), uint64(n))
		}
		b = append(b, make([]byte, n)...)
		for _, cut := range []int{0, 1, len(b) - 1} {
			if _, _, size, err := nextFrame(b[:cut]); size != 0 || err != nil {
				t.Errorf("%d of %d bytes: a frame of %d, %v", cut, len(b), size, err)
			}
		}
		opcode, payload, size, err := nextFrame(append(b, 0x81))
		if opcode != opText || len(payload) != n || size != len(b) || err != nil {
			t.Errorf("%d bytes: opcode %d, %d bytes, size %d, %v", n, opcode, len(payload), size, err)
		}
	}
	for _, bad := range []string{"\x01\x00", "\xc1\x00", "\x81\x80", "\x81\x7f\x7f\xff\xff\xff\xff\xff\xff\xff"} {
		if _, _, _, err := nextFrame([]byte(bad)); err == nil {
			t.Errorf("%q was taken", bad)
		}
	}
}

func TestQuantiles(t *testing.T) {
	t.Parallel()
	var h, half histogram
	for us := range int64(1000) {
		half.add(us * 1000)
		h.add(us * 1000)
	}
	h.merge(&half)
	for q, want := range map[float64]time.Duration{0.5: 500 * time.Microsecond, 0.99: 990 * time.Microsecond} {
		if got := h.quantile(q); got < want*99/100 || got > want*101/100 {
			t.Errorf("the quantile %g is %v, want %v within 1 %%", q, got, want)
		}
	}
	if h.total != 2000 {
		t.Errorf("%d durations, want 2000", h.total)
	}
}

func TestSummaryTakesTheRatioOfEachRound(t *testing.T) {
	t.Parallel()
	sc := scenario{name: "x", metrics: []metric{{"p50", "ms", target{ratio: true, most: 2.2}}, {shareKept, "", target{least: 0.8}}}}
	rounds := []map[kind]values{
		{ours: {"p50": 2, shareKept: 90}, theFloor: {"p50": 1, shareKept: 50}, alone: {shareKept: 100}},
		{ours: {"p50": 30, shareKept: 70}, theFloor: {"p50": 10, shareKept: 50}, alone: {shareKept: 100}},
		{ours: {"p50": 4, shareKept: 40}, theFloor: {"p50": 2, shareKept: 40}, alone: {shareKept: 100}},
	}
	rows := summary(sc, rounds)
	if rows[0].Ratio != 2 || !*rows[0].Reached {
		t.Errorf("the ratio is %v, want 2, reached: %v", rows[0].Ratio, *rows[0].Reached)
	}
	if rows[1].Ours != 0.7 || rows[1].Floor != 0.5 || *rows[1].Reached {
		t.Errorf("the share kept is %v (floor %v), want 0.7 (0.5) and missed", rows[1].Ours, rows[1].Floor)
	}
}
