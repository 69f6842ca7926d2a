package devstack

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
)

// oldestPostgres is the oldest major version that the schema works with.
const oldestPostgres = 14

// binaries is a folder with initdb and postgres that were seen to run.
type binaries struct {
	rung    string
	dir     string
	libDirs []string // for LD_LIBRARY_PATH; empty for what the system itself installed
	version string   // "15.20"
	zone    string   // a time zone that these binaries know; empty: "UTC"
}

// command returns name from the folder, in a small environment of its own: PostgreSQL's and the user's variables (PGDATA, LC_ALL) don't reach it.
func (b binaries) command(name string, args ...string) *exec.Cmd {
	cmd := exec.Command(filepath.Join(b.dir, name), args...)
	cmd.Dir = "/"
	cmd.Env = []string{"PATH=" + b.dir + ":/usr/local/bin:/usr/bin:/bin", "LC_ALL=C", "TZ=UTC"}
	if len(b.libDirs) > 0 {
		cmd.Env = append(cmd.Env, libraryVariable()+"="+strings.Join(b.libDirs, ":"))
	}
	return cmd
}

func libraryVariable() string {
	if runtime.GOOS == "darwin" {
		return "DYLD_LIBRARY_PATH"
	}
	return "LD_LIBRARY_PATH"
}

func (b binaries) timezone() string { return cmp.Or(b.zone, "UTC") }

var postgresVersion = regexp.MustCompile(`^postgres \(PostgreSQL\) (\d+)(\.\d+|devel|beta\d+|rc\d+)`)

// verify runs the binaries as the user that will run them, and fills in the version. major, if not empty, is the one that they must have.
func (b *binaries) verify(ctx context.Context, as *account, major string) error {
	for _, name := range []string{"initdb", "postgres"} {
		path := filepath.Join(b.dir, name)
		if _, err := os.Stat(path); err != nil {
			return err
		}
		if err := as.reach(path); err != nil {
			return err
		}
	}
	cmd := b.command("postgres", "--version")
	as.apply(cmd)
	out, err := output(ctx, b.dir, cmd)
	if err != nil {
		return err
	}
	m := postgresVersion.FindStringSubmatch(out)
	if m == nil {
		return fmt.Errorf("%s: unknown version %q", b.dir, strings.TrimSpace(out))
	}
	b.version = m[1] + m[2]
	if n, _ := strconv.Atoi(m[1]); n < oldestPostgres {
		return fmt.Errorf("%s: version %s is older than %d", b.dir, b.version, oldestPostgres)
	}
	if major != "" && major != m[1] {
		return fmt.Errorf("%s: version %s, but the data folder was made by version %s", b.dir, b.version, major)
	}
	return nil
}

// findPostgres climbs the ladder, or takes the forced rung.
func findPostgres(ctx context.Context, cfg PostgresConfig, as *account, major string) (binaries, error) {
	rungs := []struct {
		name string
		find func(context.Context, PostgresConfig, *account, string) (binaries, error)
	}{{"local", localPostgres}, {"npm", npmPostgres}, {"apt", aptPostgres}}
	var reasons []string
	known := false
	for _, r := range rungs {
		if cfg.Rung != "" && cfg.Rung != r.name {
			continue
		}
		known = true
		b, err := r.find(ctx, cfg, as, major)
		if err == nil {
			b.rung = r.name
			return b, nil
		}
		if ctx.Err() != nil {
			return binaries{}, err
		}
		reasons = append(reasons, r.name+": "+err.Error())
	}
	if !known {
		return binaries{}, fmt.Errorf("OUTBOX_RELAY_POSTGRES=%s: must be url, local, npm or apt", cfg.Rung)
	}
	return binaries{}, fmt.Errorf("no PostgreSQL here: install one (%s) or set DATABASE_URL (tried %s)", installHint("postgresql"), strings.Join(reasons, "; "))
}

// installHint says what to type on this system to install a package.
func installHint(pkg string) string {
	for _, m := range []struct{ tool, line string }{
		{"apt-get", "apt-get install "}, {"dnf", "dnf install "}, {"apk", "apk add "}, {"pacman", "pacman -S "}, {"brew", "brew install "},
	} {
		if _, err := exec.LookPath(m.tool); err == nil {
			return "`" + m.line + pkg + "`"
		}
	}
	return "package " + pkg
}

// localPostgres takes PATH first, then the usual folders, the newest version first.
func localPostgres(ctx context.Context, _ PostgresConfig, as *account, major string) (binaries, error) {
	var dirs []string
	if path, err := exec.LookPath("postgres"); err == nil {
		if path, err = filepath.EvalSymlinks(path); err == nil {
			dirs = append(dirs, filepath.Dir(path))
		}
	}
	for _, pattern := range []string{
		"/usr/lib/postgresql/*/bin", "/usr/pgsql-*/bin", "/usr/libexec/postgresql*", "/usr/local/pgsql/bin",
		"/opt/homebrew/opt/postgresql*/bin", "/usr/local/opt/postgresql*/bin", "/Applications/Postgres.app/Contents/Versions/*/bin", "/Library/PostgreSQL/*/bin",
	} {
		found, _ := filepath.Glob(pattern)
		slices.SortFunc(found, func(a, b string) int { return cmp.Compare(numberIn(b), numberIn(a)) })
		dirs = append(dirs, found...)
	}
	errs := []error{errors.New("no postgres on PATH or in the usual folders")}
	for i, dir := range dirs {
		b := binaries{dir: dir}
		err := b.verify(ctx, as, major)
		if err == nil {
			return b, nil
		}
		if i == 0 {
			errs = nil
		}
		errs = append(errs, err)
	}
	return binaries{}, oneLine(errs)
}

var digits = regexp.MustCompile(`\d+`)

// numberIn returns the first number in s, 0 if none: the version in ".../postgresql/15/bin".
func numberIn(s string) int {
	n, _ := strconv.Atoi(digits.FindString(s))
	return n
}

func oneLine(errs []error) error {
	parts := make([]string, len(errs))
	for i, err := range errs {
		parts[i] = err.Error()
	}
	return errors.New(strings.Join(parts, ", "))
}
