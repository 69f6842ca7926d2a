package ws_test

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/outboxrelay/outboxrelay/internal/testenv"
	"github.com/outboxrelay/outboxrelay/ws"
)

const (
	fin  = 0x80
	text = 1
	blob = 2
	quit = 8
	ping = 9
	pong = 10
)

// frameOf is a masked frame; first holds FIN, reserved bits and opcode.
func frameOf(first byte, payload string) string {
	mask := [4]byte{0x12, 0x34, 0x56, 0x78}
	b := []byte{first}
	switch {
	case len(payload) < 126:
		b = append(b, 0x80|byte(len(payload)))
	case len(payload) < 1<<16:
		b = binary.BigEndian.AppendUint16(append(b, 0x80|126), uint16(len(payload)))
	default:
		b = binary.BigEndian.AppendUint64(append(b, 0x80|127), uint64(len(payload)))
	}
	b = append(b, mask[:]...)
	for i := range len(payload) {
		b = append(b, payload[i]^mask[i%4])
	}
	return string(b)
}

// closing is a close frame.
func closing(code uint16, reason string) string {
	return frameOf(fin|quit, string(binary.BigEndian.AppendUint16(nil, code))+reason)
}

type abuse struct {
	bytes string
	want  int // close code
}

func abuses() map[string]abuse {
	object := `{"type":"auth","token":"%s"}`
	head, tail, _ := strings.Cut(object, "%s")
	cases := map[string]abuse{
		"unmasked text":          {"\x81\x02{}", 1002},
		"unmasked ping":          {"\x89\x00", 1002},
		"unmasked close":         {"\x88\x02\x03\xe8", 1002},
		"fragmented ping":        {frameOf(ping, ""), 1002},
		"fragmented pong":        {frameOf(pong, ""), 1002},
		"fragmented close":       {frameOf(quit, ""), 1002},
		"ping of 126":            {frameOf(fin|ping, strings.Repeat("x", 126)), 1002},
		"pong of 126":            {frameOf(fin|pong, strings.Repeat("x", 126)), 1002},
		"close of 126":           {closing(1000, strings.Repeat("x", 124)), 1002},
		"close of 64 KiB":        {closing(1000, strings.Repeat("x", 65000)), 1002},
		"lone continuation":      {frameOf(fin, "{}"), 1002},
		"lone continuation, cut": {frameOf(0, "{}"), 1002},
		"text in a message":      {frameOf(text, head) + frameOf(fin|text, "{}"), 1002},
		"binary in a message":    {frameOf(text, head) + frameOf(fin|blob, "{}"), 1002},
		"close of 1 byte":        {frameOf(fin|quit, "\x03"), 1002},
		"close in a message":     {frameOf(text, head) + closing(1000, ""), 1000},
		"close with bad UTF-8":   {closing(1000, "bye \xff"), 1007},
		"close cut in a letter":  {closing(4000, "\xc3"), 1007},
		"close with a reason":    {closing(1000, "byé"), 1000},

		"bad UTF-8":                  {frameOf(fin|text, head+"\xff"+tail), 1007},
		"overlong UTF-8":             {frameOf(fin|text, head+"\xc0\xaf"+tail), 1007},
		"a surrogate":                {frameOf(fin|text, head+"\xed\xa0\x80"+tail), 1007},
		"bad UTF-8 over fragments":   {frameOf(text, head+"\xc3") + frameOf(0, "") + frameOf(fin, "("+tail), 1007},
		"cut UTF-8 at the end":       {frameOf(text, head+tail) + frameOf(fin, "\xe2\x82"), 1007},
		"a letter over fragments":    {frameOf(text, head+"\xc3") + frameOf(fin|ping, "") + frameOf(fin, "\xa4"+tail), 4500},
		"binary":                     {frameOf(fin|blob, "x"), 1003},
		"binary over fragments":      {frameOf(blob, "x") + frameOf(fin, "x"), 1003},
		"announces 4 EiB":            {"\x81\xff\x40\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00", 1009},
		"announces a negative size":  {"\x81\xff\xff\xff\xff\xff\xff\xff\xff\xff\x00\x00\x00\x00", 1009},
		"announces 64 KiB + 1":       {"\x81\xff\x00\x00\x00\x00\x00\x01\x00\x01\x00\x00\x00\x00", 1009},
		"continuation of 4 EiB":      {frameOf(text, head) + "\x80\xff\x40\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00", 1009},
		"64 KiB + 1 over fragments":  {frameOf(text, strings.Repeat(" ", 40<<10)) + frameOf(fin, strings.Repeat(" ", 24<<10+1)), 1009},
		"nothing but fragments":      {frameOf(text, "") + strings.Repeat(frameOf(0, ""), 1000) + frameOf(fin, ""), 1007},
		"a flood of pings":           {strings.Repeat(frameOf(fin|ping, "x"), 500), 4013},
		"a flood of pongs":           {strings.Repeat(frameOf(fin|pong, "x"), 500), 4013},
		"a flood of ping frames":     {strings.Repeat(frameOf(fin|text, `{"type":"ping"}`), 500), 4013},
		"deeply nested":              {frameOf(fin|text, strings.Repeat("[", 60<<10)), 1007},
		"a close code of its own":    {closing(4999, ""), 4999},
		"an HTTP request afterwards": {"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n", 1002},
	}
	for _, bit := range []byte{0x40, 0x20, 0x10} { // 0x40: compressed, which was not agreed upon
		cases[fmt.Sprintf("reserved bit %#x", bit)] = abuse{frameOf(fin|bit|text, "{}"), 1002}
		cases[fmt.Sprintf("reserved bit %#x of a ping", bit)] = abuse{frameOf(fin|bit|ping, ""), 1002}
	}
	for _, op := range []byte{3, 4, 5, 6, 7, 11, 12, 13, 14, 15} {
		cases[fmt.Sprintf("opcode %d", op)] = abuse{frameOf(fin|op, "{}"), 1002}
	}
	for _, code := range []uint16{0, 999, 1004, 1005, 1006, 1015, 1016, 2999, 5000, 65535} {
		cases[fmt.Sprintf("close code %d", code)] = abuse{closing(code, ""), 1002}
	}
	return cases
}

// TestFrameAbuse breaks the WebSocket protocol in every way, by raw TCP, with and without a token, while a bystander is connected: each
// gets the right close code, and the bystander notices nothing.
func TestFrameAbuse(t *testing.T) {
	t.Parallel()
	s := newStack(t)
	s.user("u1", "p1")
	s.user("bystander", "p1")
	s.relay()
	s.settled()
	n := s.node(func(c *ws.Config) { c.MaxPerUser, c.MaxUnauthenticated = -1, 1000 })
	bystander := n.connect("bystander")
	bystander.expect("ready", "live")
	token := authFrame(n.token("u1"))
	t.Run("all", func(t *testing.T) {
		for name, c := range abuses() {
			for _, authenticated := range []bool{false, true} {
				t.Run(fmt.Sprintf("%s, authenticated %v", name, authenticated), func(t *testing.T) {
					t.Parallel()
					if authenticated && c.want == 4500 {
						t.Skip("an auth frame is a renewal then, of the same verdict")
					}
					if !authenticated && strings.Contains(c.bytes, frameOf(fin|text, `{"type":"ping"}`)) {
						t.Skip("a ping instead of a token is refused before, or not: both are right")
					}
					conn, r := n.raw()
					defer conn.Close()
					if authenticated {
						_, _ = io.WriteString(conn, frameOf(fin|text, token))
						awaitLive(t, r)
					}
					go func() { _, _ = io.WriteString(conn, c.bytes) }() // the answer may come before all of it has been sent
					if got := closeCode(r); got != c.want {
						t.Errorf("closed with %d, want %d", got, c.want)
					}
				})
			}
		}
	})
	s.emit("p1", 1, 3)
	bystander.expect(events("p1", 1, 3)...)
	bystander.send(`{"type":"ping"}`)
	bystander.expect("pong")
	testenv.Eventually(t, 20*time.Second, func() error { return n.connections(1) })
}

// awaitLive reads frames, unmasked as a server sends them, up to live.
func awaitLive(t *testing.T, r *bufio.Reader) {
	t.Helper()
	for {
		b := make([]byte, 2)
		if _, err := io.ReadFull(r, b); err != nil || b[1] >= 126 {
			t.Fatalf("frame %x (%v)", b, err)
		}
		payload := make([]byte, b[1])
		if _, err := io.ReadFull(r, payload); err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(payload), `"live"`) {
			return
		}
	}
}

// TestFrameThatNeverComes: a header, or a part of one, and then silence.
func TestFrameThatNeverComes(t *testing.T) {
	t.Parallel()
	s := newStack(t)
	s.user("u1")
	n := s.node(func(c *ws.Config) {
		c.AuthTimeout, c.PingInterval, c.PingTimeout = 300*time.Millisecond, 100*time.Millisecond, 300*time.Millisecond
	})
	token := frameOf(fin|text, authFrame(n.token("u1")))
	for name, c := range map[string]struct {
		before, bytes string
		want          int
	}{
		"half a header":        {"", "\x81", 4502},
		"half a length":        {"", "\x81\xff\x00\x00", 4502},
		"half a message":       {"", "\x81\xfe\x80\x00\x00\x00\x00\x00{", 4502},
		"half a ping":          {"", "\x89\xfd", 4502},
		"half a close":         {"", "\x88\x82\x00", 4502},
		"then half a header":   {token, "\x81", 4002},
		"then half a message":  {token, "\x81\xfe\x80\x00\x00\x00\x00\x00{", 4002},
		"then half a ping":     {token, "\x89\xfd", 4002},
		"then half a fragment": {token, "\x01\x81\x00\x00\x00\x00{", 4002},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			conn, r := n.raw()
			_, _ = io.WriteString(conn, c.before)
			if c.before != "" {
				awaitLive(t, r)
			}
			_, _ = io.WriteString(conn, c.bytes)
			if got := closeCode(r); got != c.want {
				t.Errorf("closed with %d, want %d", got, c.want)
			}
		})
	}
}

// TestEarlyFrames: frames that came along with the request are under the same watch.
func TestEarlyFrames(t *testing.T) {
	t.Parallel()
	n := newStack(t).node(nil)
	address := strings.TrimPrefix(n.url, "ws://")
	for bytes, want := range map[string]int{
		frameOf(fin|text, `{"type":"auth","token":"x"}`):           4500,
		"\x81\xff\x40\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00": 1009,
	} {
		conn, err := net.Dial("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
		fmt.Fprintf(conn, "GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"+
			"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n%s", bytes)
		r := bufio.NewReader(conn)
		for line := "x"; strings.TrimSpace(line) != ""; { // the head of the answer, if there is one
			if line, err = r.ReadString('\n'); err != nil {
				break
			}
		}
		if got := closeCode(r); got != want {
			t.Errorf("%x: closed with %d, want %d", bytes, got, want)
		}
	}
}
