package archtest

import (
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/outboxrelay/outboxrelay"

// pkg is what `go list -json` says about a package of this module. Tests' imports are theirs.
type pkg struct {
	ImportPath string
	Imports    []string
	Standard   bool
}

func (p pkg) name() string { return strings.TrimPrefix(strings.TrimPrefix(p.ImportPath, module), "/") }

// rule allows packages below `of` to import, of this module and of others, only what is below `may`. "std" stands for the standard library.
type rule struct {
	of  string
	may []string
}

// within reports whether the package path is root or lies below it.
func within(path, root string) bool {
	return path == root || strings.HasPrefix(path, root+"/")
}

func TestImports(t *testing.T) {
	t.Parallel()
	pkgs := list(t)
	// The leaves; a package of this module that isn't named here may not be imported by them.
	only := []rule{
		{of: "outbox", may: []string{module + "/outbox", "github.com/jackc/pgx/v5"}},
	}
	// Pairs that stay apart.
	never := []struct{ of, imports string }{
		{"relay", "ws"},
		{"ws", "relay"},
		{"outbox", "relay"},
		{"outbox", "ws"},
		{"outbox", "auth"},
		{"auth", "outbox"},
		{"auth", "relay"},
		{"auth", "ws"},
		{"ws", "outbox"},
		{"relay", "auth"},
	}
	for _, p := range pkgs {
		for _, imported := range p.Imports {
			for _, r := range only {
				if within(p.name(), r.of) && !standard(imported) && !slices.ContainsFunc(r.may, func(root string) bool { return within(imported, root) }) {
					t.Errorf("%s imports %s: %s may import only the standard library and %s", p.name(), imported, r.of, strings.Join(r.may, ", "))
				}
			}
			for _, n := range never {
				if within(p.name(), n.of) && within(imported, module+"/"+n.imports) {
					t.Errorf("%s imports %s: they stay apart, cmd joins them", p.name(), imported)
				}
			}
			services(t, p, imported)
		}
	}
}

// services checks that only commands, examples and tests know the embedded services, and that nobody imports a command.
func services(t *testing.T, p pkg, imported string) {
	t.Helper()
	top, _, _ := strings.Cut(p.name(), "/")
	for _, hidden := range []string{"internal/devstack", "internal/testenv"} {
		mayKnow := top == "cmd" || top == "bench" || top == "test" || within(p.name(), hidden) || within(p.name(), "internal/testenv") || within(p.name(), "internal/scenario")
		if within(imported, module+"/"+hidden) && !mayKnow {
			t.Errorf("%s imports %s: only cmd and tests may", p.name(), imported)
		}
	}
	if within(imported, module+"/cmd") && top != "cmd" {
		t.Errorf("%s imports %s: a command is imported by nobody", p.name(), imported)
	}
}

// standard reports whether an import path belongs to the standard library: its first element has no dot.
func standard(path string) bool {
	first, _, _ := strings.Cut(path, "/")
	return !strings.Contains(first, ".")
}

func list(t *testing.T) []pkg {
	t.Helper()
	out, err := exec.Command("go", "list", "-e", "-json=ImportPath,Imports,Standard", module+"/...").Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	var pkgs []pkg
	for d := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p pkg
		err := d.Decode(&p)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatalf("go list: %v", err)
		}
		pkgs = append(pkgs, p)
	}
	if len(pkgs) < 3 {
		t.Fatalf("go list found %d packages: the rules checked nothing", len(pkgs))
	}
	return pkgs
}
