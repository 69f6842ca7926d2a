//go:build linux

package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
)

// kind is what a run measures.
type kind int

const (
	ours     kind = iota // outbox-relay: the writers insert into the outbox
	theFloor             // the floor: the writers notify
	alone                // nothing: the writers only make their change
)

func (k kind) String() string { return [...]string{"ours", "floor", "alone"}[k] }

// writer commits transactions on a connection of its own: a change of one row, and its event. It makes two round trips: the statements, then COMMIT.
type writer struct {
	kind    kind
	conn    *pgconn.PgConn
	streams []*stream // its own, taken in turn
	size    int       // of the data, bytes
	first   int       // of the rows that only this writer changes; the hundred from there
	turn    int
	data    []byte
	message []byte
	commits *atomic.Int64
	inTime  *window
}

// stride is how far a writer goes from one of its streams to the next: a prime, so that a short run meets programs from all over.
const stride = 7919

// The statements that a writer prepares.
const (
	changeSQL = "UPDATE public.items SET value = value + 1 WHERE id = $1"
	insertSQL = `INSERT INTO relay.outbox (program_id, event, data, performed_by_id, performed_by_name) VALUES ($1, 'request:updated', $2, 'u0', 'Ann Lee')`
	notifySQL = "SELECT pg_notify('" + floorChannel + "', $1)"
)

func (w *writer) open(ctx context.Context, databaseURL string) (err error) {
	if w.conn, err = pgconn.Connect(ctx, databaseURL); err != nil {
		return fmt.Errorf("connect a writer: %w", err)
	}
	for name, sql := range map[string]string{"begin": "BEGIN", "change": changeSQL, "insert": insertSQL, "notify": notifySQL} {
		if _, err := w.conn.Prepare(ctx, name, sql, nil); err != nil {
			return fmt.Errorf("prepare %s: %w", sql, err)
		}
	}
	return nil
}

// run commits until done says so, paced by next, which returns when the next transaction is due.
func (w *writer) run(ctx context.Context, next func() bool) error {
	for next() {
		if err := w.commit(ctx); err != nil {
			return fmt.Errorf("commit: %w", err)
		}
	}
	return nil
}

// commit makes one transaction. An event's time is that just before COMMIT is sent.
func (w *writer) commit(ctx context.Context) error {
	var b pgconn.Batch
	row := strconv.Itoa(w.first + rand.IntN(100))
	b.ExecPrepared("begin", nil, nil, nil)
	b.ExecPrepared("change", [][]byte{[]byte(row)}, nil, nil)
	m, err := w.emit(&b)
	if err != nil {
		return err
	}
	if err := w.conn.ExecBatch(ctx, &b).Close(); err != nil {
		return err
	}
	if m != nil {
		m.commit.Store(time.Now().UnixNano())
	}
	if err := w.conn.Exec(ctx, "COMMIT").Close(); err != nil {
		return err
	}
	if w.inTime.has(time.Now().UnixNano()) {
		w.commits.Add(1)
	}
	return nil
}

// emit adds the statement that makes the event.
func (w *writer) emit(b *pgconn.Batch) (m *moment, err error) {
	if w.kind == alone {
		return nil, nil
	}
	s := w.streams[w.turn%len(w.streams)]
	w.turn += stride
	if w.data, m, err = s.make(w.data[:0], w.size); err != nil {
		return nil, err
	}
	if w.kind == ours {
		b.ExecPrepared("insert", [][]byte{[]byte(s.program), w.data}, nil, nil)
		return m, nil
	}
	w.message = appendMessage(w.message[:0], s.program, w.data)
	b.ExecPrepared("notify", [][]byte{w.message}, nil, nil)
	return m, nil
}

// appendMessage appends the payload of the floor's NOTIFY. The message in it is as long as a frame of outbox-relay.
func appendMessage(b []byte, program string, data []byte) []byte {
	b = append(b, program...)
	b = append(b, ` {"type":"event","id":"100000","position":"1764000000000000","event":"request:updated","programId":"`...)
	b = append(b, program...)
	b = append(b, `","data":`...)
	b = append(b, data...)
	return append(b, `,"performedBy":{"userId":"u0","name":"Ann Lee"},"timestamp":"2025-11-24T16:00:00.000120Z"}`...)
}

// flatOut lets a writer commit without a pause until ctx ends.
func flatOut(ctx context.Context) func() bool {
	return func() bool { return ctx.Err() == nil }
}

// paced lets the i-th of n writers commit so that all of them make rate transactions a second, evenly.
func paced(ctx context.Context, i, n int, rate float64) func() bool {
	every := time.Duration(float64(time.Second) * float64(n) / rate)
	due := time.Now().Add(every * time.Duration(i) / time.Duration(n))
	timer := time.NewTimer(0)
	return func() bool {
		timer.Reset(time.Until(due))
		select {
		case <-ctx.Done():
			timer.Stop()
			return false
		case <-timer.C:
		}
		due = due.Add(every)
		return true
	}
}
