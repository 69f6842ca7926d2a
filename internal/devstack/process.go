package devstack

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"time"
)

// killAfter is how long a child may take to obey its last signal before it gets SIGKILL.
const killAfter = 10 * time.Second

// child is a running server process. It doesn't outlive this process.
type child struct {
	cmd  *exec.Cmd
	done chan struct{} // closed when the process has ended and err is set
	err  error
}

// startChild starts cmd as the given user, to be sent sig when this process dies.
func startChild(cmd *exec.Cmd, as *account, sig syscall.Signal) (*child, error) {
	as.apply(cmd)
	c := &child{cmd: cmd, done: make(chan struct{})}
	started := make(chan error, 1)
	go func() {
		// The kernel's parent-death signal is bound to the thread that forked: it must live as long as the child.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		defer close(c.done)
		release, err := startGuarded(cmd, sig)
		started <- err
		if err != nil {
			return
		}
		if c.err = cmd.Wait(); c.err == nil {
			c.err = errors.New("exited")
		}
		release()
	}()
	if err := <-started; err != nil {
		return nil, fmt.Errorf("start %q: %w", cmd.Path, err)
	}
	return c, nil
}

func (c *child) pid() int { return c.cmd.Process.Pid }

func (c *child) signal(sig os.Signal) error { return c.cmd.Process.Signal(sig) }

// stop sends first, then last when ctx ends, then SIGKILL, and returns when the process is gone.
func (c *child) stop(ctx context.Context, first, last os.Signal) error {
	if err := c.signal(first); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("signal process %d: %w", c.pid(), err)
	}
	select {
	case <-c.done:
		return nil
	case <-ctx.Done():
	}
	_ = c.signal(last)
	t := time.NewTimer(killAfter)
	defer t.Stop()
	select {
	case <-c.done:
	case <-t.C:
		_ = c.signal(os.Kill)
		<-c.done
	}
	return nil
}

// run is output for a command whose output is of no interest unless it fails.
func run(ctx context.Context, what string, cmd *exec.Cmd) error {
	_, err := output(ctx, what, cmd)
	return err
}

// output runs cmd until it ends or ctx does and returns what it printed on stdout; on failure the error holds the last lines that it printed.
func output(ctx context.Context, what string, cmd *exec.Cmd) (string, error) {
	var out, diag bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &diag
	cmd.WaitDelay = killAfter // a grandchild may hold the pipes
	c, err := startChild(cmd, nil, syscall.SIGTERM)
	if err != nil {
		return "", fmt.Errorf("%s: %w", what, err)
	}
	select {
	case <-c.done:
	case <-ctx.Done():
		_ = c.stop(ctx, syscall.SIGTERM, os.Kill)
		return "", fmt.Errorf("%s: %w", what, ctx.Err())
	}
	if !cmd.ProcessState.Success() {
		return "", fmt.Errorf("%s: %w: %s", what, c.err, tail(out.String()+diag.String()))
	}
	return out.String(), nil
}

// tail returns the last few lines of s as one line.
func tail(s string) string {
	lines := strings.Split(strings.TrimSpace(s), "\n")
	if len(lines) > 5 {
		lines = lines[len(lines)-5:]
	}
	return strings.Join(lines, " | ")
}

func lastLines(path string) string {
	b, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	return tail(string(b))
}

func logger(l *slog.Logger) *slog.Logger {
	if l == nil {
		return slog.New(slog.DiscardHandler)
	}
	return l
}
