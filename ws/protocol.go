package ws

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net/url"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/coder/websocket"
)

// The close codes of the protocol: 4000–4499 may be retried, 4500–4999 may not.
const (
	closeTokenExpired    websocket.StatusCode = 4001
	closeNoPong          websocket.StatusCode = 4002
	closeSlowConsumer    websocket.StatusCode = 4008
	closeRateLimited     websocket.StatusCode = 4013
	closeInvalidToken    websocket.StatusCode = 4500
	closeAuthRequired    websocket.StatusCode = 4501
	closeAuthTimeout     websocket.StatusCode = 4502
	closeUserInactive    websocket.StatusCode = 4503
	closeConnectionLimit websocket.StatusCode = 4504
)

// ending is why a socket is closed: an error frame, if there is one to send, and the close code.
type ending struct {
	status  websocket.StatusCode
	code    string // of the error frame; empty: none is sent
	message string
}

func (e *ending) Error() string { return fmt.Sprintf("close %d %s", e.status, e.code) }

var (
	endAuthRequired    = &ending{closeAuthRequired, "auth_required", "Authentication required"}
	endAuthTimeout     = &ending{closeAuthTimeout, "auth_timeout", "Authentication timed out"}
	endInvalidToken    = &ending{closeInvalidToken, "invalid_token", "Invalid or expired token"}
	endTokenExpired    = &ending{closeTokenExpired, "token_expired", "Invalid or expired token"}
	endUserInactive    = &ending{closeUserInactive, "user_inactive", "User not found or inactive"}
	endConnectionLimit = &ending{closeConnectionLimit, "connection_limit", "Too many connections"}
	endNoPong          = &ending{status: closeNoPong}
	endSlowConsumer    = &ending{closeSlowConsumer, "slow_consumer", "Too slow to keep up"}
	endRateLimited     = &ending{closeRateLimited, "rate_limited", "Too many messages"}
	endBadFrame        = &ending{websocket.StatusInvalidFramePayloadData, "bad_frame", "Malformed frame"}
	endBinary          = &ending{websocket.StatusUnsupportedData, "bad_frame", "Only text frames are understood"}
	endTooBig          = &ending{websocket.StatusMessageTooBig, "bad_frame", "Frame too large"}
	endProtocolError   = &ending{status: websocket.StatusProtocolError}
	endRestart         = &ending{status: websocket.StatusServiceRestart}
	endTryLater        = &ending{status: websocket.StatusTryAgainLater}
	endGone            = &ending{status: websocket.StatusNormalClosure} // the peer went away: nothing can be sent
)

// errBadFrame is returned for a client frame that can't be understood.
var errBadFrame = errors.New("malformed frame")

// clientFrame is a frame of the client.
type clientFrame struct {
	ping  bool   // else it is an auth frame
	token string // of an auth frame; empty: none was given
	ask   ask
	vague bool // ask can't be read, which is an error unless it is ignored
}

// ask is what a client wants from its connection.
type ask struct {
	since    map[string]int64 // last position seen by program; "*" stands for all the others
	last     int64            // cursor made of lastEventTimestamp
	hasLast  bool
	programs map[string]bool // nil: all
	batch    bool
}

// cursor returns where a program is to be continued and whether that is a time instead of a position; ok is false for a live start.
func (a *ask) cursor(program string) (c int64, isTime, ok bool) {
	if c, ok = a.since[program]; ok {
		return c, false, true
	}
	if c, ok = a.since["*"]; ok {
		return c, false, true
	}
	return a.last, true, a.hasLast
}

// wants reports whether the program belongs to this connection.
func (a *ask) wants(program string) bool { return a.programs == nil || a.programs[program] }

// parseClientFrame parses one text message of a client.
func parseClientFrame(b []byte) (clientFrame, error) {
	if !utf8.Valid(b) {
		return clientFrame{}, errBadFrame
	}
	var raw struct {
		Type  string          `json:"type"`
		Token string          `json:"token"`
		Since json.RawMessage `json:"since"`
		Last  json.RawMessage `json:"lastEventTimestamp"`
		Progs *[]string       `json:"programs"`
		Batch bool            `json:"batch"`
	}
	var f clientFrame
	if err := json.Unmarshal(b, &raw); err != nil {
		var mistyped *json.UnmarshalTypeError
		if !errors.As(err, &mistyped) || mistyped.Field != "programs" && mistyped.Field != "batch" {
			return clientFrame{}, errBadFrame
		}
		f.vague = true
	}
	switch raw.Type {
	case "ping":
		return clientFrame{ping: true}, nil
	case "auth":
	default:
		return clientFrame{}, errBadFrame
	}
	f.token, f.ask.batch = raw.Token, raw.Batch
	if raw.Progs != nil {
		f.ask.programs = set(*raw.Progs)
	}
	f.vague = f.vague || f.ask.parseSince(raw.Since) != nil || f.ask.parseLast(raw.Last) != nil
	return f, nil
}

func set(list []string) map[string]bool {
	m := make(map[string]bool, len(list))
	for _, s := range list {
		m[s] = true
	}
	return m
}

// parseSince takes a position for all programs, or an object of positions by program.
func (a *ask) parseSince(raw json.RawMessage) error {
	if len(raw) == 0 || string(raw) == "null" {
		return nil
	}
	var all string
	var each map[string]string
	if json.Unmarshal(raw, &all) == nil {
		each = map[string]string{"*": all}
	} else if json.Unmarshal(raw, &each) != nil {
		return errBadFrame
	}
	return a.setSince(each)
}

func (a *ask) setSince(each map[string]string) error {
	a.since = make(map[string]int64, len(each))
	for program, s := range each {
		p, err := parsePosition(s)
		if err != nil {
			return err
		}
		a.since[program] = p
	}
	return nil
}

// parsePosition parses decimal digits. What is too large for any position is the largest there is: a position not known.
func parsePosition(s string) (int64, error) {
	if s == "" || strings.Trim(s, "0123456789") != "" {
		return 0, errBadFrame
	}
	p, err := strconv.ParseInt(s, 10, 64)
	if err != nil {
		return math.MaxInt64, nil //nolint:nilerr // only digits: it is out of range
	}
	return p, nil
}

// parseLast takes milliseconds or an ISO 8601 time.
func (a *ask) parseLast(raw json.RawMessage) error {
	if len(raw) == 0 || string(raw) == "null" {
		return nil
	}
	var s string
	if json.Unmarshal(raw, &s) == nil {
		return a.setLast(s)
	}
	var ms float64
	if json.Unmarshal(raw, &ms) != nil {
		return errBadFrame
	}
	return a.setLastMillis(ms)
}

func (a *ask) setLast(s string) error {
	if s != "" && strings.Trim(s, "0123456789") == "" {
		ms, err := strconv.ParseFloat(s, 64)
		if err != nil {
			return errBadFrame
		}
		return a.setLastMillis(ms)
	}
	for _, layout := range layouts {
		if t, err := time.Parse(layout, s); err == nil {
			a.last, a.hasLast = max(t.UnixMicro(), 0), true
			return nil
		}
	}
	return errBadFrame
}

// layouts are the forms of ISO 8601 that name a moment: RFC 3339, and those with a shorter offset, without seconds, or in the basic format. Fractions of a
// second may follow the seconds of each. A time without an offset is nobody's.
var layouts = []string{
	time.RFC3339, "2006-01-02T15:04:05Z0700", "2006-01-02T15:04:05Z07", "2006-01-02T15:04Z07:00", "20060102T150405Z0700", "20060102T150405Z07",
}

func (a *ask) setLastMillis(ms float64) error {
	if math.IsNaN(ms) || ms < 0 {
		return errBadFrame
	}
	a.last, a.hasLast = math.MaxInt64, true
	if us := ms * 1000; us < 1<<53 { // every time that has a meaning is below
		a.last = int64(us)
	}
	return nil
}

// parseQuery reads since, lastEventTimestamp, programs and batch from the URL of a client that authenticates by header.
func parseQuery(text string) (ask, error) {
	q, err := url.ParseQuery(text)
	if err != nil {
		return ask{}, err
	}
	a := ask{batch: q.Get("batch") == "true" || q.Get("batch") == "1"}
	if q.Has("programs") {
		a.programs = set(strings.Split(strings.Join(q["programs"], ","), ","))
	}
	if s := q.Get("lastEventTimestamp"); s != "" {
		if err := a.setLast(s); err != nil {
			return ask{}, err
		}
	}
	s := strings.Join(q["since"], ",")
	if s == "" {
		return a, nil
	}
	each := map[string]string{}
	for item := range strings.SplitSeq(s, ",") {
		program, position := "*", item
		if i := strings.LastIndexByte(item, ':'); i >= 0 {
			program, position = item[:i], item[i+1:]
		}
		each[program] = position
	}
	return a, a.setSince(each)
}

// The frames of the server, apart from events, which are sent as they lie in the log.
type (
	readyFrame struct {
		Type      string    `json:"type"`
		UserID    string    `json:"userId"`
		Role      string    `json:"role"`
		Programs  []string  `json:"programs"`
		ExpiresAt time.Time `json:"tokenExpiresAt"`
	}
	gapFrame struct {
		Type    string `json:"type"`
		Program string `json:"programId"`
		After   string `json:"after,omitempty"`
		Before  string `json:"before"`
		Reason  string `json:"reason"`
	}
	placeFrame struct { // live, position, joined, left
		Type     string `json:"type"`
		Program  string `json:"programId,omitempty"`
		Position string `json:"position,omitempty"`
	}
	errorFrame struct {
		Type    string `json:"type"`
		Code    string `json:"code"`
		Message string `json:"message"`
	}
)

var (
	pongMessage = seal([]byte(`{"type":"pong"}`))
	pingFrame   = []byte{finalPing, 0}
)

// marshal encodes a server frame; none of them can fail.
func marshal(frame any) []byte {
	b, err := json.Marshal(frame)
	if err != nil {
		panic(err)
	}
	return b
}

// digits returns a position as it is sent; 0, which is none, gives an empty string.
func digits(position int64) string {
	if position == 0 {
		return ""
	}
	return strconv.FormatInt(position, 10)
}
