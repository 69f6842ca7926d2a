package ws

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/http"
	"sync/atomic"
	"syscall"
	"unicode/utf8"
)

// What ends the reading of a connection.
var (
	errTooBig    = errors.New("frame is too long") // or would be: it is announced
	errBadReason = errors.New("reason for closing isn't UTF-8")
	errIdle      = errors.New("no message has begun") // only until await returns
)

const (
	opClose    = 8   // opcode of a close frame
	maxControl = 125 // bytes in a control frame
)

const (
	readBuffer  = 256 // bytes; clients send little
	writeBuffer = 128 // bytes; a control frame has at most 127
)

// limitedWriter hands out its connection with a watch on the headers of the client's frames, and keeps it as wire. The server's own
// buffers, 8 KiB for each connection, are left behind.
type limitedWriter struct {
	http.ResponseWriter
	wire *wire // once hijacked
}

// Hijack implements http.Hijacker.
func (w *limitedWriter) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn, rw, err := http.NewResponseController(w.ResponseWriter).Hijack()
	if err != nil {
		return nil, nil, err
	}
	limited := newLimitedConn(conn)
	w.wire.limitedConn = limited
	reader := bufio.NewReaderSize(limited, readBuffer)
	if n := rw.Reader.Buffered(); n > 0 { // sent along with the request: its frames count too
		early, _ := rw.Reader.Peek(n)
		limited.refused = limited.scan(early)
		limited.early = limited.refused != nil
		reader = bufio.NewReaderSize(io.MultiReader(bytes.NewReader(early), limited), max(n, readBuffer))
		_, _ = reader.Peek(n) // the library asks what is buffered
	}
	return w.wire, bufio.NewReadWriter(reader, bufio.NewWriterSize(w.wire, writeBuffer)), nil
}

// limitedConn refuses a frame by what its header announces, for the library would wait for 2^62 bytes, and a close frame by its reason,
// which the library takes as it comes. It follows the frames without keeping any of them; everything else about them is the library's business.
type limitedConn struct {
	net.Conn
	refused error // why nothing is passed on any more
	early   bool  // … which the reader hasn't been told yet
	header  [10]byte
	have    int    // bytes in header
	skip    uint64 // of mask and payload still to come
	partial bool   // the last data frame wasn't its message's last
	closing []byte // mask and payload of a close frame so far; nil: of another one

	raw     syscall.RawConn // nil: it can't be waited for from outside, so that Read always blocks
	waiting atomic.Int32    // of the constants below
}

// What Read does where no message has begun.
const (
	waitInside  = iota // it blocks
	waitOutside        // it returns errIdle: the caller is to await
	waited             // once, it doesn't block
)

// newLimitedConn lets the reader wait outside if it can. What the library needs to read a frame is a stack of 4 KiB, and that for as long as it waits.
func newLimitedConn(conn net.Conn) *limitedConn {
	c := &limitedConn{Conn: conn}
	if sc, ok := conn.(syscall.Conn); ok && canPeek {
		if raw, err := sc.SyscallConn(); err == nil {
			c.raw = raw
			c.waiting.Store(waitOutside)
		}
	}
	return c
}

// await waits, in half that stack, until there is something to read.
func (c *limitedConn) await() error {
	if c.raw == nil {
		return nil
	}
	err := c.raw.Read(peek)
	c.waiting.CompareAndSwap(waitOutside, waited)
	return err
}

// block makes Read block from now on: whoever calls it can't await.
func (c *limitedConn) block() { c.waiting.Store(waitInside) }

// Read implements net.Conn.
func (c *limitedConn) Read(p []byte) (int, error) {
	if c.early {
		c.early = false
		return 0, c.refused
	}
	begun := c.have > 0 || c.skip > 0 || c.partial || c.refused != nil
	if !c.waiting.CompareAndSwap(waited, waitOutside) && !begun && c.waiting.Load() == waitOutside {
		return 0, errIdle
	}
	n, err := c.Conn.Read(p)
	for c.refused != nil && err == nil { // a reset would overtake the close frame: take what comes until the client has read it
		_, err = c.Conn.Read(p)
	}
	if c.refused != nil {
		return 0, err
	}
	if c.refused = c.scan(p[:n]); c.refused != nil {
		return 0, c.refused
	}
	return n, err
}

func (c *limitedConn) scan(b []byte) error {
	for len(b) > 0 {
		if c.skip > 0 {
			n := min(c.skip, uint64(len(b)))
			if c.closing != nil {
				c.closing = append(c.closing, b[:n]...)
			}
			c.skip -= n
			b = b[n:]
			if c.skip == 0 && badReason(c.closing) {
				return errBadReason
			}
			continue
		}
		c.header[c.have] = b[0]
		c.have++
		b = b[1:]
		need, size := 2, uint64(c.header[1]&0x7f)
		if c.have < 2 {
			continue
		}
		switch size {
		case 126:
			need, size = 4, uint64(binary.BigEndian.Uint16(c.header[2:]))
		case 127:
			need, size = 10, binary.BigEndian.Uint64(c.header[2:])
		}
		if c.have < need {
			continue
		}
		if size > maxMessage {
			return errTooBig
		}
		c.skip, c.have, c.closing = size, 0, nil
		if op := c.header[0] & opMask; op < opClose {
			c.partial = c.header[0]&final == 0
		}
		if c.header[1]&0x80 != 0 {
			c.skip += 4
			if c.header[0]&opMask == opClose && size <= maxControl {
				c.closing = make([]byte, 0, c.skip)
			}
		}
	}
	return nil
}

// badReason reports whether the close frame with this mask and payload gives a reason that isn't UTF-8.
func badReason(masked []byte) bool {
	const mask, code = 4, 2
	if len(masked) <= mask+code {
		return false
	}
	reason := make([]byte, 0, maxControl)
	for i := mask + code; i < len(masked); i++ {
		reason = append(reason, masked[i]^masked[(i-mask)%mask])
	}
	return !utf8.Valid(reason)
}
