package devstack

import (
	"context"
	"errors"
	"os/exec"
	"syscall"
)

// errWindows stands for everything here that needs a Unix system. The rungs "url" and "miniredis" work without.
var errWindows = errors.New("starting PostgreSQL and Redis isn't supported on Windows: set DATABASE_URL and REDIS_URL, or use WSL")

type account struct{}

func unprivileged() (*account, error) { return nil, errWindows }

func (*account) id() int { return 0 }

func (*account) apply(*exec.Cmd) {}

func (*account) command(name string, args ...string) *exec.Cmd { return exec.Command(name, args...) }

func (*account) own(string) error { return nil }

func (*account) reach(string) error { return nil }

func alive(int) bool { return true }

func lockFile(context.Context, string) (func(), error) { return nil, errWindows }

func startGuarded(*exec.Cmd, syscall.Signal) (func(), error) { return nil, errWindows }

func pause(*child) error { return errWindows }

func resume(*child) error { return errWindows }
