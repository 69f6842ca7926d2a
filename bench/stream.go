//go:build linux

package main

import (
	"errors"
	"fmt"
	"strconv"
	"sync/atomic"
	"time"
)

// stream is the events of one writer in one program, numbered from 0.
type stream struct {
	id      int
	program string
	sent    []moment     // by number; its length bounds the stream
	next    atomic.Int64 // the number of the next event
}

// moment is when an event was made and when its COMMIT was sent, Unix nanoseconds.
type moment struct{ at, commit atomic.Int64 }

var errFull = errors.New("more events than the plan has room for: shorten the run or raise its capacity")

// make numbers the stream's next event and appends its data to b, padded to size bytes.
func (s *stream) make(b []byte, size int) ([]byte, *moment, error) {
	n := s.next.Load()
	if n == int64(len(s.sent)) {
		return b, nil, errFull
	}
	m := &s.sent[n]
	at := time.Now().UnixNano()
	m.at.Store(at)
	s.next.Store(n + 1)
	return appendData(b, s.id, n, at, size), m, nil
}

// appendData appends an event's data, a JSON object of about size bytes.
func appendData(b []byte, stream int, number, at int64, size int) []byte {
	start := len(b)
	b = append(b, `{"s":`...)
	b = strconv.AppendInt(b, int64(stream), 10)
	b = append(b, `,"n":`...)
	b = strconv.AppendInt(b, number, 10)
	b = append(b, `,"t":`...)
	b = strconv.AppendInt(b, at, 10)
	b = append(b, `,"title":"`...)
	for len(b)-start < size-2 {
		b = append(b, 'x')
	}
	return append(b, `"}`...)
}

// check compares an event that arrived with what was sent, and with the number that is due. It returns when its COMMIT was sent.
func (s *stream) check(e event, due int64) (commit int64, err error) {
	switch {
	case e.number < due:
		return 0, fmt.Errorf("event %d of stream %d in program %s: repeated, %d is due", e.number, s.id, s.program, due)
	case e.number > due:
		return 0, fmt.Errorf("event %d of stream %d in program %s: lost or reordered, %d is due", e.number, s.id, s.program, due)
	case e.number >= int64(len(s.sent)) || s.sent[e.number].at.Load() != e.at:
		return 0, fmt.Errorf("event %d of stream %d in program %s: not what was sent", e.number, s.id, s.program)
	}
	return s.sent[e.number].commit.Load(), nil
}
