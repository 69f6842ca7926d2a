package devstack

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// Pgbouncer returns the command of a PgBouncer with arguments: the one on PATH, else the distribution's package, unpacked into the cache
// folder (empty: DefaultCacheDir) and not installed. The caller starts it, and ends it.
func Pgbouncer(ctx context.Context, cacheDir string, log *slog.Logger, args ...string) (*exec.Cmd, error) {
	if path, err := exec.LookPath("pgbouncer"); err == nil {
		return exec.Command(path, args...), nil
	}
	cacheDir = cmp.Or(cacheDir, DefaultCacheDir(os.Getenv))
	dir := filepath.Join(cacheDir, "apt-pgbouncer")
	err := once(ctx, dir, nil, func(tmp string) error {
		return aptUnpack(ctx, tmp, cacheDir, logger(log), func(aptLists) ([]string, error) { return []string{"pgbouncer"}, nil })
	})
	if err != nil {
		return nil, fmt.Errorf("no PgBouncer here: install one (%s): %w", installHint("pgbouncer"), err)
	}
	cmd := exec.Command(filepath.Join(dir, "usr/sbin/pgbouncer"), args...)
	cmd.Env = append(os.Environ(), libraryVariable()+"="+strings.Join(libraryDirs(dir), ":"))
	return cmd, nil
}
