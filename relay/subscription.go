package relay

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/redis/go-redis/v9"
)

// errMoved says that a slot has another master now: nothing is broken, and everything is subscribed again.
var errMoved = errors.New("a slot of the Redis Cluster has moved")

// subscription is one life of what Watch hears: one connection, or on a Cluster with sharded pub/sub one per master that has a channel. Its methods are
// called under the topics' lock.
type subscription struct {
	client  redis.UniversalClient
	cluster *redis.ClusterClient // nil: classic pub/sub
	receive func(*redis.PubSub)  // called for each new connection; doesn't block

	conns map[string]*redis.PubSub // by the master's address; classic: the one at ""
}

// newSubscription looks which kind of pub/sub the servers have; the relay does the same. Should the two differ for a while, wake-ups are late.
func newSubscription(ctx context.Context, client redis.UniversalClient, receive func(*redis.PubSub)) (*subscription, error) {
	s := &subscription{client: client, receive: receive, conns: map[string]*redis.PubSub{}}
	if cluster, ok := client.(*redis.ClusterClient); ok {
		found, err := inspect(ctx, client)
		if err != nil {
			return nil, err
		}
		if found.sharded {
			s.cluster = cluster
		}
	}
	return s, nil
}

// change subscribes to channels, or ends that.
func (s *subscription) change(ctx context.Context, on bool, channels ...string) error {
	if s.cluster == nil {
		conn, err := s.conn("", s.client)
		if err != nil {
			return err
		}
		call := conn.Unsubscribe
		if on {
			call = conn.Subscribe
		}
		return call(ctx, channels...)
	}
	for _, channel := range channels { // one command may not name channels of two slots
		conn, err := s.master(ctx, channel)
		if err != nil {
			return err
		}
		call := conn.SUnsubscribe
		if on {
			call = conn.SSubscribe
		}
		if err := call(ctx, channel); err != nil {
			return err
		}
	}
	return nil
}

// master returns the connection to a channel's master.
func (s *subscription) master(ctx context.Context, channel string) (*redis.PubSub, error) {
	node, err := s.cluster.MasterForKey(ctx, channel)
	if err != nil {
		return nil, fmt.Errorf("find the master of %s: %w", channel, err)
	}
	return s.conn(node.Options().Addr, node)
}

func (s *subscription) conn(addr string, client redis.UniversalClient) (*redis.PubSub, error) {
	if s.conns == nil {
		return nil, redis.ErrClosed
	}
	conn := s.conns[addr]
	if conn == nil {
		conn = client.Subscribe(context.Background())
		s.conns[addr] = conn
		s.receive(conn)
	}
	return conn, nil
}

// close ends every connection, and with it what receives from it.
func (s *subscription) close() {
	for _, conn := range s.conns {
		_ = conn.Close()
	}
	s.conns = nil
}

// moved tells whether a server refused a channel because its slot isn't there any more.
func moved(err error) bool {
	var reply redis.Error
	return errors.As(err, &reply) && (strings.HasPrefix(err.Error(), "MOVED ") || strings.HasPrefix(err.Error(), "CROSSSLOT "))
}
