package devstack

import (
	"os/exec"
	"syscall"
)

// startGuarded starts cmd so that the kernel sends it sig when the calling thread (hence this process) ends.
func startGuarded(cmd *exec.Cmd, sig syscall.Signal) (release func(), err error) {
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Pdeathsig = sig
	cmd.SysProcAttr.Setpgid = true
	return func() {}, cmd.Start()
}
