package devstack

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// tempPrefix starts the name of every temporary folder; the owner's process id follows.
const tempPrefix = "outbox-relay-"

// DefaultCacheDir returns where downloads go: OUTBOX_RELAY_CACHE if set, else /var/cache/outbox-relay for root (whose home is closed to the
// user that PostgreSQL runs as), else the user's cache folder, else one in the folder for temporary files.
func DefaultCacheDir(getenv func(string) string) string {
	return defaultDir(getenv, "OUTBOX_RELAY_CACHE", "/var/cache", "XDG_CACHE_HOME", ".cache")
}

// DefaultDataDir returns where a durable development cluster lives, by the same rules: OUTBOX_RELAY_DATA, /var/lib/outbox-relay,
// $XDG_DATA_HOME/outbox-relay, ~/.local/share/outbox-relay.
func DefaultDataDir(getenv func(string) string) string {
	return defaultDir(getenv, "OUTBOX_RELAY_DATA", "/var/lib", "XDG_DATA_HOME", ".local/share")
}

func defaultDir(getenv func(string) string, own, root, xdg, home string) string {
	const name = "outbox-relay"
	if d := getenv(own); d != "" {
		return d
	}
	if os.Geteuid() == 0 {
		return filepath.Join(root, name)
	}
	if d := getenv(xdg); filepath.IsAbs(d) {
		return filepath.Join(d, name)
	}
	if d := getenv("HOME"); filepath.IsAbs(d) && writable(d) {
		return filepath.Join(d, filepath.FromSlash(home), name)
	}
	return filepath.Join(os.TempDir(), name+"-"+strconv.Itoa(os.Geteuid()), filepath.Base(root))
}

func writable(dir string) bool {
	f, err := os.CreateTemp(dir, ".outbox-relay-*")
	if err != nil {
		return false
	}
	f.Close()
	return os.Remove(f.Name()) == nil
}

// makeParent makes the folders above path and checks that as can enter them.
func makeParent(path string, as *account) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return fmt.Errorf("make folder: %w", err)
	}
	return as.reach(path)
}

// tempRoot is where temporary clusters go: a place that every user can enter.
func tempRoot() string {
	if os.Geteuid() == 0 {
		return "/var/tmp"
	}
	return os.TempDir()
}

func tempDir(kind string, as *account) (string, error) {
	dir, err := os.MkdirTemp(tempRoot(), tempPrefix+strconv.Itoa(os.Getpid())+"-"+kind+"-*")
	if err != nil {
		return "", fmt.Errorf("make temporary folder: %w", err)
	}
	if err := errors.Join(as.reach(dir), as.own(dir)); err != nil {
		return "", errors.Join(err, os.Remove(dir))
	}
	return dir, nil
}

// sweep deletes temporary folders whose owner was killed. They are left alone for an hour: the owner may live in another pid namespace.
func sweep(root string, log *slog.Logger) {
	entries, err := os.ReadDir(root)
	if err != nil {
		return
	}
	for _, e := range entries {
		rest, ok := strings.CutPrefix(e.Name(), tempPrefix)
		pid, err := strconv.Atoi(strings.SplitN(rest, "-", 2)[0])
		if !ok || err != nil || alive(pid) {
			continue
		}
		info, err := e.Info()
		if err != nil || time.Since(info.ModTime()) < time.Hour {
			continue
		}
		dir := filepath.Join(root, e.Name())
		if m, err := readPostmaster(filepath.Join(dir, "data")); err == nil && alive(m.pid) {
			continue
		}
		if err := os.RemoveAll(dir); err != nil && !errors.Is(err, fs.ErrPermission) {
			log.Warn("delete an orphaned temporary folder", "folder", dir, "error", err)
		}
	}
}

// FreePort returns a TCP port on 127.0.0.1 on which nobody listens, nor on the one 10,000 above, which a node of a Redis Cluster needs too. Both lie
// below the range from which systems take the ports of outgoing connections and of listeners that ask for port 0, so that a server which isn't up yet, or
// is down for a moment, finds its port free, and no port is the other one of another.
func FreePort() (int, error) {
	for range 50 {
		port := 15000 + rand.IntN(7000)
		if listenable(port) && listenable(port+10_000) {
			return port, nil
		}
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, fmt.Errorf("find a free port: %w", err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port, nil
}

func listenable(port int) bool {
	l, err := net.Listen("tcp", "127.0.0.1:"+strconv.Itoa(port))
	return err == nil && l.Close() == nil
}
