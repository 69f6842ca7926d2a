package relay

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/url"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"
)

// bufferSize is that of a connection's two buffers. The library's 32 KiB would be the largest part of a process without traffic.
const bufferSize = 8 << 10

// OpenRedis returns a client for a REDIS_URL: redis:// and rediss:// for one server, with several hosts (redis://h1:6379,h2:6379) for Redis
// Cluster, redis+sentinel://user:password@h1:26379,h2:26379/master-name/db for Sentinel, with the servers' credentials (the Sentinels' own:
// ?sentinel_username=…&sentinel_password=…). It connects to nothing. Every command ends within its context; a command is not repeated behind the
// caller's back.
func OpenRedis(text string) (redis.UniversalClient, error) {
	scheme, rest, ok := strings.Cut(text, "://")
	if !ok {
		return nil, errors.New("REDIS_URL: want redis://host:6379/0, rediss://… or redis+sentinel://…")
	}
	if scheme == "redis+sentinel" || scheme == "rediss+sentinel" {
		return openSentinel(rest, scheme == "rediss+sentinel")
	}
	if scheme != "redis" && scheme != "rediss" {
		return nil, fmt.Errorf("REDIS_URL: unknown scheme %q: want redis, rediss or redis+sentinel", scheme)
	}
	hosts, suffix := splitHosts(rest)
	options, err := redis.ParseURL(scheme + "://" + hosts[0] + suffix)
	if err != nil {
		return nil, fmt.Errorf("REDIS_URL: %w", withoutURL(err))
	}
	if len(hosts) == 1 {
		options.ContextTimeoutEnabled, options.DisableIdentity, options.MaxRetries, options.DialerRetries = true, true, -1, 1
		options.ReadBufferSize, options.WriteBufferSize, options.MaintNotificationsConfig = bufferSize, bufferSize, unannounced()
		return redis.NewClient(options), nil
	}
	if options.DB != 0 {
		return nil, errors.New("REDIS_URL: a Redis Cluster has database 0 only: leave the path out")
	}
	if options.TLSConfig != nil {
		options.TLSConfig.ServerName = "" // each node's own
	}
	addrs := append([]string{options.Addr}, withPorts(hosts[1:], "6379")...)
	return redis.NewClusterClient(&redis.ClusterOptions{
		Addrs: addrs, Username: options.Username, Password: options.Password, TLSConfig: options.TLSConfig,
		ContextTimeoutEnabled: true, DisableIdentity: true, DialerRetries: 1, MaxRedirects: 3,
		ReadBufferSize: bufferSize, WriteBufferSize: bufferSize, MaintNotificationsConfig: unannounced(),
	}), nil
}

// unannounced keeps the library from asking servers to announce their maintenance: to tell them where, it would look for their address as soon as a
// client is made.
func unannounced() *maintnotifications.Config {
	return &maintnotifications.Config{Mode: maintnotifications.ModeDisabled}
}

func openSentinel(rest string, secure bool) (redis.UniversalClient, error) {
	hosts, suffix := splitHosts(rest)
	u, err := url.Parse("redis://" + hosts[0] + suffix)
	if err != nil {
		return nil, errors.New("REDIS_URL: want redis+sentinel://user:password@host:26379,host:26379/master-name/0")
	}
	path := strings.Split(strings.Trim(u.Path, "/"), "/")
	if path[0] == "" {
		return nil, errors.New("REDIS_URL: the master's name is missing: redis+sentinel://host:26379,host:26379/master-name")
	}
	options := &redis.FailoverOptions{
		MasterName: path[0], SentinelAddrs: withPorts(append([]string{u.Host}, hosts[1:]...), "26379"),
		ContextTimeoutEnabled: true, DisableIdentity: true, MaxRetries: -1, DialerRetries: 1, DialTimeout: 2 * time.Second,
		ReadBufferSize: bufferSize, WriteBufferSize: bufferSize,
	}
	if secure {
		options.TLSConfig = &tls.Config{MinVersion: tls.VersionTLS12}
	}
	if len(path) > 1 {
		if _, err := fmt.Sscan(path[1], &options.DB); err != nil {
			return nil, errors.New("REDIS_URL: the database after the master's name must be a number")
		}
	}
	for name, values := range u.Query() {
		switch name {
		case "sentinel_username":
			options.SentinelUsername = values[0]
		case "sentinel_password":
			options.SentinelPassword = values[0]
		default:
			return nil, fmt.Errorf("REDIS_URL: unknown parameter %q: with Sentinel there are sentinel_username and sentinel_password", name)
		}
	}
	if u.User != nil {
		options.Username = u.User.Username()
		options.Password, _ = u.User.Password()
	}
	return redis.NewFailoverClient(options), nil
}

// withPorts adds the port to hosts that have none.
func withPorts(hosts []string, port string) []string {
	for i, host := range hosts {
		if _, _, err := net.SplitHostPort(host); err != nil {
			hosts[i] = net.JoinHostPort(strings.Trim(host, "[]"), port)
		}
	}
	return hosts
}

// splitHosts separates the comma-separated hosts of a URL from its path and query; credentials stay with the first host.
func splitHosts(rest string) (hosts []string, suffix string) {
	end := strings.IndexAny(rest, "/?")
	if end < 0 {
		end = len(rest)
	}
	credentials := ""
	authority := rest[:end]
	if at := strings.LastIndexByte(authority, '@'); at >= 0 {
		credentials, authority = authority[:at+1], authority[at+1:]
	}
	hosts = strings.Split(authority, ",")
	hosts[0] = credentials + hosts[0]
	return hosts, rest[end:]
}

// withoutURL keeps a URL, which may hold a password, out of an error.
func withoutURL(err error) error {
	var u *url.Error
	if errors.As(err, &u) {
		return u.Err
	}
	return err
}
