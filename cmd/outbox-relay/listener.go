package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"time"

	"golang.org/x/sync/errgroup"
)

const (
	headerTimeout = 5 * time.Second  // for a request's header
	bodyTimeout   = 15 * time.Second // for a request, and for an answer; not for a WebSocket
	idleTimeout   = 60 * time.Second
	maxHeader     = 32 << 10        // bytes; a token may have 16 KiB
	closeTimeout  = 5 * time.Second // for plain requests under way when the process ends
)

// listen opens a TCP listener.
func listen(ctx context.Context, addr, setting string) (net.Listener, error) {
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("listen %q: %w: set %s to another one", addr, withoutOp(err), setting)
	}
	return l, nil
}

// withoutOp takes away what the caller says better.
func withoutOp(err error) error {
	var op *net.OpError
	if errors.As(err, &op) {
		return op.Err
	}
	return err
}

// serveHTTP serves on l until ctx ends, then closes it and waits closeTimeout for what is under way. WebSocket connections aren't waited for.
func serveHTTP(ctx context.Context, l net.Listener, server *http.Server) error {
	group, failed := errgroup.WithContext(ctx)
	group.Go(func() error {
		if err := server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			return fmt.Errorf("serve on %q: %w", l.Addr(), err)
		}
		return nil
	})
	group.Go(func() error {
		<-failed.Done()
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeTimeout)
		defer cancel()
		if server.Shutdown(ctx) != nil {
			_ = server.Close()
		}
		return nil
	})
	return group.Wait()
}

// publicServer serves /ws, and fallback for everything else; without one that is a 404 that says nothing. No ServeMux: it answers a path
// such as //ws with a redirect that repeats it.
func publicServer(e edge, socket, fallback http.Handler, log *slog.Logger) *http.Server {
	if fallback == nil {
		fallback = http.NotFoundHandler()
	}
	paths := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/ws" {
			socket.ServeHTTP(w, r)
			return
		}
		fallback.ServeHTTP(w, r)
	})
	return &http.Server{
		Handler: e.wrap(paths), DisableGeneralOptionsHandler: true,
		ReadHeaderTimeout: headerTimeout, ReadTimeout: bodyTimeout, WriteTimeout: bodyTimeout, IdleTimeout: idleTimeout,
		MaxHeaderBytes: maxHeader, ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}
}
