//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// values are the figures of one run, by the metric's name.
type values map[string]float64

// scenario is a row or several of the table.
type scenario struct {
	name    string
	about   string
	kinds   []kind // what is run in each round, in this order
	play    func(ctx context.Context, s *stack, k kind) (values, error)
	metrics []metric
}

// metric is a figure of a scenario, and what it should be.
type metric struct {
	name, unit string
	target     target
}

// target is what a metric should reach. The zero value is none.
type target struct {
	ratio bool // of ours to the floor's, else of ours alone
	most  float64
	least float64
	none  bool // it must be 0
}

const mib = 1 << 20

func milliseconds(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// scenarios is all of them, in the order of the table.
func scenarios() []scenario {
	return []scenario{
		{
			name: "latency", about: "500 connections, 100 programs, 200 tx/s", kinds: []kind{ours, theFloor},
			play: func(ctx context.Context, s *stack, k kind) (values, error) { return s.steady(ctx, latencyPlan(k)) },
			metrics: []metric{
				{"p50", "ms", target{ratio: true, most: 2.2}},
				{"p99", "ms", target{ratio: true, most: 2.5}},
				{"server CPU", "%", target{}},
				{"load CPU", "%", target{}},
			},
		},
		{
			name: "throughput", about: "500 connections, 100 programs, 16 writers flat out", kinds: []kind{ours, theFloor},
			play: func(ctx context.Context, s *stack, k kind) (values, error) { return s.steady(ctx, throughputPlan(k)) },
			metrics: []metric{
				{"tx/s", "", target{ratio: true, least: 1.5}},
				{"p99", "ms", target{most: 40}},
				{"CPU-s per million", "s", target{most: 25}},
				{"server CPU", "%", target{}},
				{"redis CPU", "%", target{}},
				{"postgres CPU", "%", target{}},
				{"load CPU", "%", target{}},
			},
		},
		tax(1, 0.80), tax(16, 0.70), tax(64, 0.70),
		{
			name: "fanout", about: "1 program, 2,000 connections, p99 < 250 ms", kinds: []kind{ours, theFloor},
			play: fanout,
			metrics: []metric{
				{"deliveries/s", "", target{ratio: true, least: 2.9}},
				{"p99", "ms", target{most: 250}},
				{"CPU-s per million", "s", target{most: 2}},
				{"server CPU", "%", target{}},
				{"load CPU", "%", target{}},
			},
		},
		{
			name: "memory", about: "5,000 idle authenticated connections", kinds: []kind{ours, theFloor}, play: memory,
			metrics: []metric{{"per connection", "KiB", target{most: 12}}, {"base", "MiB", target{}}, {"connects/s", "", target{}}},
		},
		{
			name: "storm", about: "2,000 clients come back, 40 missed events each", kinds: []kind{ours}, play: storm,
			metrics: []metric{
				{"last caught up", "s", target{most: 0.6}},
				{"incomplete", "", target{none: true}},
				{"server CPU-s", "", target{}},
				{"load CPU-s", "", target{}},
				{"peak memory", "MiB", target{}},
			},
		},
		{
			name: "backlog", about: "100,000 events wait when the relay starts", kinds: []kind{ours}, play: backlog,
			metrics: []metric{{"events/s", "", target{least: 100_000}}, {"peak memory", "MiB", target{}}},
		},
	}
}

func latencyPlan(k kind) *plan {
	return &plan{
		name: "latency", kind: k, programs: 100, clients: spread(500, 100), writers: 4, rate: 200, size: 100, capacity: 1 << 12,
		warm: 1500 * time.Millisecond, measure: 5 * time.Second, loops: 1, dialing: 64,
	}
}

func throughputPlan(k kind) *plan {
	return &plan{
		name: "throughput", kind: k, programs: 100, clients: spread(500, 100), writers: 16, size: 100, capacity: 1 << 12,
		warm: time.Second, measure: 4 * time.Second, loops: 1, dialing: 64,
	}
}

func fanoutPlan(k kind) *plan {
	return &plan{
		name: "fanout", kind: k, programs: 1, clients: spread(2000, 1), batch: k == ours, writers: 4, size: 100,
		capacity: 1 << 16, warm: time.Second, measure: 4 * time.Second, loops: 2, dialing: 64,
	}
}

// steady plays a plan and reports what the writers and clients saw.
func (s *stack) steady(ctx context.Context, p *plan) (values, error) {
	r, err := s.play(ctx, p)
	share := func(d time.Duration) float64 { return 100 * d.Seconds() / r.seconds }
	return values{
		"p50": milliseconds(r.p50), "p99": milliseconds(r.p99), "tx/s": r.commits, "deliveries/s": r.deliveries, "CPU-s per million": r.perMillion,
		"server CPU": share(r.cpu.server), "redis CPU": share(r.cpu.redis), "postgres CPU": share(r.cpu.postgres), "load CPU": share(r.cpu.load),
		"peak memory": float64(r.maxServer) / mib,
	}, err
}

// tax measures the share of their transactions that n writers keep, beside one client that sees all events.
func tax(n int, least float64) scenario {
	return scenario{
		name: fmt.Sprintf("tax-%d", n), about: fmt.Sprintf("%d writers: share of the tx/s without events that is left", n), kinds: []kind{alone, ours, theFloor},
		play: func(ctx context.Context, s *stack, k kind) (values, error) {
			r, err := s.play(ctx, &plan{
				name: fmt.Sprintf("tax-%d", n), kind: k, programs: 128, clients: []client{observer(128)}, batch: k == ours, writers: n, size: 100,
				capacity: 1 << 14, warm: 700 * time.Millisecond, measure: 2 * time.Second, loops: 1, dialing: 64,
			})
			return values{shareKept: r.commits, "tx/s": r.commits}, err
		},
		metrics: []metric{{shareKept, "", target{least: least}}, {"tx/s", "", target{}}},
	}
}

// fanout lets as many events wait as the latency allows.
func fanout(ctx context.Context, s *stack, k kind) (v values, err error) {
	for lag := 100 * time.Millisecond; lag > 10*time.Millisecond; lag /= 2 {
		p := fanoutPlan(k)
		p.lag = lag
		if v, err = s.steady(ctx, p); err != nil || v["p99"] < 250 {
			break
		}
	}
	return v, err
}

// memory measures what an idle connection costs.
func memory(ctx context.Context, s *stack, k kind) (v values, err error) {
	const n = 5000
	p := &plan{name: "memory", kind: k, programs: 100, clients: spread(n, 100), writers: 1, loops: 1, dialing: 64, capacity: 1}
	a, err := s.open(ctx, p)
	defer func() { err = errors.Join(err, a.close(ctx)) }()
	if err != nil {
		return nil, err
	}
	if err := a.serve(ctx); err != nil {
		return nil, err
	}
	before, err := a.server.memory(ctx)
	if err != nil {
		return nil, err
	}
	if ctx, err = a.assemble(ctx, ""); err != nil {
		return nil, err
	}
	began := time.Now()
	if err := a.crowd.connect(ctx, p.dialing); err != nil {
		return nil, err
	}
	took := time.Since(began)
	after, err := a.server.memory(ctx)
	if err != nil {
		return nil, err
	}
	p.measure = time.Second
	if err := a.profile(ctx); err != nil {
		return nil, err
	}
	return values{
		"per connection": float64(after-before) / n / 1024, "base": float64(before) / mib, "connects/s": n / took.Seconds(),
	}, a.dismiss()
}
