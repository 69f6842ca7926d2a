package ws

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/http"
)

// errTooBig ends the reading of a connection whose client announces a frame that is too long.
var errTooBig = errors.New("frame is too long")

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
	limited := &limitedConn{Conn: conn}
	w.wire.Conn = limited
	reader := bufio.NewReaderSize(limited, readBuffer)
	if n := rw.Reader.Buffered(); n > 0 { // sent along with the request: its frames count too
		early, _ := rw.Reader.Peek(n)
		if err := limited.scan(early); err != nil {
			_ = conn.Close()
			return nil, nil, err
		}
		reader = bufio.NewReaderSize(io.MultiReader(bytes.NewReader(early), limited), max(n, readBuffer))
		_, _ = reader.Peek(n) // the library asks what is buffered
	}
	return w.wire, bufio.NewReadWriter(reader, bufio.NewWriterSize(w.wire, writeBuffer)), nil
}

// limitedConn refuses a frame by what its header announces: the library would wait for 2^62 bytes. It follows the frames without
// keeping any of them; everything else about them is the library's business.
type limitedConn struct {
	net.Conn
	refused bool // a frame was too long
	header  [10]byte
	have    int    // bytes in header
	skip    uint64 // of mask and payload still to come
}

// Read implements net.Conn.
func (c *limitedConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	for c.refused && err == nil { // a reset would overtake the close frame: take what comes until the client has read it
		_, err = c.Conn.Read(p)
	}
	if c.refused {
		return 0, err
	}
	if scanErr := c.scan(p[:n]); scanErr != nil {
		c.refused = true
		return 0, scanErr
	}
	return n, err
}

func (c *limitedConn) scan(b []byte) error {
	for len(b) > 0 {
		if c.skip > 0 {
			n := min(c.skip, uint64(len(b)))
			c.skip -= n
			b = b[n:]
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
		if c.skip = size; c.header[1]&0x80 != 0 {
			c.skip += 4
		}
		c.have = 0
	}
	return nil
}
