package catalog

import (
	"fmt"
	"go/format"
	"strings"
)

// Go returns a Go file of package pkg with one constant per event. In package outbox itself the constants are of its type Name, in any
// other of outbox.Name. source and command stand in the file's first line.
func (c *Catalog) Go(pkg, source, command string) ([]byte, error) {
	var out strings.Builder
	fmt.Fprintf(&out, "// Code generated from %s by `%s`; DO NOT EDIT.\n\npackage %s\n\n", source, command, pkg)
	typ := "Name"
	if pkg != "outbox" {
		typ = "outbox.Name"
		out.WriteString("import \"github.com/outboxrelay/outboxrelay/outbox\"\n\n")
	}
	out.WriteString("// The catalog.\nconst (\n")
	for _, e := range c.Events {
		fmt.Fprintf(&out, "\t%s %s = %q", e.ident(), typ, e.Name)
		if e.Description != "" {
			fmt.Fprintf(&out, " // %s", strings.TrimSuffix(oneLine(e.Description), "."))
		}
		out.WriteByte('\n')
	}
	out.WriteString(")\n")
	text, err := format.Source([]byte(out.String()))
	if err != nil {
		return nil, fmt.Errorf("format the Go file: %w", err)
	}
	return text, nil
}

func oneLine(s string) string { return strings.Join(strings.Fields(s), " ") }
