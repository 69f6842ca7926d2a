//go:build linux

package main

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"net/http/pprof"
	"os"
	"os/signal"
	"runtime/debug"
	"strings"
	"sync"
	"syscall"

	"github.com/coder/websocket"
	"github.com/jackc/pgx/v5"
)

// floorChannel is what writers notify: the program, a blank, and the message for its clients.
const floorChannel = "bench_floor"

// floorQueue is how many messages a connection may lag behind.
const floorQueue = 4096

// floor is the shortest program that does the visible part: it listens, and writes each payload to every connection of its program.
// No tokens, no history, no order across a reconnect; a connection that lags is cut.
type floor struct {
	mu    sync.Mutex
	rooms map[string]map[chan []byte]context.CancelFunc
}

// runFloor serves until it is told to end. It reads DATABASE_URL.
func runFloor(ctx context.Context) error {
	ctx, stop := signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM)
	defer stop()
	log := slog.New(slog.NewJSONHandler(os.Stderr, nil))
	conn, err := pgx.Connect(ctx, os.Getenv("DATABASE_URL"))
	if err != nil {
		return err
	}
	if _, err := conn.Exec(ctx, "LISTEN "+floorChannel); err != nil {
		return err
	}
	f := &floor{rooms: map[string]map[chan []byte]context.CancelFunc{}}
	admin := http.NewServeMux()
	admin.HandleFunc("GET /readyz", func(http.ResponseWriter, *http.Request) {})
	admin.HandleFunc("POST /debug/freemem", func(http.ResponseWriter, *http.Request) { debug.FreeOSMemory() })
	admin.HandleFunc("/debug/pprof/", pprof.Index)
	admin.HandleFunc("/debug/pprof/profile", pprof.Profile)
	for _, l := range []struct {
		msg, key string
		handler  http.Handler
	}{{"listening", "address", f}, {"serving", "admin", admin}} {
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return err
		}
		go http.Serve(listener, l.handler) //nolint:errcheck // it ends with the process
		log.Info(l.msg, l.key, listener.Addr().String())
	}
	return f.listen(ctx, conn)
}

func (f *floor) listen(ctx context.Context, conn *pgx.Conn) error {
	for {
		n, err := conn.WaitForNotification(ctx)
		if err != nil {
			if ctx.Err() != nil {
				return nil //nolint:nilerr // told to end
			}
			return err
		}
		program, message, _ := strings.Cut(n.Payload, " ")
		b := []byte(message)
		f.mu.Lock()
		for c, cut := range f.rooms[program] {
			select {
			case c <- b:
			default:
				cut()
			}
		}
		f.mu.Unlock()
	}
}

func (f *floor) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	conn, err := websocket.Accept(w, r, nil)
	if err != nil {
		return
	}
	defer conn.CloseNow() //nolint:errcheck // it is gone
	ctx, cut := context.WithCancel(conn.CloseRead(r.Context()))
	defer cut()
	c := make(chan []byte, floorQueue)
	programs := strings.Split(r.URL.Query().Get("programs"), ",")
	f.enter(programs, c, cut)
	defer f.leave(programs, c)
	err = conn.Write(ctx, websocket.MessageText, []byte(`{"type":"live"}`))
	for err == nil {
		select {
		case b := <-c:
			err = conn.Write(ctx, websocket.MessageText, b)
		case <-ctx.Done():
			err = errors.New("gone")
		}
	}
}

func (f *floor) enter(programs []string, c chan []byte, cut context.CancelFunc) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, p := range programs {
		if f.rooms[p] == nil {
			f.rooms[p] = map[chan []byte]context.CancelFunc{}
		}
		f.rooms[p][c] = cut
	}
}

func (f *floor) leave(programs []string, c chan []byte) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, p := range programs {
		delete(f.rooms[p], c)
	}
}
