package catalog_test

import (
	"encoding/json"
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// document is docs/asyncapi.json as far as it is compared with docs/PROTOCOL.md.
type document struct {
	Channels map[string]struct {
		Address, Description string
		Messages             map[string]any
	}
	Operations map[string]struct {
		Action   string
		Messages []struct {
			Ref string `json:"$ref"`
		}
	}
	Components struct {
		Messages map[string]struct {
			Payload struct {
				Properties map[string]struct {
					Const string
					Enum  []string
				}
				AllOf []struct {
					Properties map[string]struct{ Const string }
				}
			}
		}
	}
}

// section returns the text of PROTOCOL.md between a heading and the next one of the same level.
func section(t *testing.T, text, heading string) string {
	t.Helper()
	_, rest, ok := strings.Cut(text, "\n"+heading+"\n")
	if !ok {
		t.Fatalf("docs/PROTOCOL.md has no %q", heading)
	}
	level, _, _ := strings.Cut(heading, " ")
	rest, _, _ = strings.Cut(rest, "\n"+level+" ")
	return rest
}

// all returns what the first group of a pattern matches, sorted, each once.
func all(pattern, text string) []string {
	found := map[string]bool{}
	for _, m := range regexp.MustCompile(pattern).FindAllStringSubmatch(text, -1) {
		found[m[1]] = true
	}
	return slices.Sorted(maps.Keys(found))
}

// The document and docs/PROTOCOL.md are written by hand side by side; a frame, a reason or a close code in only one of them is a mistake.
func TestTheDocumentSaysWhatTheProtocolSays(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("../../docs/PROTOCOL.md")
	if err != nil {
		t.Fatal(err)
	}
	protocol := string(text)
	raw, err := os.ReadFile("../../docs/asyncapi.json")
	if err != nil {
		t.Fatal(err)
	}
	var doc document
	if err := json.Unmarshal(raw, &doc); err != nil {
		t.Fatal(err)
	}
	same := func(what string, have, want []string) {
		t.Helper()
		have = slices.Sorted(slices.Values(have))
		if len(want) == 0 || !slices.Equal(have, want) {
			t.Errorf("%s: the document has %v, the protocol %v", what, have, want)
		}
	}
	sent := func(operation string) (names []string) {
		for _, m := range doc.Operations[operation].Messages {
			names = append(names, m.Ref[strings.LastIndexByte(m.Ref, '/')+1:])
		}
		return names
	}
	const frame = `"type": ?"([a-z]+)"`
	socket := section(t, protocol, "## WebSocket `/ws`")
	client := all(frame, section(t, socket, "### First frame of the client"))
	server := all(frame, section(t, socket, "### Frames of the server"))
	same("frames", slices.Collect(maps.Keys(doc.Components.Messages)), all(frame, socket))
	same("frames of the channel", slices.Collect(maps.Keys(doc.Channels["ws"].Messages)), all(frame, socket))
	same("frames of the server", sent("toClient"), slices.Sorted(slices.Values(append(server, "pong"))))
	same("frames of the client", append(sent("fromClient"), "pong"), client)
	messages := doc.Components.Messages
	for name, m := range messages {
		if m.Payload.Properties["type"].Const != name && (len(m.Payload.AllOf) == 0 || m.Payload.AllOf[0].Properties["type"].Const != name) {
			t.Errorf("the message %s isn't of that type", name)
		}
	}
	same("reasons of a gap", messages["gap"].Payload.Properties["reason"].Enum, all("(?m)^\\| `([a-z_]+)` \\|", section(t, socket, "### Frames of the server")))
	endings := section(t, socket, "### Close codes")
	same("codes of errors", messages["error"].Payload.Properties["code"].Enum, all("\\| `([a-z_]+)`[^|]* \\| [0-9]", endings))
	for row := range strings.Lines(endings) {
		if strings.HasPrefix(row, "|") && !strings.Contains(doc.Channels["ws"].Description, row) {
			t.Errorf("the document's table of close codes lacks %s", row)
		}
	}
}
