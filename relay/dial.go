package relay

import (
	"context"
	"fmt"
	"net"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

const (
	probeAfter = 5 * time.Second // of silence TCP asks whether the other end is there …
	probeEvery = 2 * time.Second // … and again …
	probes     = 3               // … so many times
	ackTimeout = 10 * time.Second
)

// ConnConfig reads a DATABASE_URL for one connection by Dial. What it says of a pool, such as pool_max_conns, is left out: a server knows nothing
// of that, and refuses a connection that mentions it.
func ConnConfig(url string) (*pgx.ConnConfig, error) {
	pool, err := pgxpool.ParseConfig(url)
	if err != nil {
		return nil, fmt.Errorf("parse DATABASE_URL: %w", err)
	}
	pool.ConnConfig.DialFunc = Dial
	return pool.ConnConfig, nil
}

// Dial connects to Postgres: it is for the DialFunc of a pgx.ConnConfig. A connection whose packets no longer arrive fails by itself, whatever it waits
// for and however long a statement may take: what isn't acknowledged for 10 s (on Linux), or a wait in which three probes go unanswered, within 12 s.
// That the server's kernel answers says nothing about the server: its statements have deadlines of their own.
func Dial(ctx context.Context, network, address string) (net.Conn, error) {
	dialer := net.Dialer{
		KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: probeAfter, Interval: probeEvery, Count: probes},
		Control:         limitAck,
	}
	return dialer.DialContext(ctx, network, address)
}
