package relay_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/outboxrelay/outboxrelay/internal/testenv"
	"github.com/outboxrelay/outboxrelay/relay"
)

// Wake-ups reach every program's subscribers, wherever its slot lies: by sharded pub/sub, and by the classic one where a server has no other.
func TestWakeUpsOnACluster(t *testing.T) {
	t.Parallel()
	for name, args := range map[string][]string{"sharded": nil, "classic": {"--rename-command", "SPUBLISH", ""}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cluster := testenv.Cluster(t, 3, false, args...)
			pool, url := testenv.DB(t)
			s := &stack{t: t, pool: pool, url: url, redis: openRedis(t, cluster.URL)}
			leader := s.relay(nil)
			woken := make(chan string, 1000)
			h := s.watch(func(topic string) { woken <- topic })
			expect := func(topic string) {
				t.Helper()
				deadline := time.After(10 * time.Second)
				for {
					select {
					case got := <-woken:
						if got == topic {
							return
						}
					case <-deadline:
						t.Fatalf("%s isn't woken (%v)", topic, h.Ready())
					}
				}
			}
			expect("nodes")
			for n := range 12 {
				program := fmt.Sprintf("p%d", n)
				if err := h.Subscribe(t.Context(), "program:"+program); err != nil {
					t.Fatal(err)
				}
				expect("program:" + program) // the confirmation
				s.emit(program, nil)
				expect("program:" + program)
			}
			// An erasure and the start of a new history were told by the classic pub/sub alone, which no node listened to.
			id := s.emit("p0", nil)
			expect("program:p0")
			if _, err := relay.Erase(testenv.Context(t, 20*time.Second), pool, s.redis, id); err != nil {
				t.Fatal(err)
			}
			expect("nodes")
			expect("nodes") // it is told twice
			leader.stop()
			if err := s.redis.Set(t.Context(), "socket:events:head", "1:1:5", 0).Err(); err != nil { // another history's
				t.Fatal(err)
			}
			s.relay(nil)
			expect("nodes")
			sharded := 0
			for _, node := range cluster.Nodes {
				channels, _ := testenv.Do(t, node, "PUBSUB", "SHARDCHANNELS").([]any)
				sharded += len(channels)
			}
			if want := map[string]int{"sharded": 13, "classic": 0}[name]; sharded != want {
				t.Errorf("%d sharded channels, want %d", sharded, want)
			}
		})
	}
}

func TestOpenRedisReadsURLs(t *testing.T) {
	t.Parallel()
	for url, want := range map[string]string{
		"redis://127.0.0.1:1/0":                     "*redis.Client",
		"redis://u:p@h1,h2:7000":                    "*redis.ClusterClient",
		"rediss://h1:7000,h2:7000":                  "*redis.ClusterClient",
		"redis+sentinel://h1,h2:26379/master/1":     "*redis.Client",
		"rediss+sentinel://u:p@h1:26379/master":     "*redis.Client",
		"redis://h1,h2/3":                           "REDIS_URL: a Redis Cluster has database 0 only: leave the path out",
		"redis+sentinel://h1/m?sentinel_password=p": "*redis.Client",
		"redis+sentinel://h1/m?password=p":          `REDIS_URL: unknown parameter "password": with Sentinel there are sentinel_username and sentinel_password`,
		"redis+sentinel://h1:26379":                 "REDIS_URL: the master's name is missing: redis+sentinel://host:26379,host:26379/master-name",
		"redis+sentinel://h1:26379/master/first":    "REDIS_URL: the database after the master's name must be a number",
	} {
		client, err := relay.OpenRedis(url)
		got := fmt.Sprint(err)
		if err == nil {
			got = fmt.Sprintf("%T", client)
			client.Close()
		}
		if got != want {
			t.Errorf("%s: %s, want %s", url, got, want)
		}
	}
}
