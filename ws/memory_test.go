package ws_test

import (
	"errors"
	"fmt"
	"io"
	"net"
	"runtime"
	"testing"
	"time"

	"github.com/outboxrelay/outboxrelay/internal/testenv"
	"github.com/outboxrelay/outboxrelay/relay"
	"github.com/outboxrelay/outboxrelay/ws"
)

// A client that read nothing kept the whole page alive that was being written to it: with 60 events of 250 KB, 15 of them held 160 MB. A page has a MiB
// at most now, and each may hold another one, and of it what is being written.
//
// Not parallel: it looks at the heap.
func TestClientsThatReadNothingHoldLittle(t *testing.T) {
	const clients, large = 6, 40
	for name, window := range map[string]time.Duration{"Redis": time.Hour, "Postgres": time.Millisecond} {
		t.Run(name, func(t *testing.T) {
			s := newStack(t)
			s.user("u1", "p1")
			stop := s.relay()
			s.settled()
			s.exec(`SELECT relay.emit('p1', 'request:created', json_build_object('n', n, 'x', repeat('x', 250000))) FROM generate_series(1, $1::int) n`, large)
			end := s.settled()
			stop()
			n := s.node(func(c *ws.Config) {
				c.Log = logs{relay.NewHistory(relay.HistoryConfig{Redis: s.redis, Pool: s.pool, RecentTTL: window})}
				c.WriteTimeout, c.MaxCatchup = time.Hour, 2*large
			})
			before := heap()
			last, at := 0.0, time.Now()
			for i := range clients {
				conn, _ := n.raw()
				_ = conn.(*net.TCPConn).SetReadBuffer(4096)
				_, _ = io.WriteString(conn, frameOf(fin|text, authFrame(n.token("u1"), fmt.Sprintf(`"since":"%d"`, end-large+int64(i)))))
			}
			testenv.Eventually(t, 60*time.Second, func() error { // they are all stuck: nothing is sent any more
				if sent := n.metric("events_sent_total", ""); sent != last {
					last, at = sent, time.Now()
				}
				if last < clients || time.Since(at) < 2*time.Second {
					return errors.New("not all are stuck")
				}
				return nil
			})
			grown := heap() - before
			const page, event, room, node = 1 << 20, 256 << 10, 2 << 20, 2 << 20 // a room holds its buffer and the last answer below it
			if most := clients*(page+event) + room + node; grown > most {
				t.Errorf("%.0f events were sent, and the heap grew by %d KiB, at most %d expected", last, grown>>10, most>>10)
			}
		})
	}
}

// heap returns how many bytes are in use.
func heap() int {
	var m runtime.MemStats
	for range 2 {
		runtime.GC()
	}
	runtime.ReadMemStats(&m)
	return int(m.HeapAlloc)
}
