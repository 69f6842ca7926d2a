//go:build unix && !linux

package devstack

import (
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"syscall"
)

// startGuarded starts cmd and beside it a shell that waits for the end of a pipe, which this process holds open until its own end, and
// then sends cmd the signal.
func startGuarded(cmd *exec.Cmd, sig syscall.Signal) (release func(), err error) {
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Setpgid = true
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer r.Close()
	if err := cmd.Start(); err != nil {
		w.Close()
		return nil, err
	}
	guard := exec.Command("/bin/sh", "-c", fmt.Sprintf(`read x || kill -%d "$1"`, int(sig)), "sh", strconv.Itoa(cmd.Process.Pid))
	guard.Stdin = r
	guard.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := guard.Start(); err != nil {
		w.Close()
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		return nil, err
	}
	return func() {
		// A line makes the shell end without the kill: the process id may be somebody else's by now.
		_, _ = w.WriteString("done\n")
		w.Close()
		_ = guard.Wait()
	}, nil
}
