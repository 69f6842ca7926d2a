package ws

import (
	"encoding/binary"
	"net"
	"sync"
	"time"
)

// message is a text message of the server as it goes over the wire: the header of its only frame, and the payload (RFC 6455 section
// 5.2). A server's frames carry no mask, so that one message serves every client.
type message []byte

const (
	final     = 0x80
	finalText = final | 0x1
	finalPing = final | 0x9
	finalPong = final | 0xa
	opMask    = 0xf
)

// seal makes a message of a payload.
func seal(payload []byte) message {
	m := make([]byte, 0, headerSize(len(payload))+len(payload))
	return append(appendHeader(m, finalText, len(payload)), payload...)
}

// payload returns what was sealed.
func (m message) payload() []byte {
	switch m[1] {
	case 126:
		return m[4:]
	case 127:
		return m[10:]
	}
	return m[2:]
}

func headerSize(n int) int {
	switch {
	case n < 126:
		return 2
	case n < 1<<16:
		return 4
	}
	return 10
}

func appendHeader(b []byte, first byte, n int) []byte {
	switch headerSize(n) {
	case 2:
		return append(b, first, byte(n))
	case 4:
		return binary.BigEndian.AppendUint16(append(b, first, 126), uint16(n))
	}
	return binary.BigEndian.AppendUint64(append(b, first, 127), uint64(n))
}

// join makes one write of messages: for a client that takes batches one message that is an array of them, else one after the other.
func join(list []message, batch bool) []byte {
	size := 0
	for _, m := range list {
		size += len(m)
	}
	if !batch {
		b := make([]byte, 0, size)
		for _, m := range list {
			b = append(b, m...)
		}
		return b
	}
	size = 1 + len(list) // brackets and commas
	for _, m := range list {
		size += len(m.payload())
	}
	b := appendHeader(make([]byte, 0, headerSize(size)+size), finalText, size)
	for i, m := range list {
		if i == 0 {
			b = append(b, '[')
		} else {
			b = append(b, ',')
		}
		b = append(b, m.payload()...)
	}
	return append(b, ']')
}

// wire is a connection under the library, which reads from it and writes close frames. Everything else is written to it directly: it is
// ready already, and needs no buffer of the connection's own.
type wire struct {
	*limitedConn
	timeout time.Duration // a write that takes longer is late; it is given up at 1.25 to 1.5 times that

	mu       sync.Mutex
	ended    bool // by a close frame, which nothing may follow (RFC 6455 section 5.5.1), or by a failed write
	deadline time.Time
}

// Write implements net.Conn for the library. Each call is a whole frame, because its buffer holds any control frame.
func (w *wire) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	n, err := w.write(p, time.Now())
	w.ended = w.ended || p[0]&opMask == opClose
	return n, err
}

// send writes whole frames. After an error the connection is of no more use.
func (w *wire) send(frames []byte, now time.Time) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	_, err := w.write(frames, now)
	return err
}

// write is called with mu held.
func (w *wire) write(p []byte, now time.Time) (int, error) {
	if w.ended {
		return 0, net.ErrClosed
	}
	if w.deadline.Sub(now) < w.timeout*5/4 { // moved when it has come too near, not with every write
		w.deadline = now.Add(w.timeout * 3 / 2)
		_ = w.SetWriteDeadline(w.deadline) // a closed connection says so at the write
	}
	n, err := w.Conn.Write(p)
	w.ended = err != nil
	return n, err
}
