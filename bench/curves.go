//go:build linux

package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"
)

// curve is how cost grows with one quantity, everything else being equal.
type curve struct {
	name, axis string
	points     []int
	plan       func(n int) *plan
}

func curves() []curve {
	return []curve{
		{"connections", "connections in 100 programs, 200 tx/s", []int{500, 2000, 5000, 10_000}, func(n int) *plan { return &plan{programs: 100, clients: spread(n, 100), rate: 200} }},
		{"programs", "programs of 500 connections, 200 tx/s", []int{10, 100, 1000, 10_000}, func(n int) *plan { return &plan{programs: n, clients: wide(500, n, max(1, n/500)), rate: 200} }},
		{"per-user", "programs of each of 100 users, 500 programs, 100 tx/s", []int{1, 10, 100, 500}, func(n int) *plan { return &plan{programs: 500, clients: wide(100, 500, n), rate: 100} }},
		{"payload", "bytes of data, 500 connections, 100 tx/s", []int{100, 1000, 10_000, 100_000}, func(n int) *plan { return &plan{programs: 100, clients: spread(500, 100), rate: 100, size: n} }},
	}
}

// wide makes n clients of k programs each, evenly.
func wide(n, programs, k int) []client {
	list := spread(n, programs)
	for i := range list {
		for j := 1; j < k; j++ {
			list[i].programs = append(list[i].programs, (i+j*max(1, programs/k))%programs)
		}
	}
	return list
}

// complete fills in what all points have in common.
func (p *plan) complete(name string) *plan {
	p.name, p.kind, p.writers, p.loops, p.dialing = name, ours, 4, 1, 64
	p.warm, p.measure = time.Second, 3*time.Second
	p.size = max(p.size, 100)
	p.capacity = 16 + int(3*p.rate*(p.warm+p.measure).Seconds())/p.programs
	return p
}

// grow measures all curves and writes their plots into a folder.
func (s *stack) grow(ctx context.Context, folder string, stdout io.Writer) error {
	fmt.Fprintln(stdout, "| curve | n | p50, ms | p99, ms | CPU-s per million deliveries | server memory, MiB |\n|---|---|---|---|---|---|")
	for _, c := range curves() {
		latency, cpu := series{name: "p50, ms"}, series{name: "CPU-s per million deliveries"}
		for _, n := range c.points {
			r, err := s.play(ctx, c.plan(n).complete(fmt.Sprintf("%s-%d", c.name, n)))
			if err != nil {
				return fmt.Errorf("%s %d: %w", c.name, n, err)
			}
			latency.add(float64(n), milliseconds(r.p50))
			cpu.add(float64(n), r.perMillion)
			fmt.Fprintf(stdout, "| %s | %d | %s | %s | %s | %s |\n", c.name, n, figure(milliseconds(r.p50)), figure(milliseconds(r.p99)), figure(r.perMillion),
				figure(float64(r.maxServer)/mib))
		}
		path := filepath.Join(folder, "performance-"+c.name+".svg")
		if err := os.WriteFile(path, plot(c.axis, latency, cpu), 0o644); err != nil {
			return fmt.Errorf("keep a plot: %w", err)
		}
	}
	return nil
}
