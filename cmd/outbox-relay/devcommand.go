package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"syscall"
)

// errCommandDone ends dev when CMD has ended well.
var errCommandDone = errors.New("the command has ended")

// runCommand runs CMD until it ends, and returns errCommandDone or its exit code. When ctx ends first CMD is asked to end too; on Ctrl-C
// the terminal has told it already.
func (p *program) runCommand(ctx context.Context, s *server, command []string) error {
	cmd := exec.CommandContext(ctx, command[0], command[1:]...)
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = devStop
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, p.stdout, p.stderr
	cmd.Env = append(os.Environ(), "DATABASE_URL="+s.config.databaseURL, "REDIS_URL="+s.config.redisURL,
		"JWT_ACCESS_SECRET="+string(s.config.auth.Secret), "RELAY_URL=ws://"+dialable(s.public)+"/ws")
	err := cmd.Run()
	var exit *exec.ExitError
	switch {
	case err == nil:
		return errCommandDone
	case ctx.Err() != nil:
		return nil //nolint:nilerr // it was told to end
	case errors.As(err, &exit):
		return &exitError{exitCode(exit.ProcessState)}
	}
	return fmt.Errorf("run %q: %w", command[0], err)
}

// exitCode is that of a process, by a shell's custom for one that a signal ended.
func exitCode(state *os.ProcessState) int {
	if status, ok := state.Sys().(syscall.WaitStatus); ok && status.Signaled() {
		return 128 + int(status.Signal())
	}
	return max(state.ExitCode(), 1)
}
