//go:build unix

package devstack

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"syscall"
	"time"
)

// account is the unprivileged user that PostgreSQL runs as when this process is root. Nil: the user of this process.
type account struct {
	uid, gid uint32
	name     string
}

// unprivileged returns nil unless this process is root, which initdb and postgres refuse to be.
func unprivileged() (*account, error) {
	if os.Geteuid() != 0 {
		return nil, nil
	}
	for _, name := range []string{"postgres", "nobody"} {
		u, err := user.Lookup(name)
		if err != nil {
			continue
		}
		uid, err1 := strconv.ParseUint(u.Uid, 10, 32)
		gid, err2 := strconv.ParseUint(u.Gid, 10, 32)
		if err := errors.Join(err1, err2); err != nil {
			return nil, fmt.Errorf("user %q: %w", name, err)
		}
		return &account{uid: uint32(uid), gid: uint32(gid), name: name}, nil
	}
	return nil, errors.New("PostgreSQL refuses to run as root and there is neither a user postgres nor nobody: run as another user, or set DATABASE_URL")
}

func (a *account) id() int {
	if a == nil {
		return os.Geteuid()
	}
	return int(a.uid)
}

// apply makes cmd run as a.
func (a *account) apply(cmd *exec.Cmd) {
	if a == nil {
		return
	}
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Credential = &syscall.Credential{Uid: a.uid, Gid: a.gid}
	if cmd.Dir == "" {
		cmd.Dir = "/" // the working folder may be closed to a
	}
}

func (a *account) command(name string, args ...string) *exec.Cmd {
	cmd := exec.Command(name, args...)
	a.apply(cmd)
	return cmd
}

// own gives path to a.
func (a *account) own(path string) error {
	if a == nil {
		return nil
	}
	return os.Chown(path, int(a.uid), int(a.gid))
}

// reach returns an error that names the first folder on the way to path that a can't enter.
func (a *account) reach(path string) error {
	if a == nil {
		return nil
	}
	for dir := filepath.Dir(path); ; dir = filepath.Dir(dir) {
		info, err := os.Stat(dir)
		if err != nil {
			return err
		}
		st := info.Sys().(*syscall.Stat_t)
		ok := info.Mode()&0o001 != 0 || st.Uid == a.uid && info.Mode()&0o100 != 0 || st.Gid == a.gid && info.Mode()&0o010 != 0
		if !ok {
			return fmt.Errorf("the user %s, as whom PostgreSQL runs here, can't enter %q: choose a folder elsewhere, such as under /var/lib or /var/tmp", a.name, dir)
		}
		if dir == filepath.Dir(dir) {
			return nil
		}
	}
}

// alive reports whether a process with this id exists.
func alive(pid int) bool {
	err := syscall.Kill(pid, 0)
	return pid > 0 && (err == nil || errors.Is(err, fs.ErrPermission))
}

// lockFile waits for the exclusive lock on path and returns how to give it back. The lock ends with the process in any case.
func lockFile(ctx context.Context, path string) (unlock func(), err error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, fmt.Errorf("lock: %w", err)
	}
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if err == nil {
			return func() { f.Close() }, nil
		}
		if !errors.Is(err, syscall.EWOULDBLOCK) && !errors.Is(err, syscall.EINTR) {
			f.Close()
			return nil, fmt.Errorf("lock %q: %w", path, err)
		}
		select {
		case <-ctx.Done():
			f.Close()
			return nil, fmt.Errorf("lock %q: %w", path, ctx.Err())
		case <-tick.C:
		}
	}
}

func pause(c *child) error { return c.signal(syscall.SIGSTOP) }

func resume(c *child) error { return c.signal(syscall.SIGCONT) }
