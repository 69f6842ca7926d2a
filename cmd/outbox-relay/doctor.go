package main

import (
	"context"
	"fmt"
	"io"

	"github.com/spf13/cobra"
)

func (p *program) doctorCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "doctor",
		Short: "check settings, Postgres and Redis for what ROLE needs; exit code 1 on a finding",
		Long: "Checks settings, Postgres (version, pooler, schema, grants, triggers, a real LISTEN) and Redis (eviction, a real subscription)\n" +
			"for what ROLE needs, with the settings of `serve`. It changes nothing. Each finding is one line that says what to do.",
		Args: noArgs,
	}
	bind(cmd.Flags(), settings())
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		c, bad := load(cmd.Flags(), p.getenv, settings())
		bad.check(&c)
		d := &doctor{config: &c, out: p.stdout}
		for _, line := range bad.lines {
			d.find("settings", "%s", line)
		}
		if c.databaseURL != "" {
			d.postgres(cmd.Context())
		}
		if c.redisURL != "" {
			d.redis(cmd.Context())
		}
		if d.findings > 0 {
			return fmt.Errorf("findings: %d, see above", d.findings)
		}
		return nil
	}
	return cmd
}

// doctor prints one line per check.
type doctor struct {
	config   *config
	out      io.Writer
	findings int
}

// find reports what is wrong, and what to do.
func (d *doctor) find(subject, format string, args ...any) {
	d.findings++
	fmt.Fprintf(d.out, "finding  %s: %s\n", subject, oneLine(fmt.Sprintf(format, args...)))
}

// good reports a check that found nothing.
func (d *doctor) good(subject, format string, args ...any) {
	fmt.Fprintf(d.out, "ok       %s: %s\n", subject, oneLine(fmt.Sprintf(format, args...)))
}

// note reports what is right and may surprise.
func (d *doctor) note(subject, format string, args ...any) {
	fmt.Fprintf(d.out, "note     %s: %s\n", subject, oneLine(fmt.Sprintf(format, args...)))
}

// check runs one check, of twice connectTimeout at most; its error is the finding.
func (d *doctor) check(ctx context.Context, subject, good string, work func(ctx context.Context) error) bool {
	ctx, cancel := context.WithTimeout(ctx, 2*connectTimeout)
	defer cancel()
	if err := work(ctx); err != nil {
		d.find(subject, "%s", explain(err))
		return false
	}
	d.good(subject, "%s", good)
	return true
}
