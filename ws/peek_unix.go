//go:build unix

package ws

import "syscall"

const canPeek = true

// peek tells whether a read of fd, which doesn't block, would return something: bytes, the end, or an error.
func peek(fd uintptr) bool {
	var b [1]byte
	for {
		_, _, err := syscall.Recvfrom(int(fd), b[:], syscall.MSG_PEEK)
		if err != syscall.EINTR {
			return err != syscall.EAGAIN
		}
	}
}
