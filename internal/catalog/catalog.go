package catalog

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strings"
)

// Catalog is a parsed catalog, in the order of its file.
type Catalog struct {
	Types  []Type  `json:"types"`
	Events []Event `json:"events"`
}

// Type is a shape that several events share; they refer to it by {"$ref": "#/types/<Name>"}.
type Type struct {
	Name string `json:"name"`
	Schema
}

// Event is a kind of event.
type Event struct {
	Name        string `json:"name"` // noun:verb
	Description string `json:"description"`
	Data        Schema `json:"data"` // of an object
}

// ident returns the event's name as Go and TypeScript write it: RequestStatusChanged for request:status_changed.
func (e Event) ident() string {
	var out strings.Builder
	for part := range strings.FieldsFuncSeq(e.Name, func(r rune) bool { return r == ':' || r == '_' }) {
		out.WriteString(strings.ToUpper(part[:1]) + part[1:])
	}
	return out.String()
}

var (
	eventPattern = regexp.MustCompile(`^[a-z][a-z0-9_]*:[a-z][a-z0-9_]*$`) // the table's CHECK
	typePattern  = regexp.MustCompile(`^[A-Z][A-Za-z0-9]*$`)
)

// taken are names that the outputs define themselves.
var taken = []string{"Catalog", "EventName"}

// Parse reads a catalog and checks all of it. The error names the place in the file, such as "events: order:placed: data.total", and
// says what is wanted there; several mistakes are several lines.
func Parse(text []byte) (*Catalog, error) {
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	var c Catalog
	if err := d.Decode(&c); err != nil {
		return nil, fmt.Errorf("read the catalog: %w: docs/CATALOG.md says what it may hold", err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("read the catalog: want one JSON object, there is more behind it")
	}
	if err := errors.Join(c.check()...); err != nil {
		return nil, err
	}
	return &c, nil
}

func (c *Catalog) check() (mistakes []error) {
	complain := func(format string, args ...any) { mistakes = append(mistakes, fmt.Errorf(format, args...)) }
	if len(c.Events) == 0 {
		complain("events: want at least one event")
	}
	seen := map[string]string{}
	for _, name := range taken {
		seen[name] = "the generator's own"
	}
	types := map[string]bool{}
	for _, t := range c.Types {
		types[t.Name] = true
		if !typePattern.MatchString(t.Name) {
			complain("types: %q: a name is letters and digits and begins with a capital", t.Name)
		}
		if other, ok := seen[t.Name]; ok {
			complain("types: %s: the name is taken (%s)", t.Name, other)
		}
		seen[t.Name] = "type " + t.Name
	}
	for _, t := range c.Types {
		mistakes = append(mistakes, t.check("types: "+t.Name, types)...)
	}
	for _, e := range c.Events {
		switch {
		case !eventPattern.MatchString(e.Name) || len(e.Name) > 64:
			complain("events: %q: a name is noun:verb in lower case, at most 64 characters", e.Name)
		case strings.HasPrefix(e.Name, "relay:"):
			complain("events: %s: relay:… is reserved", e.Name)
		}
		if other, ok := seen[e.ident()]; ok {
			complain("events: %s: its name in code, %s, is taken (%s)", e.Name, e.ident(), other)
		}
		seen[e.ident()] = "event " + e.Name
		if len(e.Data.Type) != 1 || e.Data.Type[0] != "object" {
			complain(`events: %s: data must be {"type": "object", …}`, e.Name)
		}
		mistakes = append(mistakes, e.Data.check("events: "+e.Name+": data", types)...)
	}
	return mistakes
}
