package ws

import (
	"bytes"
	"context"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/coder/websocket"
)

var hotFrame = []byte(`{"type":"event","id":"42","position":"1764000000000124","event":"request:updated","programId":"p1",` +
	`"data":{"title":"Travel to Bern","status":"approved","amount":1250},"performedBy":{"userId":"u0","name":"Ann Lee"},"timestamp":"2025-11-24T16:00:00.000120Z"}`)

// hotSocket is a socket that has caught up in a room with n new entries, over a real connection whose other end discards all. deliver sends the
// entries to it, as a pump that was woken does.
func hotSocket(t testing.TB, n int, batch bool) (deliver func()) {
	t.Helper()
	h := &Hub{config: Config{}.withDefaults()}
	h.metrics = newMetrics(h)
	accepted, wired := make(chan *websocket.Conn, 1), &wire{timeout: h.config.WriteTimeout}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		conn, err := websocket.Accept(&limitedWriter{w, wired}, r, (&socket{}).acceptOptions())
		if err != nil {
			t.Error(err)
		}
		accepted <- conn
	}))
	client, err := net.Dial("tcp", server.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	_, _ = client.Write([]byte("GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n" +
		"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"))
	conn := <-accepted
	discarded := make(chan struct{})
	go func() {
		defer close(discarded)
		buf := make([]byte, 64<<10)
		for {
			if _, err := client.Read(buf); err != nil {
				return
			}
		}
	}()
	t.Cleanup(func() {
		_ = conn.CloseNow()
		client.Close()
		<-discarded
		server.Close()
	})
	r := &room{hub: h, program: "p1"}
	for i := range n {
		r.add([]Entry{{Position: int64(i + 1), Frame: hotFrame}})
	}
	s := &socket{hub: h, conn: conn, wire: wired, user: "u1", ask: ask{batch: batch}}
	st := &seat{room: r, program: "p1", announced: true, located: true, reached: true}
	st.way.member = true
	s.seats = []*seat{st}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	t.Cleanup(cancel)
	return func() {
		st.cursor, s.attended = 0, time.Now() // as at the beginning of a turn
		_, err := s.advance(ctx)
		if err == nil {
			err = s.flush()
		}
		if err != nil || st.cursor != int64(n) {
			t.Fatalf("the cursor is at %d of %d: %v", st.cursor, n, err)
		}
	}
}

func BenchmarkDeliver(b *testing.B) {
	for name, c := range map[string]struct {
		events int
		batch  bool
	}{"events=1": {1, false}, "events=16": {16, false}, "events=16,batch": {16, true}} {
		b.Run(name, func(b *testing.B) {
			deliver := hotSocket(b, c.events, c.batch)
			b.ReportAllocs()
			for b.Loop() {
				deliver()
			}
		})
	}
}

var hotAuth = []byte(`{"type":"auth","token":"` + string(bytes.Repeat([]byte("x"), 180)) + `","since":{"p1":"1764000000000124","*":"1764000000000000"},"batch":true}`)

func BenchmarkParseClientFrame(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		if _, err := parseClientFrame(hotAuth); err != nil {
			b.Fatal(err)
		}
	}
}

// TestHotPathAllocations fails when sending to a socket, or parsing what it says, allocates more than it did when the bounds were set. Counts are
// stable where times are not; lower the bounds when they can be. Several events at once cost nothing: the room has made them ready.
func TestHotPathAllocations(t *testing.T) {
	for name, c := range map[string]struct {
		most float64
		run  func()
	}{
		"one event to one socket":     {1, hotSocket(t, 1, false)},
		"16 events, one message each": {0, hotSocket(t, 16, false)},
		"16 events in one message":    {0, hotSocket(t, 16, true)},
		"an auth frame":               {26, func() { _, _ = parseClientFrame(hotAuth) }},
		"a ping frame":                {7, func() { _, _ = parseClientFrame([]byte(`{"type":"ping"}`)) }},
	} {
		if got := testing.AllocsPerRun(200, c.run); got > c.most {
			t.Errorf("%s: %.0f allocations, at most %.0f before", name, got, c.most)
		}
	}
}
