package relay

import (
	"encoding/json"
	"strconv"

	"github.com/outboxrelay/outboxrelay/outbox"
)

// timestampLayout is ISO 8601 with the database's microseconds, always six digits.
const timestampLayout = "2006-01-02T15:04:05.000000Z"

// appendEntry appends the bytes of a row's log entry: for an event the frame that clients get, for a membership change the control
// entry. The same row always gives the same bytes. The JSON text of the data is pasted as it is.
func appendEntry(b []byte, r *outbox.Row) []byte {
	if r.Control {
		return appendControl(b, r)
	}
	b = append(b, `{"type":"event","id":"`...)
	b = strconv.AppendInt(b, r.ID, 10)
	b = append(b, `","position":"`...)
	b = strconv.AppendInt(b, r.Position, 10)
	b = append(b, `","event":"`...)
	b = append(b, r.Event...) // the table allows nothing here that JSON would escape
	b = append(b, `","programId":"`...)
	b = append(b, r.Program...)
	b = append(b, '"')
	if r.Request != nil {
		b = append(b, `,"requestId":`...)
		b = appendString(b, *r.Request)
	}
	b = append(b, `,"data":`...)
	b = append(b, r.Data...)
	if r.ByID != nil || r.ByName != nil {
		b = append(b, `,"performedBy":{`...)
		if r.ByID != nil {
			b = append(b, `"userId":`...)
			b = appendString(b, *r.ByID)
		}
		if r.ByName != nil {
			if r.ByID != nil {
				b = append(b, ',')
			}
			b = append(b, `"name":`...)
			b = appendString(b, *r.ByName)
		}
		b = append(b, '}')
	}
	b = append(b, `,"timestamp":"`...)
	b = r.CreatedAt.UTC().AppendFormat(b, timestampLayout)
	return append(b, `"}`...)
}

// control is the JSON form of a membership change in a log.
type control struct {
	Type     string `json:"type"` // "control"
	ID       string `json:"id"`
	Position string `json:"position"`
	UserID   string `json:"userId"`
	Change   string `json:"change"`  // "in" or "out"
	Through  string `json:"through"` // position of the last row of the change's batch
}

func appendControl(b []byte, r *outbox.Row) []byte {
	var data struct {
		Change string `json:"change"`
	}
	// The function that wrote the row built this JSON; should anything else have, an unreadable change is a barrier, not a member.
	if json.Unmarshal([]byte(r.Data), &data) != nil || data.Change != "in" {
		data.Change = "out"
	}
	c := control{
		Type: "control", ID: strconv.FormatInt(r.ID, 10), Position: strconv.FormatInt(r.Position, 10), Change: data.Change,
		Through: strconv.FormatInt(r.TickThrough, 10),
	}
	if r.ByID != nil {
		c.UserID = *r.ByID
	}
	text, err := json.Marshal(c)
	if err != nil {
		panic("relay: a struct of strings always marshals: " + err.Error())
	}
	return append(b, text...)
}

// appendString appends s as a JSON string. What needs no escape, almost everything, is copied.
func appendString(b []byte, s string) []byte {
	for i := range len(s) {
		if c := s[i]; c < 0x20 || c == '"' || c == '\\' || c >= 0x7f {
			return appendEscaped(b, s)
		}
	}
	b = append(b, '"')
	b = append(b, s...)
	return append(b, '"')
}

func appendEscaped(b []byte, s string) []byte {
	text, err := json.Marshal(s)
	if err != nil {
		panic("relay: a string always marshals: " + err.Error())
	}
	return append(b, text...)
}
