package testenv

import (
	"net"
	"strconv"
	"testing"

	"github.com/outboxrelay/outboxrelay/internal/devstack"
)

// FreeAddr returns a host:port of 127.0.0.1 on which nobody listens, for a server that is yet to start or will start again on it. The system doesn't
// give its port to anybody who asks for any port.
func FreeAddr(t testing.TB) string {
	t.Helper()
	port, err := devstack.FreePort()
	if err != nil {
		t.Fatal(err)
	}
	return net.JoinHostPort("127.0.0.1", strconv.Itoa(port))
}
