package devstack

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
)

// superuser owns every cluster made here. It needs no password on 127.0.0.1.
const superuser = "postgres"

// clusterVersion returns the major version of the cluster in dir, or "" if dir is absent or empty. Anything else in dir is an error: it is not ours
// to overwrite.
func clusterVersion(dir string) (string, error) {
	b, err := os.ReadFile(filepath.Join(dir, "PG_VERSION"))
	if err == nil {
		return strings.TrimSpace(string(b)), nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("data folder: %w", err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("data folder: %w", err)
	}
	if len(entries) > 0 {
		return "", fmt.Errorf("data folder %q: neither empty nor a PostgreSQL cluster", dir)
	}
	return "", nil
}

// initialise makes the cluster in p.DataDir. It appears there complete or not at all: an initdb that is killed leaves only a
// neighbouring folder behind.
func (p *Postgres) initialise(ctx context.Context) error {
	if p.temp != "" && !p.cfg.FreshIdentity {
		tmpl, err := p.template(ctx)
		if err != nil {
			return err
		}
		return run(ctx, "copy the cluster template", p.as.command("cp", "-a", tmpl, p.DataDir))
	}
	return p.initdb(ctx, p.DataDir, p.cfg.NoSync)
}

// template returns a freshly initialised cluster in the cache, for these binaries and this user: copying it takes a fifth of initdb's time.
func (p *Postgres) template(ctx context.Context) (string, error) {
	key := sha256.Sum256([]byte(p.bin.dir + "\x00" + p.bin.version + "\x00" + strconv.Itoa(p.as.id())))
	dir := filepath.Join(p.cfg.CacheDir, fmt.Sprintf("cluster-%s-%x", p.bin.version, key[:6]))
	if err := makeParent(dir, p.as); err != nil {
		return "", err
	}
	unlock, err := lockFile(ctx, dir+".lock")
	if err != nil {
		return "", err
	}
	defer unlock()
	if v, err := clusterVersion(dir); err != nil || v != "" {
		return dir, err
	}
	return dir, p.initdb(ctx, dir, true)
}

func (p *Postgres) initdb(ctx context.Context, dir string, noSync bool) error {
	p.cfg.Log.Info("initialising a PostgreSQL cluster", "version", p.Version, "data", dir)
	parent, err := os.MkdirTemp(filepath.Dir(dir), ".initdb-*")
	if err != nil {
		return fmt.Errorf("initialise %q: %w", dir, err)
	}
	defer os.RemoveAll(parent)
	if err := p.as.own(parent); err != nil {
		return fmt.Errorf("initialise %q: %w", dir, err)
	}
	fresh := filepath.Join(parent, "data")
	args := []string{"-D", fresh, "-U", superuser, "-A", "trust", "-E", "UTF8", "--no-locale", "--no-instructions"}
	if noSync {
		args = append(args, "--no-sync")
	}
	cmd := p.bin.command("initdb", args...)
	p.as.apply(cmd)
	if err := run(ctx, "initdb", cmd); err != nil {
		return err
	}
	if err := os.Remove(dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("initialise %q: %w", dir, err)
	}
	if err := os.Rename(fresh, dir); err != nil {
		return fmt.Errorf("initialise %q: %w", dir, err)
	}
	return nil
}

// goneWithin is how long a server whose owner was killed may take to notice, and one that says "ready" may refuse connections, before the
// process id in its file is taken for somebody else's.
const goneWithin = 3 * time.Second

// attach looks for a server that already runs on p.DataDir. One that is on its way down (its owner was killed) is waited for.
func (p *Postgres) attach(ctx context.Context) (bool, error) {
	began := time.Now()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for said := false; ; {
		m, err := readPostmaster(p.DataDir)
		if err != nil || !alive(m.pid) {
			return false, nil // a stale file is PostgreSQL's own business
		}
		patience := time.Since(began) < goneWithin
		if !(patience && p.orphaned()) {
			p.Port = m.port
			if p.sameCluster(ctx) == nil {
				p.Attached, p.Rung = true, "local"
				p.cfg.Log.Info("attached to the PostgreSQL that already runs on this data folder", "data", p.DataDir, "pid", m.pid, "port", m.port)
				return true, p.createDatabase(ctx)
			}
			p.Port = 0
			if !patience && m.status != "starting" && m.status != "stopping" {
				return false, nil
			}
		}
		if !said {
			said = true
			p.cfg.Log.Info("waiting for another PostgreSQL on this data folder", "data", p.DataDir, "pid", m.pid, "status", m.status)
		}
		select {
		case <-ctx.Done():
			return false, fmt.Errorf("wait for process %d on data folder %q: %w", m.pid, p.DataDir, ctx.Err())
		case <-tick.C:
		}
	}
}

// ownerFile holds the process id of whoever started the server.
func (p *Postgres) ownerFile() string { return p.DataDir + ".owner" }

// orphaned reports whether the process that started the server is gone: then the server goes too, and isn't attached to.
func (p *Postgres) orphaned() bool {
	b, err := os.ReadFile(p.ownerFile())
	if err != nil {
		return false
	}
	pid, err := strconv.Atoi(string(b))
	return err == nil && !alive(pid)
}

// sameCluster checks that what listens on p.Port serves p.DataDir, and notes its version.
func (p *Postgres) sameCluster(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	conn, err := pgx.Connect(ctx, p.urlOf("postgres"))
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	var dir string
	if err := conn.QueryRow(ctx, "SELECT current_setting('data_directory'), split_part(current_setting('server_version'), ' ', 1)").Scan(&dir, &p.Version); err != nil {
		return err
	}
	theirs, err1 := os.Stat(dir)
	ours, err2 := os.Stat(p.DataDir)
	if err := errors.Join(err1, err2); err != nil {
		return err
	}
	if !os.SameFile(theirs, ours) {
		return fmt.Errorf("port %d serves %q", p.Port, dir)
	}
	return nil
}

// postmaster is what postmaster.pid says.
type postmaster struct {
	pid, port int
	status    string // "starting", "stopping", "ready", "standby"
}

func readPostmaster(dir string) (postmaster, error) {
	b, err := os.ReadFile(filepath.Join(dir, "postmaster.pid"))
	if err != nil {
		return postmaster{}, err
	}
	// Lines: pid, data folder, start time, port, socket folder, address, shared memory, status.
	lines := bytes.Split(b, []byte("\n"))
	if len(lines) < 8 {
		return postmaster{}, errors.New("postmaster.pid: incomplete")
	}
	pid, err1 := strconv.Atoi(string(bytes.TrimSpace(lines[0])))
	port, err2 := strconv.Atoi(string(bytes.TrimSpace(lines[3])))
	return postmaster{pid: pid, port: port, status: string(bytes.TrimSpace(lines[7]))}, errors.Join(err1, err2)
}
