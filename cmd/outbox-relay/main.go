package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/redis/go-redis/v9/logging"
	"github.com/spf13/cobra"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	logging.Disable()            // the Redis library's own lines, one for each failed dial: the errors that it returns say the same
	context.AfterFunc(ctx, stop) // after the first signal the next one has its usual effect
	err := run(ctx, os.Args[1:], os.Getenv, os.Stdout, os.Stderr)
	stop()
	os.Exit(report(err, os.Stderr))
}

// program is what all commands share: the outside world, handed in.
type program struct {
	getenv         func(string) string
	stdout, stderr io.Writer
}

// run executes one command line, args without the program's name.
func run(ctx context.Context, args []string, getenv func(string) string, stdout, stderr io.Writer) error {
	p := &program{getenv: getenv, stdout: stdout, stderr: stderr}
	root := &cobra.Command{
		Use:               "outbox-relay",
		Short:             "From a committed transaction to an authenticated browser",
		Version:           version(),
		SilenceUsage:      true,
		SilenceErrors:     true,
		CompletionOptions: cobra.CompletionOptions{HiddenDefaultCmd: true},
		Args:              noArgs,
		RunE:              func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	root.SetVersionTemplate("outbox-relay {{.Version}}\n")
	root.SetOut(stdout)
	root.SetErr(stderr)
	root.SetArgs(args)
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return usage("%v: see `%s --help`", err, cmd.CommandPath())
	})
	root.AddCommand(p.serveCommand(), p.devCommand(), p.migrateCommand(), p.tokenCommand(), p.emitCommand(), p.eraseCommand(), p.tailCommand(),
		p.doctorCommand(), p.explainCommand(), p.catalogCommand(), p.versionCommand())
	return root.ExecuteContext(ctx)
}

// usageError is a mistake in the command line or the settings: exit code 2. Each line is one mistake.
type usageError struct{ lines []string }

func (e *usageError) Error() string { return strings.Join(e.lines, "\n") }

func usage(format string, args ...any) error {
	return &usageError{lines: []string{fmt.Sprintf(format, args...)}}
}

// exitError ends the process with the exit code of a command that it ran.
type exitError struct{ code int }

func (e *exitError) Error() string { return fmt.Sprintf("exit code %d", e.code) }

// report prints what err says and returns the exit code.
func report(err error, stderr io.Writer) int {
	var (
		exit *exitError
		bad  *usageError
	)
	switch {
	case err == nil:
		return 0
	case errors.As(err, &exit):
		return exit.code
	case errors.As(err, &bad):
		for _, line := range bad.lines {
			fmt.Fprintln(stderr, "outbox-relay:", oneLine(line))
		}
		return 2
	}
	fmt.Fprintln(stderr, "outbox-relay:", explain(err))
	return 1
}

// rights is where the rights that each command needs are listed.
const rights = "docs/SECURITY.md"

// explain returns what err says on one line, and what to do if Postgres couldn't be reached or a right is lacking. Each host is tried with TLS and
// without, which mostly fail alike: that is said once. Passwords aren't in it.
func explain(err error) string {
	text := err.Error()
	var refused *pgconn.PgError
	if errors.As(err, &refused) && refused.Code == "42501" && !strings.Contains(text, rights) {
		return oneLine(text) + ": " + rights + " says which role may, such as relay_emitter for the application"
	}
	var failed *pgconn.ConnectError
	if !errors.As(err, &failed) || errors.Is(err, context.Canceled) {
		return oneLine(text)
	}
	var tries []string
	for line := range strings.Lines(failed.Unwrap().Error()) {
		if line = strings.TrimSpace(line); !slices.Contains(tries, line) {
			tries = append(tries, line)
		}
	}
	reason := fmt.Sprintf("user %s, database %s: %s", failed.Config.User, failed.Config.Database, strings.Join(tries, "; "))
	return oneLine(strings.Replace(text, failed.Error(), reason, 1)) + ": start Postgres, or correct DATABASE_URL"
}

// oneLine joins the lines of a message, such as that of a connection tried on several hosts.
func oneLine(s string) string {
	lines := strings.FieldsFunc(s, func(r rune) bool { return r == '\n' || r == '\r' })
	for i, line := range lines {
		lines[i] = strings.TrimSpace(line)
	}
	return strings.Join(lines, "; ")
}

// noArgs refuses arguments, among them misspelt commands.
func noArgs(cmd *cobra.Command, args []string) error {
	if len(args) > 0 {
		return usage("unknown argument %q: see `%s --help`", args[0], cmd.CommandPath())
	}
	return nil
}
