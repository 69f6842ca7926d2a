//go:build linux

package main

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// The opcodes of RFC 6455 that a client meets.
const (
	opText  = 1
	opClose = 8
	opPing  = 9
	opPong  = 10
)

// maxFrame bounds a server's frame: an event with the largest data, or a batch.
const maxFrame = 1 << 20

// nextFrame takes the first frame off b. size is what it occupies there; 0: it is incomplete.
func nextFrame(b []byte) (opcode byte, payload []byte, size int, err error) {
	if len(b) < 2 {
		return 0, nil, 0, nil
	}
	if b[0]&0x80 == 0 || b[0]&0x70 != 0 || b[1]&0x80 != 0 {
		return 0, nil, 0, fmt.Errorf("frame header %x %x: a fragment, an extension or a masked frame", b[0], b[1])
	}
	head, n := 2, int(b[1])
	switch n {
	case 126:
		if head = 4; len(b) < head {
			return 0, nil, 0, nil
		}
		n = int(binary.BigEndian.Uint16(b[2:]))
	case 127:
		if head = 10; len(b) < head {
			return 0, nil, 0, nil
		}
		long := binary.BigEndian.Uint64(b[2:])
		if long > maxFrame {
			return 0, nil, 0, fmt.Errorf("a frame of %d bytes", long)
		}
		n = int(long)
	}
	if len(b) < head+n {
		return 0, nil, 0, nil
	}
	return b[0] & 0x0f, b[head : head+n], head + n, nil
}

// appendFrame appends a client's frame. It is masked with zeros: what is sent is the payload itself.
func appendFrame(b []byte, opcode byte, payload []byte) []byte {
	b = append(b, 0x80|opcode)
	switch n := len(payload); {
	case n < 126:
		b = append(b, 0x80|byte(n))
	case n < 1<<16:
		b = append(b, 0x80|126)
		b = binary.BigEndian.AppendUint16(b, uint16(n))
	default:
		b = append(b, 0x80|127)
		b = binary.BigEndian.AppendUint64(b, uint64(n))
	}
	b = append(b, 0, 0, 0, 0)
	return append(b, payload...)
}

// mark begins the data of every event that a writer makes: {"s":stream,"n":number,"t":nanoseconds,…}.
const mark = `"data":{"s":`

var errMark = errors.New("an event without stream, number and time")

// event is what an event says about itself.
type event struct {
	stream int
	number int64 // from 0
	at     int64 // when it was made, Unix nanoseconds
}

// parseEvent reads what follows a mark.
func parseEvent(b []byte) (e event, err error) {
	var stream int64
	for _, field := range []struct {
		to   *int64
		then string
	}{{&stream, `,"n":`}, {&e.number, `,"t":`}, {&e.at, ""}} {
		if *field.to, b = number(b); b == nil || len(b) < len(field.then) || string(b[:len(field.then)]) != field.then {
			return event{}, errMark
		}
		b = b[len(field.then):]
	}
	e.stream = int(stream)
	return e, nil
}

// number reads decimal digits and returns what follows them; nil if there are none.
func number(b []byte) (n int64, rest []byte) {
	i := 0
	for ; i < len(b) && b[i] >= '0' && b[i] <= '9'; i++ {
		n = 10*n + int64(b[i]-'0')
	}
	if i == 0 {
		return 0, nil
	}
	return n, b[i:]
}
