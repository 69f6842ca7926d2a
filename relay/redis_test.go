package relay

import (
	"context"
	"errors"
	"net"
	"testing"
)

// TestOpenRedisAsksNobody: the library would look for the host's address, to tell servers that announce their maintenance where to say so. A process
// whose DNS doesn't answer would hang before it has said a word. Not parallel: it takes DNS away from everybody.
func TestOpenRedisAsksNobody(t *testing.T) {
	before := net.DefaultResolver
	t.Cleanup(func() { net.DefaultResolver = before })
	asked := make(chan string, 100)
	net.DefaultResolver = &net.Resolver{PreferGo: true, Dial: func(_ context.Context, _, address string) (net.Conn, error) {
		asked <- address
		return nil, errors.New("no DNS here")
	}}
	for _, url := range []string{
		"redis://redis.example.com", "rediss://redis.example.com:6380/1", "redis://a.example.com,b.example.com", "redis+sentinel://a.example.com,b.example.com/main",
	} {
		client, err := OpenRedis(url)
		if err != nil {
			t.Fatal(err)
		}
		if err := client.Close(); err != nil {
			t.Error(err)
		}
		if n := len(asked); n > 0 {
			t.Fatalf("%s: DNS was asked %d times", url, n)
		}
	}
}
