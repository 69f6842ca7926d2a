//go:build linux

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
)

// storm lets 2,000 clients come back at once, each of which has missed 40 events, and measures until the last one has them. A client that isn't given all of
// them, or a gap instead, fails the run.
func storm(ctx context.Context, s *stack, k kind) (v values, err error) {
	const programs, missed = 100, 40
	clients := spread(2000, programs)
	p := &plan{
		name: "storm", kind: k, programs: programs, clients: append(clients, observer(programs)), writers: 4, size: 100, capacity: missed,
		measure: 2 * time.Second, loops: 2, dialing: len(clients),
	}
	a, err := s.open(ctx, p)
	defer func() { err = errors.Join(err, a.close(ctx)) }()
	if err != nil {
		return nil, err
	}
	if err := a.serve(ctx); err != nil {
		return nil, err
	}
	since, err := a.miss(ctx, missed)
	if err != nil {
		return nil, err
	}
	p.clients = clients
	peers, err := p.peers(a.server.address, since, a.streams)
	if err != nil {
		return nil, err
	}
	for _, peer := range peers {
		clear(peer.next) // what was sent is what they missed
	}
	if ctx, err = a.assembleOf(ctx, peers); err != nil {
		return nil, err
	}
	profiles := make(chan error, 1)
	go func() { profiles <- a.profile(ctx) }()
	before, began := a.cpu(), time.Now()
	if err := a.crowd.connect(ctx, p.dialing); err != nil {
		return nil, err
	}
	if err := a.crowd.drained(ctx, a.expected(), drainTime); err != nil {
		return nil, err
	}
	took, use := time.Since(began), a.cpu().since(before)
	peak, err := status(a.server.pid(), "VmHWM:")
	err = errors.Join(err, <-profiles)
	return values{
		"last caught up": took.Seconds(), "incomplete": 0, "server CPU-s": use.server.Seconds(), "load CPU-s": use.load.Seconds(), "peak memory": float64(peak) / mib,
	}, errors.Join(err, a.dismiss())
}

// miss writes a number of events to every program while only one client is there, and returns the position that all clients had seen before.
func (a *arena) miss(ctx context.Context, events int) (since string, err error) {
	all := a.plan.clients
	a.plan.clients = all[len(all)-1:]
	if ctx, err = a.assemble(ctx, ""); err != nil {
		return "", err
	}
	if err := a.crowd.connect(ctx, 1); err != nil {
		return "", errors.Join(err, a.dismiss())
	}
	if err := a.conn.QueryRow(ctx, "SELECT max(position)::text FROM relay.ticks").Scan(&since); err != nil {
		return "", errors.Join(fmt.Errorf("read the newest tick: %w", err), a.dismiss())
	}
	writers, err := a.writers(ctx)
	for _, w := range writers {
		for range events * len(w.streams) {
			if err == nil {
				err = w.commit(ctx)
			}
		}
		_ = w.conn.Close(context.WithoutCancel(ctx))
	}
	if err == nil {
		err = a.crowd.drained(ctx, a.expected(), drainTime)
	}
	return since, errors.Join(err, a.dismiss())
}

// backlog starts the relay where 100,000 events wait already.
func backlog(ctx context.Context, s *stack, k kind) (v values, err error) {
	const programs, events = 100, 100_000
	p := &plan{name: "backlog", kind: k, programs: programs, writers: 1, size: 100, capacity: 1, measure: time.Second}
	a, err := s.open(ctx, p)
	defer func() { err = errors.Join(err, a.close(ctx)) }()
	if err != nil {
		return nil, err
	}
	_, err = a.conn.Exec(ctx, `INSERT INTO relay.outbox (program_id, event, data, performed_by_id, performed_by_name)
		SELECT 'p' || g % $1, 'request:updated', format('{"s":%s,"n":%s,"t":1,"title":"%s"}', g % $1, g / $1, repeat('x', 60))::json, 'u0', 'Ann Lee'
		FROM generate_series(0, $2::int - 1) g`, programs, events)
	if err == nil {
		_, err = a.conn.Exec(ctx, "VACUUM (ANALYZE) relay.outbox")
	}
	if err != nil {
		return nil, fmt.Errorf("fill the outbox: %w", err)
	}
	if err := a.start(ctx); err != nil {
		return nil, err
	}
	err = a.until(ctx, time.Minute, "the backlog isn't in Redis", func() (bool, error) {
		head, err := a.client.Get(ctx, "socket:events:head").Result()
		if errors.Is(err, redis.Nil) || strings.HasSuffix(head, ":0") {
			return false, nil
		}
		return err == nil, err
	})
	if err != nil {
		return nil, err
	}
	took := time.Since(a.server.began)
	peak, err := status(a.server.pid(), "VmHWM:")
	if err != nil {
		return nil, err
	}
	return values{"events/s": events / took.Seconds(), "peak memory": float64(peak) / mib}, a.logged(ctx, programs, events/programs)
}

// logged checks that each program's log in Redis holds its events, all of them once and in their order.
func (a *arena) logged(ctx context.Context, programs, events int) error {
	for p := range programs {
		entries, err := a.client.ZRange(ctx, "socket:events:program:"+programName(p), 0, -1).Result()
		if err != nil || len(entries) != events {
			return fmt.Errorf("the log of %s has %d events, want %d (%w)", programName(p), len(entries), events, err)
		}
		for i, entry := range entries {
			_, rest, _ := bytes.Cut([]byte(entry), eventMark)
			e, err := parseEvent(rest)
			if err != nil || e.stream != p || e.number != int64(i) {
				return errors.New("the log of " + programName(p) + ": event " + strconv.Itoa(i) + " is lost, repeated or reordered: " + entry)
			}
		}
	}
	return nil
}
