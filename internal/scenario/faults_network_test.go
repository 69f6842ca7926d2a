package scenario_test

import (
	"time"

	"github.com/outboxrelay/outboxrelay/internal/devstack"
	"github.com/outboxrelay/outboxrelay/internal/scenario"
	"github.com/outboxrelay/outboxrelay/internal/testenv"
)

var networkFaults = []fault{
	{"network/relay-postgres", "steady", func(t *trial) { t.link("relay", "DATABASE_URL") }},
	{"network/ws-postgres", "steady", func(t *trial) { t.link("ws", "DATABASE_URL") }},
	{"network/relay-redis", "steady", func(t *trial) { t.link("relay", "REDIS_URL") }},
	{"network/ws-redis", "steady", func(t *trial) { t.link("ws", "REDIS_URL") }},
	{"network/client-ws", "steady", clientLink},
}

// link puts a proxy between the nodes of a role and one of the services, and makes every fault on it.
func (t *trial) link(role, setting string) {
	t.Helper()
	t.services(devstack.PostgresConfig{})
	target, url := postgresAddr(t.pg), t.pg.URL()
	if setting == "REDIS_URL" {
		target, url = t.redis.Addr, t.redis.URL()
	}
	proxy := testenv.Proxy(t.T, target)
	proxied := setting + "=" + proxy.URL(url)
	env := map[string][]string{"relay": {"ROLE=relay"}, "ws": {"ROLE=ws"}}
	env[role] = append(env[role], proxied)
	t.node(env["relay"]...)
	t.audience(t.node(env["ws"]...))
	t.load(func() { t.everyFault(proxy) })
}

// clientLink is link for the clients themselves.
func clientLink(t *trial) {
	t.services(devstack.PostgresConfig{})
	proxy := testenv.Proxy(t.T, t.node().Address())
	url := "ws://" + proxy.Addr() + "/ws"
	t.clients = []*scenario.Client{scenario.NewClientAt("u0", url), scenario.NewClientAt("u1", url), scenario.NewClientAt("guest", url)}
	t.clients[2].Programs = []string{"p0"}
	for _, c := range t.clients {
		c.Patience = 3 * time.Second
	}
	crowd(t.T, t.clients...)
	t.load(func() { t.everyFault(proxy) })
}

// everyFault makes one fault after the other, each until it hurts, and waits until all is whole again after each.
func (t *trial) everyFault(proxy *testenv.TCPProxy) {
	t.Helper()
	for _, f := range []struct {
		name  string
		begin func()
		last  time.Duration
		end   func()
	}{
		{"latency", func() { proxy.Latency(50 * time.Millisecond) }, 2 * time.Second, func() { proxy.Latency(0) }},
		{"tiny segments", func() { proxy.Segments(3) }, 2 * time.Second, func() { proxy.Segments(0) }},
		{"slow reads", func() { proxy.Throttle(20_000) }, 3 * time.Second, func() { proxy.Throttle(0) }},
		{"cut", proxy.Cut, 500 * time.Millisecond, func() {}},
		{"cut again", proxy.Cut, 500 * time.Millisecond, func() {}},
		{"cut while slow", func() { t.cutWhileSlow(proxy) }, 500 * time.Millisecond, func() { proxy.Latency(0) }},
		{"down", proxy.Down, 3 * time.Second, proxy.Resume},
		{"black hole", func() { proxy.Blackhole() }, 6 * time.Second, proxy.Resume},
		{"black hole there", func() { proxy.Blackhole(testenv.ToTarget) }, 6 * time.Second, proxy.Resume},
		{"black hole back", func() { proxy.Blackhole(testenv.ToClient) }, 6 * time.Second, proxy.Resume},
		{"black hole for ever", func() { t.do("lose the packets", proxy.Drop()) }, time.Second, proxy.Resume}, // what is open stays lost; new connections work
	} {
		f.begin()
		t.pass(f.last)
		f.end()
		began := time.Now()
		t.recovered()
		if d := time.Since(began); d > 2*time.Second {
			t.note("%s %.1fs;", f.name, d.Seconds())
		}
	}
}

// cutWhileSlow cuts the connections where most is on its way: what was asked for has been done, and the answer hasn't come.
func (t *trial) cutWhileSlow(proxy *testenv.TCPProxy) {
	t.Helper()
	proxy.Latency(100 * time.Millisecond)
	for range 8 {
		t.pass(400 * time.Millisecond)
		proxy.Cut()
	}
}
