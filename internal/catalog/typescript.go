package catalog

import (
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strings"
)

// tsKinds are the JSON types in TypeScript, for those that need nothing else.
var tsKinds = map[string]string{
	"string": "string", "number": "number", "integer": "number", "boolean": "boolean", "null": "null",
	"object": "Record<string, unknown>", "array": "unknown[]",
}

// TypeScript returns a module of types: one per type and event of the catalog, and Catalog, which maps the events' names to the types of
// their data. It imports nothing. source and command stand in its first line.
func (c *Catalog) TypeScript(source, command string) []byte {
	var out strings.Builder
	fmt.Fprintf(&out, "// Generated from %s by `%s`: don't edit.\n", source, command)
	declare := func(name, description string, s *Schema) {
		fmt.Fprintf(&out, "\n%sexport type %s = %s;\n", tsDoc(description, ""), name, s.ts(""))
	}
	for _, t := range c.Types {
		shape := t.Schema
		declare(t.Name, shape.Description, &shape)
	}
	for _, e := range c.Events {
		data := "The data of `" + e.Name + "`."
		if e.Description != "" {
			data = oneLine(e.Description) + " " + data
		}
		declare(e.ident(), data, &e.Data)
	}
	out.WriteString("\n/** The data of each event, by the event's name. */\nexport type Catalog = {\n")
	for _, e := range c.Events {
		fmt.Fprintf(&out, "  %s: %s;\n", quote(e.Name), e.ident())
	}
	out.WriteString("};\n\n/** The names of the events. */\nexport type EventName = keyof Catalog;\n")
	return []byte(out.String())
}

// ts returns the type of s; all its lines but the first are indented.
func (s *Schema) ts(indent string) string {
	if name, ok := strings.CutPrefix(s.Ref, typeRef); ok {
		return name
	}
	var union []string
	add := func(t string) {
		if !slices.Contains(union, t) {
			union = append(union, t)
		}
	}
	switch {
	case s.Enum != nil:
		for _, value := range s.Enum {
			add(string(value))
		}
	case s.AnyOf != nil:
		for _, one := range s.AnyOf {
			add(one.ts(indent))
		}
	default:
		for _, k := range s.Type {
			add(s.tsKind(k, indent))
		}
	}
	return strings.Join(union, " | ")
}

func (s *Schema) tsKind(kind, indent string) string {
	switch {
	case kind == "array":
		item := s.Items.ts(indent)
		if strings.ContainsAny(item, "|") {
			item = "(" + item + ")"
		}
		return item + "[]"
	case kind == "object" && s.Values != nil:
		return "Record<string, " + s.Values.ts(indent) + ">"
	case kind == "object" && s.Properties != nil:
		var out strings.Builder
		out.WriteString("{\n")
		for _, p := range s.Properties {
			optional := "?"
			if slices.Contains(s.Required, p.name) {
				optional = ""
			}
			fmt.Fprintf(&out, "%s%s  %s%s: %s;\n", tsDoc(p.schema.Description, indent+"  "), indent, tsKey(p.name), optional, p.schema.ts(indent+"  "))
		}
		return out.String() + indent + "}"
	}
	return tsKinds[kind]
}

// tsDoc is a doc comment with its line's end, or nothing.
func tsDoc(text, indent string) string {
	if text == "" {
		return ""
	}
	return indent + "/** " + strings.ReplaceAll(oneLine(text), "*/", "*\\/") + " */\n"
}

var tsIdent = regexp.MustCompile(`^[A-Za-z_$][A-Za-z0-9_$]*$`)

func tsKey(name string) string {
	if tsIdent.MatchString(name) {
		return name
	}
	return quote(name)
}

// quote writes a string as JSON, which is TypeScript too.
func quote(s string) string {
	text, _ := json.Marshal(s) // a string always marshals
	return string(text)
}
