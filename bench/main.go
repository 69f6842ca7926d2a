//go:build linux

package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime/debug"
	"slices"
	"strings"
	"syscall"
	"time"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	if err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// options are the command line.
type options struct {
	only     []string
	rounds   int
	json     string
	binary   string
	profiles string
	curves   string
	limit    time.Duration
}

// openFiles is what the largest run needs: a connection is a file here and in the server.
const openFiles = 12_000

func run(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	if len(args) > 0 && args[0] == "floor" {
		return runFloor(ctx)
	}
	o, err := parse(args, stderr)
	if err != nil {
		return err
	}
	if err := raiseFiles(openFiles); err != nil {
		return err
	}
	debug.SetGCPercent(400) // the load generator must not be the limit
	ctx, cancel := context.WithTimeoutCause(ctx, o.limit, fmt.Errorf("not finished within %v (-limit)", o.limit))
	defer cancel()
	s, err := openStack(ctx, o.binary)
	s.profiles = o.profiles
	switch {
	case err != nil:
	case o.curves != "":
		err = s.grow(ctx, o.curves, stdout)
	default:
		err = s.all(ctx, o, stdout)
	}
	if cause := context.Cause(ctx); cause != nil && err != nil {
		err = errors.Join(cause, err)
	}
	return errors.Join(err, s.close(ctx))
}

func parse(args []string, stderr io.Writer) (o options, err error) {
	var only string
	var quick bool
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.StringVar(&only, "run", "", "scenarios, comma separated: "+strings.Join(names(), ", ")+"; empty: all")
	flags.BoolVar(&quick, "quick", false, "latency, throughput and fanout, one round")
	flags.IntVar(&o.rounds, "rounds", 3, "rounds, of which the median is taken")
	flags.StringVar(&o.json, "json", "", "file for the results as JSON")
	flags.StringVar(&o.binary, "binary", "", "the outbox-relay to measure; empty: it is built")
	flags.StringVar(&o.profiles, "profiles", "", "existing folder for CPU and heap profiles of the servers")
	flags.StringVar(&o.curves, "curves", "", "measure how cost grows instead, once, and write the plots into this folder")
	flags.DurationVar(&o.limit, "limit", 15*time.Minute, "time after which all is given up")
	if err := flags.Parse(args); err != nil {
		return o, err
	}
	if flags.NArg() > 0 {
		return o, fmt.Errorf("unknown argument %q: see -help", flags.Arg(0))
	}
	if quick {
		only, o.rounds = "latency,throughput,fanout", 1
	}
	if o.rounds < 1 {
		return o, fmt.Errorf("-rounds %d: want at least 1", o.rounds)
	}
	for name := range strings.SplitSeq(only, ",") {
		if name == "" {
			continue
		}
		if !slices.ContainsFunc(names(), func(n string) bool { return of(n, name) }) {
			return o, fmt.Errorf("-run: there is no scenario %q: want some of %s", name, strings.Join(names(), ", "))
		}
		o.only = append(o.only, name)
	}
	return o, nil
}

// of reports whether a scenario is meant by name: tax means all that begin with tax-.
func of(scenario, name string) bool { return scenario == name || strings.HasPrefix(scenario, name+"-") }

func names() (list []string) {
	for _, sc := range scenarios() {
		list = append(list, sc.name)
	}
	return list
}

// all plays the chosen scenarios and prints a line for each, then the table.
func (s *stack) all(ctx context.Context, o options, stdout io.Writer) error {
	var rows []row
	for _, sc := range scenarios() {
		if len(o.only) > 0 && !slices.ContainsFunc(o.only, func(name string) bool { return of(sc.name, name) }) {
			continue
		}
		began := time.Now()
		var rounds []map[kind]values
		for range o.rounds {
			round := map[kind]values{}
			for _, k := range sc.kinds {
				v, err := sc.play(ctx, s, k)
				if err != nil {
					return fmt.Errorf("%s, %s: %w", sc.name, k, err)
				}
				round[k] = v
			}
			rounds = append(rounds, round)
		}
		some := summary(sc, rounds)
		rows = append(rows, some...)
		fmt.Fprintf(stdout, "%-11s %s [%.0f s]\n", sc.name, line(some), time.Since(began).Seconds())
	}
	fmt.Fprintln(stdout)
	table(stdout, rows)
	if o.json != "" {
		return keep(o.json, rows)
	}
	return nil
}
