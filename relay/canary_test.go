package relay

import (
	"testing"
	"time"

	"github.com/outboxrelay/outboxrelay/internal/testenv"
)

// A canary is often heard before who sent it has its answer. The one before it was then taken for the newest, and for one that had not been heard
// for ten seconds: a false alarm, the more often the busier the relay.
func TestACanaryThatIsHeardEarly(t *testing.T) {
	t.Parallel()
	s, _, proxy := led(t)
	if err := s.listen(t.Context()); err != nil {
		t.Fatal(err)
	}
	slow := testenv.Proxy(t, proxy.Addr())
	s.config.DatabaseURL = slow.URL(s.config.DatabaseURL)
	s.canary.Store(&canary{canaryPayload + "1", time.Now().Add(-canaryEvery)})
	s.heardCanary = canaryPayload + "1"
	slow.Latency(200 * time.Millisecond)
	sent := make(chan error, 1)
	go func() { sent <- s.singOnce(t.Context()) }()
	n, err := s.conn.WaitForNotification(testenv.Context(t, 20*time.Second))
	if err != nil {
		t.Fatal(err)
	}
	s.heard(n)
	s.used = time.Now()
	s.checkCanary()
	if s.deaf {
		t.Error("a relay that has just heard a canary takes itself for deaf")
	}
	if err := <-sent; err != nil {
		t.Fatal(err)
	}
	if s.checkCanary(); s.deaf {
		t.Error("it is deaf to a canary that it has heard")
	}
}
