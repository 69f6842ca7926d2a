package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/outboxrelay/outboxrelay/internal/catalog"
)

func (p *program) catalogCommand() *cobra.Command {
	var constants, pkg, types, document, title string
	cmd := &cobra.Command{
		Use:   "catalog FILE",
		Short: "make Go constants, TypeScript types and an AsyncAPI document of an application's own events",
		Long: "Reads a catalog of events (docs/CATALOG.md says how to write one) and writes what is made of it to the files that are named.\n" +
			"Neither Postgres nor Redis is needed.",
		Example: "  outbox-relay catalog events.json --typescript web/src/events.ts --go events/events.go --asyncapi docs/events.asyncapi.json",
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) != 1 {
				return usage("want the name of one catalog file, have %d arguments: see `%s --help`", len(args), cmd.CommandPath())
			}
			return nil
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&constants, "go", "", "the Go file to write, with one constant per event")
	flags.StringVar(&pkg, "package", "", "the package of the Go file (default: the name of its folder)")
	flags.StringVar(&types, "typescript", "", "the TypeScript file to write, for connect<Catalog>(…)")
	flags.StringVar(&document, "asyncapi", "", "the AsyncAPI 3 document to write, of the whole protocol with these events (JSON)")
	flags.StringVar(&title, "title", "", "the title of the AsyncAPI document (default: the name of FILE)")
	cmd.RunE = func(_ *cobra.Command, args []string) error {
		if constants == "" && types == "" && document == "" {
			return usage("nothing to write: name a file with --typescript, --go or --asyncapi")
		}
		text, err := os.ReadFile(args[0])
		if err != nil {
			return err
		}
		c, err := catalog.Parse(text)
		if err != nil {
			return &usageError{lines: strings.Split(err.Error(), "\n")}
		}
		const by = "outbox-relay catalog"
		source := filepath.Base(args[0])
		if title == "" {
			title = strings.TrimSuffix(source, filepath.Ext(source))
		}
		out := map[string][]byte{}
		if types != "" {
			out[types] = c.TypeScript(source, by)
		}
		if constants != "" {
			if out[constants], err = c.Go(goPackage(pkg, constants), source, by); err != nil {
				return usage("--package: %v", err)
			}
		}
		if document != "" {
			if out[document], err = c.AsyncAPI(title, source, by); err != nil {
				return usage("%v", err)
			}
		}
		return p.writeAll(out)
	}
	return cmd
}

// goPackage is the package that was asked for, else the one that the file's folder suggests.
func goPackage(pkg, file string) string {
	if pkg != "" {
		return pkg
	}
	path, err := filepath.Abs(file)
	if err != nil {
		return "events"
	}
	return filepath.Base(filepath.Dir(path))
}

// writeAll writes files and says so.
func (p *program) writeAll(files map[string][]byte) error {
	for name, text := range files {
		if err := os.WriteFile(name, text, 0o644); err != nil {
			return err
		}
		fmt.Fprintf(p.stdout, "wrote %s\n", name)
	}
	return nil
}
