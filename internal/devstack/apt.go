package devstack

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
)

// aptPostgres unpacks the distribution's own packages into the cache folder, without installing them.
func aptPostgres(ctx context.Context, cfg PostgresConfig, as *account, major string) (binaries, error) {
	dir := filepath.Join(cfg.CacheDir, "apt-postgresql")
	err := once(ctx, dir, as, func(tmp string) error {
		return aptUnpack(ctx, tmp, cfg.CacheDir, cfg.Log, func(lists aptLists) ([]string, error) {
			name, err := lists.dependency(ctx, "postgresql", regexp.MustCompile(`^postgresql-\d+$`))
			if err != nil {
				return nil, err
			}
			return []string{name, strings.Replace(name, "postgresql-", "postgresql-client-", 1), "libpq5"}, nil
		})
	})
	if err != nil {
		return binaries{}, err
	}
	found, _ := filepath.Glob(filepath.Join(dir, "usr/lib/postgresql/*/bin"))
	if len(found) == 0 {
		return binaries{}, fmt.Errorf("no PostgreSQL in the packages under %q", dir)
	}
	b := binaries{dir: found[0], libDirs: libraryDirs(dir)}
	if _, err := os.Stat("/usr/share/zoneinfo/UTC"); err != nil {
		b.zone = "GMT" // Debian's binaries read the system's zone files; GMT is built in
	}
	return b, b.verify(ctx, as, major)
}

// aptRedis unpacks a real Redis, or Valkey, into the cache folder and returns the server's path and its library folders.
func aptRedis(ctx context.Context, cacheDir string, log *slog.Logger) (redisBinary, error) {
	dir := filepath.Join(cacheDir, "apt-redis")
	err := once(ctx, dir, nil, func(tmp string) error {
		return aptUnpack(ctx, tmp, cacheDir, log, func(lists aptLists) ([]string, error) {
			for _, kind := range []string{"redis", "valkey"} {
				// On Debian the server is a link to a file of the tools package.
				if _, err := lists.run(ctx, "apt-cache", "show", "--no-all-versions", kind+"-server", kind+"-tools"); err == nil {
					return []string{kind + "-server", kind + "-tools"}, nil
				}
			}
			return nil, errors.New("apt knows neither redis-server nor valkey-server")
		})
	})
	if err != nil {
		return redisBinary{}, err
	}
	for _, name := range redisNames {
		path := filepath.Join(dir, "usr/bin", name)
		if _, err := os.Stat(path); err == nil {
			return redisBinary{rung: "apt", path: path, libDirs: libraryDirs(dir)}, nil
		}
	}
	return redisBinary{}, fmt.Errorf("no Redis in the packages under %q", dir)
}

// aptInstall installs redis-server with apt-get. The service isn't started: RUNLEVEL=1 is how the package's own scripts are told.
func aptInstall(ctx context.Context, log *slog.Logger) error {
	log.Info("installing redis-server with apt-get")
	install := func() error {
		cmd := exec.Command("apt-get", "install", "-y", "-q", "--no-install-recommends", "-o", "DPkg::Lock::Timeout=120", "redis-server")
		cmd.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive", "RUNLEVEL=1")
		return run(ctx, "apt-get install redis-server", cmd)
	}
	if install() == nil {
		return nil
	}
	if err := run(ctx, "apt-get update", exec.Command("apt-get", "update", "-q")); err != nil {
		return err
	}
	return install()
}

// aptLists runs apt's tools on the system's package lists, or on lists of our own. Neither needs root.
type aptLists struct{ dir string }

func (l aptLists) run(ctx context.Context, tool string, args ...string) (string, error) {
	return l.runIn(ctx, "/", tool, args...)
}

func (l aptLists) runIn(ctx context.Context, dir, tool string, args ...string) (string, error) {
	opts := []string{"-o", "Dir::Cache::pkgcache=", "-o", "Dir::Cache::srcpkgcache="}
	if l.dir != "" {
		opts = append(opts, "-o", "Dir::State::Lists="+l.dir)
	}
	cmd := exec.Command(tool, append(opts, args...)...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "LC_ALL=C", "DEBIAN_FRONTEND=noninteractive")
	return output(ctx, tool+" "+args[0], cmd)
}

// dependency returns the first dependency of pkg whose name matches, as "postgresql" depends on "postgresql-15".
func (l aptLists) dependency(ctx context.Context, pkg string, name *regexp.Regexp) (string, error) {
	out, err := l.run(ctx, "apt-cache", "depends", pkg)
	if err != nil {
		return "", err
	}
	for _, line := range strings.Split(out, "\n") {
		if dep, ok := strings.CutPrefix(strings.TrimSpace(line), "Depends: "); ok && name.MatchString(dep) {
			return dep, nil
		}
	}
	return "", fmt.Errorf("apt knows no package that %s depends on", pkg)
}

// aptUnpack downloads the packages that pick names, and the libraries that they need and this system lacks, and unpacks them into dir.
// Stale or absent package lists are refreshed in a folder of our own.
func aptUnpack(ctx context.Context, dir, cacheDir string, log *slog.Logger, pick func(aptLists) ([]string, error)) error {
	for _, tool := range []string{"apt-get", "apt-cache", "dpkg-deb"} {
		if _, err := exec.LookPath(tool); err != nil {
			return fmt.Errorf("no %s here", tool)
		}
	}
	debs, err := os.MkdirTemp(filepath.Dir(dir), ".debs-*")
	if err != nil {
		return fmt.Errorf("make download folder: %w", err)
	}
	defer os.RemoveAll(debs)
	if os.Geteuid() == 0 {
		// apt downloads as its own user if that one can write here, and says so if not.
		if err := os.Chmod(debs, 0o777); err != nil {
			return fmt.Errorf("make download folder: %w", err)
		}
	}
	if err := aptFetch(ctx, debs, filepath.Join(cacheDir, "apt-lists"), log, pick); err != nil {
		return err
	}
	files, err := filepath.Glob(filepath.Join(debs, "*.deb"))
	if err != nil || len(files) == 0 {
		return errors.Join(fmt.Errorf("apt-get download: no packages in %q", debs), err)
	}
	for _, file := range files {
		if err := run(ctx, "dpkg-deb -x", exec.Command("dpkg-deb", "-x", file, dir)); err != nil {
			return err
		}
	}
	return readable(dir)
}

// aptFetch tries the system's package lists, then our own, then our own refreshed.
func aptFetch(ctx context.Context, debs, listDir string, log *slog.Logger, pick func(aptLists) ([]string, error)) error {
	if aptDownload(ctx, aptLists{}, debs, log, pick) == nil {
		return nil
	}
	own := aptLists{dir: listDir}
	if err := os.MkdirAll(filepath.Join(listDir, "partial"), 0o755); err != nil {
		return fmt.Errorf("make package lists: %w", err)
	}
	if aptDownload(ctx, own, debs, log, pick) == nil {
		return nil
	}
	log.Info("refreshing package lists", "folder", listDir)
	if _, err := own.run(ctx, "apt-get", "update", "-q"); err != nil {
		return err
	}
	return aptDownload(ctx, own, debs, log, pick)
}

// aptDownload downloads into dir what pick names and what that needs, by one set of package lists.
func aptDownload(ctx context.Context, lists aptLists, dir string, log *slog.Logger, pick func(aptLists) ([]string, error)) error {
	pkgs, err := pick(lists)
	if err != nil {
		return err
	}
	seen := map[string]bool{}
	for _, p := range pkgs {
		seen[p] = true
	}
	// What would be installed on this system is what it lacks. Only libraries can be used from another folder.
	plan, err := lists.run(ctx, "apt-get", append([]string{"-s", "-q", "-o", "Debug::NoLocking=1", "--no-install-recommends", "install"}, pkgs...)...)
	if err != nil {
		return err
	}
	for _, line := range strings.Split(plan, "\n") {
		f := strings.Fields(line)
		if len(f) > 1 && f[0] == "Inst" && strings.HasPrefix(f[1], "lib") && !strings.HasSuffix(f[1], "-dev") && !seen[f[1]] {
			seen[f[1]] = true
			pkgs = append(pkgs, f[1])
		}
	}
	log.Info("downloading Debian packages", "packages", strings.Join(pkgs, " "))
	_, err = lists.runIn(ctx, dir, "apt-get", append([]string{"download", "-q"}, pkgs...)...)
	return err
}

// libraryDirs returns the folders below an unpacked root that hold shared libraries.
func libraryDirs(root string) []string {
	var dirs []string
	for _, pattern := range []string{"usr/lib/*-linux-*", "lib/*-linux-*", "usr/lib", "lib"} {
		found, _ := filepath.Glob(filepath.Join(root, pattern))
		dirs = append(dirs, found...)
	}
	return dirs
}
