package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestCatalogWritesWhatItIsAskedFor(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file := filepath.Join(dir, "orders.json")
	golden := filepath.Join("..", "..", "internal", "catalog", "testdata")
	text, err := os.ReadFile(filepath.Join(golden, "orders.json"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, text, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(dir, "orders"), 0o755); err != nil {
		t.Fatal(err)
	}
	types, constants, document := filepath.Join(dir, "orders.ts"), filepath.Join(dir, "orders", "x.go"), filepath.Join(dir, "orders.asyncapi.json")
	code, stdout, stderr := call(t, nil, "catalog", file, "--typescript", types, "--go", constants, "--asyncapi", document)
	if code != 0 || strings.Count(stdout, "wrote ") != 3 {
		t.Fatalf("exit code %d, wrote %q and %q", code, stdout, stderr)
	}
	for name, want := range map[string]string{types: "orders.ts", constants: "orders.go.golden"} {
		got, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		expected, err := os.ReadFile(filepath.Join(golden, want))
		if err != nil {
			t.Fatal(err)
		}
		if string(got) != string(expected) {
			t.Errorf("%s isn't %s:\n%s", name, want, got)
		}
	}
	if got, err := os.ReadFile(document); err != nil || !strings.Contains(string(got), `"title": "orders"`) || !strings.Contains(string(got), `"const": "order:sent_out"`) {
		t.Errorf("the document (%v): %.300s", err, got)
	}
}

func TestCatalogRefuses(t *testing.T) {
	t.Parallel()
	bad := filepath.Join(t.TempDir(), "bad.json")
	if err := os.WriteFile(bad, []byte(`{"events": [{"name": "Order", "data": {"type": "object"}}, {"name": "a:b", "data": {}}]}`), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		args []string
		code int
		want string
	}{
		{[]string{"catalog"}, 2, "want the name of one catalog file"},
		{[]string{"catalog", bad}, 2, "nothing to write"},
		{[]string{"catalog", bad, "--typescript", bad + ".ts"}, 2, "outbox-relay: events: a:b: data must be"},
		{[]string{"catalog", bad + ".not", "--typescript", bad + ".ts"}, 1, "no such file"},
	} {
		if code, _, stderr := call(t, nil, c.args...); code != c.code || !strings.Contains(stderr, c.want) {
			t.Errorf("%v: exit code %d, wrote %q; want %d and %q", c.args, code, stderr, c.code, c.want)
		}
	}
}
