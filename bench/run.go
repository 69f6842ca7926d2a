//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"
)

// result is what the measured window of a run has seen.
type result struct {
	seconds    float64
	commits    float64 // a second
	deliveries float64 // a second
	p50, p99   time.Duration
	maxServer  int64   // most memory of the server until now, bytes
	cpu        cpuUse  // of the window
	perMillion float64 // CPU-seconds of the server per million deliveries
}

// cpuUse is CPU time by who has used it.
type cpuUse struct{ server, redis, postgres, load time.Duration }

func (a cpuUse) since(b cpuUse) cpuUse {
	return cpuUse{a.server - b.server, a.redis - b.redis, a.postgres - b.postgres, a.load - b.load}
}

func (a *arena) cpu() cpuUse {
	var self syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &self)
	use := cpuUse{load: time.Duration(self.Utime.Nano() + self.Stime.Nano())}
	if a.server != nil {
		use.server = cpuTime(a.server.pid())
	}
	if pid := a.redis.Pid(); pid != 0 {
		use.redis = cpuTime(pid)
	}
	if pid := a.postgres.Pid(); pid != 0 {
		use.postgres = familyTime(pid)
	}
	return use
}

// drainTime is how long after the last commit everything must have arrived.
const drainTime = 20 * time.Second

// play runs a plan from beginning to end.
func (s *stack) play(ctx context.Context, p *plan) (r result, err error) {
	a, err := s.open(ctx, p)
	defer func() { err = errors.Join(err, a.close(ctx)) }()
	if err != nil {
		return r, err
	}
	if err := a.serve(ctx); err != nil {
		return r, err
	}
	if len(p.clients) > 0 && p.kind != alone {
		if ctx, err = a.assemble(ctx, ""); err != nil {
			return r, err
		}
		if err := a.crowd.connect(ctx, p.dialing); err != nil {
			return r, errors.Join(err, a.dismiss())
		}
	}
	if r, err = a.load(ctx); err != nil {
		return r, errors.Join(err, a.dismiss())
	}
	return r, a.dismiss()
}

// load lets the writers write for the plan's time, and waits until everything has arrived.
func (a *arena) load(ctx context.Context) (r result, err error) {
	writers, err := a.writers(ctx)
	defer func() {
		for _, w := range writers {
			_ = w.conn.Close(context.WithoutCancel(ctx))
		}
	}()
	if err != nil {
		return r, err
	}
	var commits atomic.Int64
	writing, stop := context.WithCancel(ctx)
	defer stop()
	group, failed := errgroup.WithContext(ctx)
	for i, w := range writers {
		w.commits = &commits
		next := flatOut(writing)
		switch {
		case a.plan.lag > 0:
			next = a.within(writing, a.plan.lag)
		case a.plan.rate > 0:
			next = paced(writing, i, len(writers), a.plan.rate)
		}
		group.Go(func() error { return w.run(ctx, next) })
	}
	r, err = a.measure(failed, &commits)
	stop()
	if err := errors.Join(err, group.Wait()); err != nil {
		return r, err
	}
	if a.crowd == nil {
		return r, nil
	}
	if err := a.crowd.drained(ctx, a.expected(), drainTime); err != nil {
		return r, err
	}
	h := a.crowd.histogram()
	r.p50, r.p99 = h.quantile(0.5), h.quantile(0.99)
	return r, a.relayed(ctx)
}

// measure opens the window after the warm-up and closes it after the plan's time.
func (a *arena) measure(ctx context.Context, commits *atomic.Int64) (r result, err error) {
	if !sleep(ctx, a.plan.warm) {
		return r, context.Cause(ctx)
	}
	profiles := make(chan error, 1)
	go func() { profiles <- a.profile(ctx) }()
	began, before, delivered := time.Now(), a.cpu(), a.arrived()
	a.window.from.Store(began.UnixNano())
	whole := sleep(ctx, a.plan.measure)
	ended := time.Now()
	a.window.to.Store(ended.UnixNano())
	r.cpu = a.cpu().since(before)
	r.seconds = ended.Sub(began).Seconds()
	arrived := float64(a.arrived() - delivered)
	r.commits, r.deliveries = float64(commits.Load())/r.seconds, arrived/r.seconds
	if arrived > 0 {
		r.perMillion = r.cpu.server.Seconds() / arrived * 1e6
	}
	if a.server != nil {
		r.maxServer, _ = status(a.server.pid(), "VmHWM:")
	}
	if !whole {
		return r, context.Cause(ctx)
	}
	return r, <-profiles
}

func (a *arena) arrived() int64 {
	if a.crowd == nil {
		return 0
	}
	return a.crowd.delivered()
}

// within lets writers commit as long as the oldest event that hasn't reached every client isn't older than lag. All clients have the same programs.
func (a *arena) within(ctx context.Context, lag time.Duration) func() bool {
	clients := int64(len(a.plan.clients))
	return func() bool {
		for ctx.Err() == nil {
			var sent, oldest int64
			for _, s := range a.streams {
				sent += s.next.Load()
			}
			behind := sent - a.crowd.delivered()/clients // events
			for _, s := range a.streams {
				// The streams advance together: the oldest is as far behind in each of them.
				if n := s.next.Load() - 1 - behind/int64(len(a.streams)); n >= 0 {
					oldest = s.sent[n].at.Load()
				}
			}
			if behind == 0 || oldest == 0 || time.Now().UnixNano()-oldest < lag.Nanoseconds() {
				return true
			}
			sleep(ctx, time.Millisecond)
		}
		return false
	}
}

// profile takes a CPU profile during the window and a heap profile at its end, if there is a folder for them.
func (a *arena) profile(ctx context.Context) error {
	if a.profiles == "" || a.server == nil {
		return nil
	}
	for name, path := range map[string]string{
		"cpu":  fmt.Sprintf("/debug/pprof/profile?seconds=%.0f", max(1, a.plan.measure.Seconds()-1)),
		"heap": "/debug/pprof/heap", "allocs": "/debug/pprof/allocs",
	} {
		f, err := os.Create(filepath.Join(a.profiles, fmt.Sprintf("%s-%s-%s.pprof", a.plan.name, a.plan.kind, name)))
		if err != nil {
			return fmt.Errorf("keep a profile: %w", err)
		}
		err = a.server.call(ctx, "GET", path, f)
		if err := errors.Join(err, f.Close()); err != nil {
			return fmt.Errorf("take a profile: %w", err)
		}
	}
	return nil
}

// sleep waits for d and reports whether ctx is still alive.
func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}
