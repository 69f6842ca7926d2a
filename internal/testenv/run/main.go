// Command run starts the services that the test processes of one run share and runs a command with TEST_DATABASE_URL set. It
// exits as the command does.
//
//	go run ./internal/testenv/run -- go test -race ./...
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"os/signal"
	"syscall"
	"time"

	"github.com/outboxrelay/outboxrelay/internal/devstack"
	"github.com/outboxrelay/outboxrelay/internal/testenv"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	err := run(ctx, os.Args[1:], os.Getenv, os.Stdout, os.Stderr)
	var exit *exec.ExitError
	switch {
	case errors.As(err, &exit):
		os.Exit(max(exit.ExitCode(), 1))
	case err != nil:
		fmt.Fprintln(os.Stderr, "run:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, getenv func(string) string, stdout, stderr io.Writer) (err error) {
	if len(args) > 0 && args[0] == "--" {
		args = args[1:]
	}
	if len(args) == 0 {
		return errors.New("usage: run -- COMMAND [ARGUMENT...]")
	}
	log := slog.New(slog.NewTextHandler(stderr, nil))
	redis := testenv.RedisConfig(getenv)
	redis.Log = log
	if err := devstack.PrepareRedis(ctx, redis); err != nil {
		return err
	}
	env := os.Environ()
	if getenv("TEST_DATABASE_URL") == "" {
		cfg := testenv.PostgresConfig(getenv)
		cfg.Log = log
		pg, err := testenv.StartShared(ctx, cfg)
		if err != nil {
			return err
		}
		defer func() {
			ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 20*time.Second)
			defer cancel()
			err = errors.Join(err, pg.Close(ctx))
		}()
		env = append(env, "TEST_DATABASE_URL="+pg.URL())
	}
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.Env, cmd.Stdout, cmd.Stderr = env, stdout, stderr
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = 30 * time.Second
	return cmd.Run()
}
