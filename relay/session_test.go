package relay

import (
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/outboxrelay/outboxrelay/internal/testenv"
	"github.com/outboxrelay/outboxrelay/outbox"
)

// A leader that was stopped for a while, and isn't one any more, found entries in Redis that it didn't know: its successor's. It took
// them for foreign and deleted the log; only then did it meet its dead Postgres session. Readers were told too little until the successor
// compared, and could be given a checkpoint above what they hadn't been sent.
func TestAFormerLeaderDeletesNoLog(t *testing.T) {
	t.Parallel()
	pool, url := testenv.DB(t)
	client, err := OpenRedis(testenv.Redis(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close() })
	r, err := New(Config{DatabaseURL: url, Redis: client, Logger: testenv.Logger(t)})
	if err != nil {
		t.Fatal(err)
	}
	conn, err := connect(t.Context(), url, "former leader")
	if err != nil {
		t.Fatal(err)
	}
	server, err := outbox.ReadServer(t.Context(), conn)
	if err != nil {
		t.Fatal(err)
	}
	at := server.Now.UnixMicro()
	s := &session{
		Relay: r, conn: conn, cluster: server.Cluster, used: time.Now(), clockAt: server.Now, clockRead: time.Now(),
		log: &Log{redis: client, window: r.config.RecentTTL, most: r.config.LogLimit, log: r.config.Logger, newest: map[string]int64{"p1": at}},
	}
	for _, position := range []int64{at, at + 1} { // the second is the successor's
		if err := client.ZAdd(t.Context(), keyPrefix+"p1", redis.Z{Score: float64(position), Member: position}).Err(); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := pool.Exec(t.Context(), "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'former leader' AND datname = current_database()"); err != nil {
		t.Fatal(err)
	}
	if err := s.compare(t.Context()); err == nil {
		t.Error("compare ended well without a Postgres session")
	}
	if n := client.ZCard(t.Context(), keyPrefix+"p1").Val(); n != 2 {
		t.Errorf("%d entries are left in the log, want 2", n)
	}
}
