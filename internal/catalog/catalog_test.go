package catalog_test

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/outboxrelay/outboxrelay/internal/catalog"
)

// own is this repository's catalog, seen from here.
const own = "../../outbox/catalog.json"

// outputs returns all that is made of the catalog in a file, by name.
func outputs(t *testing.T, path, pkg, title, source, command string) map[string][]byte {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	c, err := catalog.Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	constants, err := c.Go(pkg, source, command)
	if err != nil {
		t.Fatal(err)
	}
	document, err := c.AsyncAPI(title, source, command)
	if err != nil {
		t.Fatal(err)
	}
	return map[string][]byte{"go": constants, "ts": c.TypeScript(source, command), "asyncapi": document}
}

// With UPDATE_GENERATED=1, as `make generate` sets it, the test writes what it would otherwise compare.
func fresh(t *testing.T, path string, want []byte) {
	t.Helper()
	if os.Getenv("UPDATE_GENERATED") == "1" {
		if err := os.WriteFile(path, want, 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if got, err := os.ReadFile(path); err != nil || !bytes.Equal(got, want) {
		t.Errorf("%s isn't what its catalog makes (%v): edit the catalog, then run `make generate`", filepath.Base(path), err)
	}
}

func TestOutputsAreFresh(t *testing.T) {
	t.Parallel()
	out := outputs(t, own, "outbox", "outbox-relay", "outbox/catalog.json", "make generate")
	fresh(t, "../../outbox/catalog.go", out["go"])
	fresh(t, "../../client/src/catalog.ts", out["ts"])
	fresh(t, "../../docs/asyncapi.json", out["asyncapi"])
}

// orders.json is an application's own catalog, with every construct that the language has; the client's tests check its types.
func TestAnApplicationsOwnCatalog(t *testing.T) {
	t.Parallel()
	out := outputs(t, "testdata/orders.json", "orders", "Orders", "orders.json", "outbox-relay catalog")
	fresh(t, "testdata/orders.go.golden", out["go"])
	fresh(t, "testdata/orders.ts", out["ts"])
}

func TestBadCatalogsSayWhereAndWhat(t *testing.T) {
	t.Parallel()
	const event = `{"name": "order:placed", "data": {"type": "object", "properties": {"x": `
	for name, c := range map[string]struct{ text, want string }{
		"not JSON":            {`{`, "read the catalog"},
		"more behind it":      {`{"events": [{"name": "a:b", "data": {"type": "object"}}]} {}`, "more behind it"},
		"unknown field":       {`{"event": []}`, `unknown field "event"`},
		"no events":           {`{}`, "at least one event"},
		"bad name":            {`{"events": [{"name": "OrderPlaced", "data": {"type": "object"}}]}`, `events: "OrderPlaced": a name is noun:verb`},
		"long name":           {`{"events": [{"name": "a:` + strings.Repeat("b", 63) + `", "data": {"type": "object"}}]}`, "at most 64"},
		"reserved":            {`{"events": [{"name": "relay:x", "data": {"type": "object"}}]}`, "events: relay:x: relay:… is reserved"},
		"twice":               {`{"events": [{"name": "a:b", "data": {"type": "object"}}, {"name": "a:b", "data": {"type": "object"}}]}`, "its name in code, AB, is taken (event a:b)"},
		"same in code":        {`{"events": [{"name": "a_b:c", "data": {"type": "object"}}, {"name": "a:b_c", "data": {"type": "object"}}]}`, "its name in code, ABC, is taken"},
		"taken by us":         {`{"types": [{"name": "Catalog", "type": "string"}], "events": [{"name": "a:b", "data": {"type": "object"}}]}`, "types: Catalog: the name is taken"},
		"bad type name":       {`{"types": [{"name": "money", "type": "string"}], "events": [{"name": "a:b", "data": {"type": "object"}}]}`, "begins with a capital"},
		"no object":           {`{"events": [{"name": "a:b", "data": {"type": "string"}}]}`, `events: a:b: data must be {"type": "object"`},
		"no data":             {`{"events": [{"name": "a:b"}]}`, `events: a:b: data must be`},
		"unknown type":        {`{"events": [` + event + `{"type": "float"}}}}]}`, `events: order:placed: data.x: type "float"`},
		"unknown keyword":     {`{"events": [` + event + `{"type": "string", "maxlen": 3}}}}]}`, `x: json: unknown field "maxlen"`},
		"untyped":             {`{"events": [` + event + `{}}}}]}`, `data.x: want one of "type"`},
		"dangling":            {`{"events": [` + event + `{"$ref": "#/types/Nope"}}}}]}`, `data.x: "$ref" is "#/types/Nope"`},
		"array of what":       {`{"events": [` + event + `{"type": "array"}}}}]}`, `data.x: an array needs "items"`},
		"deep":                {`{"events": [` + event + `{"type": "array", "items": {"anyOf": [{"type": "nil"}]}}}}}]}`, `data.x[]: type "nil"`},
		"required, not there": {`{"events": [{"name": "a:b", "data": {"type": "object", "required": ["y"]}}]}`, `"y" is required but not in "properties"`},
		"property twice":      {`{"events": [` + event + `{"type": "string"}, "x": {"type": "string"}}}}]}`, `"x" stands there twice`},
		"object and map":      {`{"events": [{"name": "a:b", "data": {"type": "object", "properties": {"x": {"type": "null"}}, "additionalProperties": {"type": "string"}}}]}`, `either "properties" or`},
	} {
		if _, err := catalog.Parse([]byte(c.text)); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: error %v, want it to say %q", name, err, c.want)
		}
	}
}

func TestTypeNamesOfTheProtocolAreRefused(t *testing.T) {
	t.Parallel()
	c, err := catalog.Parse([]byte(`{"types": [{"name": "Position", "type": "string"}], "events": [{"name": "a:b", "data": {"type": "object"}}]}`))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.AsyncAPI("x", "x.json", "x"); err == nil || !strings.Contains(err.Error(), "types: Position") {
		t.Errorf("error %v, want one that names the type", err)
	}
}
