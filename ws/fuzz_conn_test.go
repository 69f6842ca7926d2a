package ws

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"runtime"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/outboxrelay/outboxrelay/auth"
)

// pipes is a listener in memory: a fuzz target connects more often than there are ports.
type pipes struct {
	conns chan net.Conn
	done  chan struct{}
}

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		return c, nil
	case <-p.done:
		return nil, net.ErrClosed
	}
}

func (p *pipes) Close() error   { close(p.done); return nil }
func (p *pipes) Addr() net.Addr { return &net.UnixAddr{} }

// silent is the log of a hub that nobody logs in to: it is never read.
type silent struct{ Log }

func (silent) Watch(ctx context.Context, _ func(string, News)) error {
	<-ctx.Done()
	return ctx.Err()
}

// strangers is a hub behind pipes whose clients have no token, and so nothing behind it but its own code.
func strangers(f *testing.F) (*Hub, *pipes) {
	f.Helper()
	verifier, err := auth.NewVerifier(auth.Config{Secret: []byte("kJ8sd7FhQ2mZx0PvLr5TnYw3BcEu6AgD")})
	if err != nil {
		f.Fatal(err)
	}
	pool, err := pgxpool.New(f.Context(), "postgres://nowhere.invalid")
	if err != nil {
		f.Fatal(err)
	}
	h, err := New(Config{
		Log: silent{}, Auth: verifier, Store: auth.NewStore(pool), Logger: slog.New(slog.DiscardHandler),
		ShutdownGrace: time.Millisecond, MessageBurst: 1000,
	})
	if err != nil {
		f.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 2)
	p := &pipes{conns: make(chan net.Conn), done: make(chan struct{})}
	server := &http.Server{Handler: h}
	go func() { ended <- h.Run(ctx) }()
	go func() { ended <- server.Serve(p) }()
	f.Cleanup(func() {
		cancel()
		_ = server.Close()
		<-ended
		<-ended
		pool.Close()
	})
	for !h.accepting() {
		runtime.Gosched() // Run says nothing when it has begun
	}
	return h, p
}

// FuzzConnection: whatever follows the upgrade, the server says nothing but whole, valid frames, and is rid of the socket when its client has gone.
func FuzzConnection(f *testing.F) {
	frame := func(first byte, payload string) string {
		return string([]byte{first, 0x80 | byte(len(payload)), 0, 0, 0, 0}) + payload
	}
	ping := frame(0x81, `{"type":"ping"}`)
	for _, seed := range []string{
		"", ping, ping + ping, frame(0x81, `{"type":"auth","token":"x"}`), frame(0x81, "{"), frame(0x82, "x"), frame(0x89, "hello") + ping, frame(0x8a, ""),
		frame(0x88, "\x03\xe8bye"), frame(0x88, "\x03\xe8\xff"), frame(0x88, "\x00"), frame(0x01, `{"type":`) + frame(0x89, "") + frame(0x80, `"ping"}`),
		frame(0x80, "x"), frame(0xc1, "x"), frame(0x83, "x"), "\x81\x02{}", "\x81\xff\x40\x00\x00\x00\x00\x00\x00\x00", "\x89\xfe\x00\x80", strings.Repeat(frame(0x01, ""), 50),
	} {
		f.Add([]byte(seed))
	}
	h, p := strangers(f)
	f.Fuzz(func(t *testing.T, b []byte) {
		client, server := net.Pipe()
		p.conns <- server
		_ = client.SetDeadline(time.Now().Add(20 * time.Second))
		said := upgraded(t, client)
		got := make(chan []byte, 1)
		go func() {
			all, _ := io.ReadAll(said)
			got <- all
		}()
		_, _ = client.Write(b) // not all, if the server has had enough
		client.Close()
		checkFrames(t, <-got)
		select {
		case <-h.gone:
		case <-time.After(20 * time.Second):
			t.Fatal("the socket is still there")
		}
	})
}

func upgraded(t *testing.T, client net.Conn) *bufio.Reader {
	t.Helper()
	if _, err := fmt.Fprint(client, "GET /ws HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"+
		"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	r := bufio.NewReader(client)
	response, err := http.ReadResponse(r, nil)
	if err != nil || response.StatusCode != http.StatusSwitchingProtocols {
		t.Fatalf("upgrade: %v, %v", response, err)
	}
	return r
}

// checkFrames fails unless b, which may be cut off, is what a server may send one who has no token.
func checkFrames(t *testing.T, b []byte) {
	t.Helper()
	for all := b; len(b) >= 2; {
		op, n := b[0], int(b[1])
		if n > maxControl { // a mask, or longer than anything there is to say
			t.Fatalf("%x: a frame with the length %#x", all, n)
		}
		if len(b) < 2+n {
			return
		}
		payload := b[2 : 2+n]
		b = b[2+n:]
		switch op {
		case finalText:
			if !json.Valid(payload) || !bytes.Contains(payload, []byte(`"type":"error"`)) {
				t.Fatalf("%x: says %q", all, payload)
			}
		case finalPong:
		case 0x80 | opClose:
			if code := append(bytes.Clone(payload), 0, 0); len(b) > 0 || n == 1 || n > 1 && (binary.BigEndian.Uint16(code) < 1000 || !utf8.Valid(payload[2:])) {
				t.Fatalf("%x: closes with %x, then says %x", all, payload, b)
			}
		default:
			t.Fatalf("%x: a frame of the kind %#x", all, op)
		}
	}
}
