package scenario_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"github.com/outboxrelay/outboxrelay/internal/devstack"
)

// The disk on which the ticks are is full: no tick is committed, so nothing is published; writers, whose disk isn't, go on.
func diskFullOnTheTick(t *trial) {
	dir := t.tinyDisk()
	t.services(devstack.PostgresConfig{})
	info, err := os.Stat(t.pg.DataDir)
	t.do("look at the data folder", err)
	owner := info.Sys().(*syscall.Stat_t)
	space := filepath.Join(dir, "space")
	t.do("make the folder", os.Mkdir(space, 0o700))
	t.do("give the folder away", os.Chown(space, int(owner.Uid), int(owner.Gid)))
	t.exec("CREATE TABLESPACE tiny LOCATION '" + space + "'")
	t.exec("ALTER TABLE relay.ticks SET TABLESPACE tiny")
	node := t.node()
	t.audience(node)
	t.load(func() {
		ballast := filepath.Join(dir, "ballast")
		f, err := os.Create(ballast)
		t.do("create the ballast", err)
		for err == nil {
			_, err = f.Write(make([]byte, 4096))
		}
		t.do("close the ballast", f.Close())
		t.note("full: %.60q", t.degraded(node, 30*time.Second))
		t.pass(2 * time.Second)
		t.do("make room", os.Remove(ballast))
	})
}

// tinyDisk mounts a file system of 2 MB, which is gone when the trial's Postgres is.
func (t *trial) tinyDisk() string {
	t.Helper()
	dir, err := os.MkdirTemp("/var/tmp", "outbox-relay-disk-")
	t.do("make a folder", err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	t.do("open the folder", os.Chmod(dir, 0o755))
	if out, err := exec.Command("mount", "-t", "tmpfs", "-o", "mode=0755,size="+strconv.Itoa(2<<20), "tmpfs", dir).CombinedOutput(); err != nil {
		t.Skipf("a small file system can't be mounted here (that takes root): %v: %s", err, out)
	}
	t.Cleanup(func() {
		if out, err := exec.Command("umount", dir).CombinedOutput(); err != nil {
			t.Errorf("unmount: %v: %s", err, out)
		}
	})
	return dir
}
