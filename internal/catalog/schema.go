package catalog

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
)

// Schema is the part of JSON Schema that has a plain counterpart in TypeScript, and the bounds, which only the AsyncAPI document carries.
type Schema struct {
	Ref         string            `json:"$ref,omitempty"` // #/types/<Name>
	Description string            `json:"description,omitempty"`
	Type        kinds             `json:"type,omitempty"`
	Enum        []json.RawMessage `json:"enum,omitempty"`
	Properties  properties        `json:"properties,omitempty"`
	Required    []string          `json:"required,omitempty"`
	Values      *Schema           `json:"additionalProperties,omitempty"` // of an object without properties: a map
	Items       *Schema           `json:"items,omitempty"`
	AnyOf       []*Schema         `json:"anyOf,omitempty"`

	Format    string            `json:"format,omitempty"`
	Pattern   string            `json:"pattern,omitempty"`
	MinLength *int              `json:"minLength,omitempty"`
	MaxLength *int              `json:"maxLength,omitempty"`
	MinItems  *int              `json:"minItems,omitempty"`
	MaxItems  *int              `json:"maxItems,omitempty"`
	Minimum   *json.Number      `json:"minimum,omitempty"`
	Maximum   *json.Number      `json:"maximum,omitempty"`
	Examples  []json.RawMessage `json:"examples,omitempty"`
}

// kinds is one JSON type or several.
type kinds []string

func (k *kinds) UnmarshalJSON(text []byte) error {
	var one string
	if json.Unmarshal(text, &one) == nil {
		*k = kinds{one}
		return nil
	}
	return json.Unmarshal(text, (*[]string)(k))
}

func (k kinds) MarshalJSON() ([]byte, error) {
	if len(k) == 1 {
		return json.Marshal(k[0])
	}
	return json.Marshal([]string(k))
}

// property is a member of an object.
type property struct {
	name   string
	schema *Schema
}

// properties keeps the order of the file.
type properties []property

func (p *properties) UnmarshalJSON(text []byte) error {
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	if start, err := d.Token(); err != nil || start != json.Delim('{') {
		return fmt.Errorf("properties: want an object, have %s", text)
	}
	for d.More() {
		name, err := d.Token()
		if err != nil {
			return err
		}
		var s Schema
		if err := d.Decode(&s); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		*p = append(*p, property{name.(string), &s})
	}
	return nil
}

func (p properties) MarshalJSON() ([]byte, error) {
	out := []byte{'{'}
	for i, m := range p {
		name, err := json.Marshal(m.name)
		if err != nil {
			return nil, err
		}
		schema, err := json.Marshal(m.schema)
		if err != nil {
			return nil, err
		}
		if i > 0 {
			out = append(out, ',')
		}
		out = append(append(append(out, name...), ':'), schema...)
	}
	return append(out, '}'), nil
}

// typeRef begins a reference to a type of the catalog.
const typeRef = "#/types/"

// check returns what is wrong with s and everything in it; at says where s stands.
func (s *Schema) check(at string, types map[string]bool) (mistakes []error) {
	complain := func(format string, args ...any) {
		mistakes = append(mistakes, fmt.Errorf(at+": "+format, args...))
	}
	if name, ok := strings.CutPrefix(s.Ref, typeRef); s.Ref != "" && (!ok || !types[name]) {
		complain(`"$ref" is %q, want "%s" and the name of a type in "types"`, s.Ref, typeRef)
	}
	if s.Ref == "" && s.Type == nil && s.Enum == nil && s.AnyOf == nil {
		complain(`want one of "type", "enum", "anyOf", "$ref"`)
	}
	for _, k := range s.Type {
		if tsKinds[k] == "" {
			complain("type %q: want string, number, integer, boolean, object, array or null", k)
		}
	}
	if slices.Contains(s.Type, "array") && s.Items == nil {
		complain(`an array needs "items"`)
	}
	if s.Values != nil && s.Properties != nil {
		complain(`an object has either "properties" or "additionalProperties"`)
	}
	for _, name := range s.Required {
		if !slices.ContainsFunc(s.Properties, func(p property) bool { return p.name == name }) {
			complain(`%q is required but not in "properties"`, name)
		}
	}
	for i, p := range s.Properties {
		if slices.ContainsFunc(s.Properties[:i], func(q property) bool { return q.name == p.name }) {
			complain("%q stands there twice", p.name)
		}
		mistakes = append(mistakes, p.schema.check(at+"."+p.name, types)...)
	}
	if s.Values != nil {
		mistakes = append(mistakes, s.Values.check(at+".*", types)...)
	}
	if s.Items != nil {
		mistakes = append(mistakes, s.Items.check(at+"[]", types)...)
	}
	for _, one := range s.AnyOf {
		mistakes = append(mistakes, one.check(at, types)...)
	}
	return mistakes
}
