package catalog

import (
	"bytes"
	_ "embed"
	"encoding/json"
	"fmt"
	"slices"
	"text/template"
)

//go:embed asyncapi.json.tmpl
var asyncAPIText string

var asyncAPITemplate = template.Must(template.New("asyncapi").Funcs(template.FuncMap{"json": inDocument}).Parse(asyncAPIText))

// protocolSchemas are names in the AsyncAPI document that the protocol itself takes.
var protocolSchemas = []string{"Position", "Checkpoint", "ProgramId"}

// AsyncAPI returns an AsyncAPI 3 document, in JSON, of the whole protocol of /ws with the catalog's events in it. source and command stand
// in its description.
func (c *Catalog) AsyncAPI(title, source, command string) ([]byte, error) {
	for _, t := range c.Types {
		if slices.Contains(protocolSchemas, t.Name) {
			return nil, fmt.Errorf("types: %s: the protocol has a schema of this name: take another one for the AsyncAPI document", t.Name)
		}
	}
	var out, pretty bytes.Buffer
	err := asyncAPITemplate.Execute(&out, map[string]any{
		"Title": title, "Header": fmt.Sprintf("Generated from %s by `%s`: don't edit.", source, command), "Events": c.Events, "Types": c.Types,
	})
	if err != nil {
		return nil, fmt.Errorf("fill in the AsyncAPI document: %w", err)
	}
	if err := json.Indent(&pretty, out.Bytes(), "", "  "); err != nil {
		return nil, fmt.Errorf("indent the AsyncAPI document: %w", err)
	}
	return append(bytes.TrimSpace(pretty.Bytes()), '\n'), nil
}

// inDocument writes a value as JSON; references to types of the catalog become those of the document.
func inDocument(v any) (string, error) {
	var out bytes.Buffer
	e := json.NewEncoder(&out)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		return "", err
	}
	text := bytes.ReplaceAll(out.Bytes(), []byte(`"$ref":"`+typeRef), []byte(`"$ref":"#/components/schemas/`))
	return string(bytes.TrimSpace(text)), nil
}
