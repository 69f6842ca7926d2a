package outbox

import (
	"bytes"
	"encoding/json"
	"fmt"
	"regexp"
	"strings"
	"unicode/utf8"
)

// Name is the kind of an event, noun:verb in lower case, at most 64 characters. An application defines its own beside the eight of
// the catalog (catalog.json, docs/CATALOG.md); relay:… is reserved.
type Name string

// MaxDataBytes bounds the JSON text of Event.Data. The table checks the same bound.
const MaxDataBytes = 256 << 10

// Event is one event as an application emits it.
type Event struct {
	Program string // whose members get it: 1 to 128 of A-Z a-z 0-9 . _ : -, beginning with a letter or digit
	Name    Name
	Request string // optional, at most 128 characters
	Data    any    // marshals to a JSON object of at most MaxDataBytes; nil is {}. A json.RawMessage keeps its bytes
	By      Actor  // optional

	Traceparent string // optional W3C trace context of the change, at most 128 characters; stored, never sent to clients
}

// Actor is who caused an event. Empty fields are left out of the frame.
type Actor struct {
	UserID string // at most 128 characters
	Name   string // at most 256 characters
}

// InvalidError says which field of an event can't be emitted and why. Nothing was sent to the database: the transaction is still
// usable.
type InvalidError struct {
	Index  int    // of the event among those given to Emit
	Field  string // column name: program_id, event, …
	Reason string
}

func (e *InvalidError) Error() string {
	return fmt.Sprintf("emit event %d: %s %s", e.Index, e.Field, e.Reason)
}

var (
	programPattern = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._:-]{0,127}$`)
	namePattern    = regexp.MustCompile(`^[a-z][a-z0-9_]*:[a-z][a-z0-9_]*$`)
)

// validate returns the JSON text of e's data, or an InvalidError with Index left to the caller. It is at least as strict as the
// table, so that a mistake is found before it costs the transaction.
func (e *Event) validate() (string, error) {
	invalid := func(field, reason string) (string, error) { return "", &InvalidError{Field: field, Reason: reason} }
	switch {
	case !programPattern.MatchString(e.Program):
		return invalid("program_id", "must be 1 to 128 of A-Z a-z 0-9 . _ : - and begin with a letter or digit")
	case !namePattern.MatchString(string(e.Name)) || len(e.Name) > 64:
		return invalid("event", "must be noun:verb in lower case, at most 64 characters")
	case strings.HasPrefix(string(e.Name), "relay:"):
		return invalid("event", "must not begin with relay:, which is reserved")
	}
	for _, f := range []struct {
		column, value string
		bound         int
	}{
		{"request_id", e.Request, 128},
		{"performed_by_id", e.By.UserID, 128},
		{"performed_by_name", e.By.Name, 256},
		{"traceparent", e.Traceparent, 128},
	} {
		if !utf8.ValidString(f.value) || strings.ContainsRune(f.value, 0) {
			return invalid(f.column, "must be valid UTF-8 without NUL")
		}
		if utf8.RuneCountInString(f.value) > f.bound {
			return invalid(f.column, fmt.Sprintf("must be at most %d characters", f.bound))
		}
	}
	return e.marshalData()
}

func (e *Event) marshalData() (string, error) {
	if e.Data == nil {
		return "{}", nil
	}
	text, err := rawOrMarshal(e.Data)
	if err != nil {
		return "", &InvalidError{Field: "data", Reason: "must marshal to JSON: " + err.Error()}
	}
	switch {
	case len(text) > MaxDataBytes:
		return "", &InvalidError{Field: "data", Reason: fmt.Sprintf("must be at most %d bytes, is %d", MaxDataBytes, len(text))}
	case !json.Valid(text) || !utf8.Valid(text) || !bytes.HasPrefix(bytes.TrimLeft(text, " \t\n\r"), []byte("{")):
		return "", &InvalidError{Field: "data", Reason: "must be a JSON object"}
	}
	return string(text), nil
}

// rawOrMarshal keeps the bytes of data that is JSON already: json.Marshal would compact and escape them.
func rawOrMarshal(data any) ([]byte, error) {
	switch d := data.(type) {
	case json.RawMessage:
		return d, nil
	case []byte:
		return d, nil
	}
	return json.Marshal(data)
}
