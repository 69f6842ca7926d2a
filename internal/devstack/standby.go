package devstack

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"

	"github.com/jackc/pgx/v5"
)

// Standby makes an asynchronous streaming standby from a base backup of p and starts it; the caller closes it. It streams from the given
// host:port, such as a proxy's; "": from p itself. It needs pg_basebackup beside the server's binary, which the npm rung lacks.
func (p *Postgres) Standby(ctx context.Context, from string) (*Postgres, error) {
	if p.child == nil {
		return nil, fmt.Errorf("make a standby: %w", errNotOurs)
	}
	if from == "" {
		from = fmt.Sprintf("127.0.0.1:%d", p.Port)
	}
	host, port, err := net.SplitHostPort(from)
	if err != nil {
		return nil, fmt.Errorf("make a standby of %q: %w", from, err)
	}
	s := &Postgres{Rung: p.Rung, Version: p.Version, BinDir: p.BinDir, cfg: p.cfg, bin: p.bin, as: p.as}
	if s.temp, err = tempDir("pg", s.as); err != nil {
		return nil, err
	}
	s.DataDir = filepath.Join(s.temp, "data")
	cmd := p.bin.command("pg_basebackup", "-D", s.DataDir, "-h", host, "-p", port, "-U", superuser, "-X", "stream", "-c", "fast", "-R")
	p.as.apply(cmd)
	err = run(ctx, "pg_basebackup", cmd)
	if err == nil {
		err = s.Start(ctx)
	}
	if err != nil {
		return nil, errors.Join(err, os.RemoveAll(s.temp))
	}
	return s, nil
}

// Promote makes a standby a primary, on a timeline of its own, and returns when it accepts writes.
func (p *Postgres) Promote(ctx context.Context) error {
	conn, err := pgx.Connect(ctx, p.URL())
	if err != nil {
		return fmt.Errorf("promote: %w", err)
	}
	defer conn.Close(ctx)
	var done bool
	if err := conn.QueryRow(ctx, "SELECT pg_promote(true, 60)").Scan(&done); err != nil || !done {
		return fmt.Errorf("promote: done %v: %w", done, err)
	}
	return nil
}

// Tool runs one of the client programs beside the server's binary, such as pg_dump, against p, and returns what it printed. It runs as the
// server's user.
func (p *Postgres) Tool(ctx context.Context, name string, args ...string) (string, error) {
	cmd := p.bin.command(name, append([]string{"-d", p.URL()}, args...)...)
	p.as.apply(cmd)
	return output(ctx, name, cmd)
}
