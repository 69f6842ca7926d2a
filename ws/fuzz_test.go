package ws

import (
	"bytes"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"unicode/utf8"
)

// checkAsk: whatever a client wrote, no position and no time is negative, and each has its program.
func checkAsk(t *testing.T, text string, a ask) {
	t.Helper()
	for program, p := range a.since {
		if p < 0 {
			t.Fatalf("%q gives %s the position %d", text, program, p)
		}
		if c, isTime, ok := a.cursor(program); !ok || isTime || c != p {
			t.Fatalf("%q: the cursor of %s is %d, %v, %v", text, program, c, isTime, ok)
		}
	}
	if a.last < 0 || !a.hasLast && a.last != 0 {
		t.Fatalf("%q gives the time %d, %v", text, a.last, a.hasLast)
	}
}

func FuzzParseClientFrame(f *testing.F) {
	for _, seed := range []string{
		`{"type":"auth","token":"x","since":{"p1":"1"},"lastEventTimestamp":"2025-11-24T16:00:00Z","programs":["p1"],"batch":true}`,
		`{"type":"ping"}`, `{"type":"auth","since":"17"}`, `{"type":"auth","lastEventTimestamp":1e300}`, `{"type":"auth","lastEventTimestamp":-0}`,
		`{"TYPE":"ping","type":"auth"}`, `{"type":"auth","since":{"":"0"}}`, `[]`, `null`, ``, "\xff", `{"type":"ping"}{}`, `{"type":"\ud800"}`,
		`{"type":"auth","since":{"*":"99999999999999999999"},"programs":[""]}`, strings.Repeat("[", 1000),
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		frame, err := parseClientFrame(b)
		if err != nil {
			return
		}
		if !json.Valid(b) || !utf8.Valid(b) {
			t.Fatalf("%q isn't JSON", b)
		}
		checkAsk(t, string(b), frame.ask)
	})
}

func FuzzParseQuery(f *testing.F) {
	for _, seed := range []string{
		"", "since=17", "since=p1:1,a:b:2", "since=*:3&since=4", "programs=p1,p2&batch=1", "lastEventTimestamp=1764000000000", "since=%ff:1", "since=:1",
		"lastEventTimestamp=2025-11-24T16:00:00Z", "since=1;2", "a=%zz", "since=99999999999999999999",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		if a, err := parseQuery(text); err == nil {
			checkAsk(t, text, a)
		}
	})
}

func FuzzPosition(f *testing.F) {
	for _, seed := range []string{"", "0", "17", "007", "-1", "+1", "1e3", "9223372036854775807", "9223372036854775808", "١", " 1", "1_0"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		p, err := parsePosition(text)
		digitsOnly := text != "" && strings.Trim(text, "0123456789") == ""
		if (err == nil) != digitsOnly || p < 0 {
			t.Fatalf("%q: %d, %v", text, p, err)
		}
		if err == nil && len(text) < 19 && digits(p) != strings.TrimLeft(text, "0") {
			t.Fatalf("%q became %d", text, p)
		}
	})
}

// FuzzOrigin: nothing but the one allowed origin is let in, nor a host that merely looks like it.
func FuzzOrigin(f *testing.F) {
	allowed, err := parseOrigins([]string{"https://app.example.com"})
	if err != nil {
		f.Fatal(err)
	}
	for _, seed := range []string{
		"https://app.example.com", "https://APP.example.com:443", "http://app.example.com", "https://app.example.com.evil.org", "null", "https://app.example.com@evil.org",
		"https://evil.org#https://app.example.com", "https://evil.org/app.example.com", "https:app.example.com", "//app.example.com", "https://[::1]", "https://app.example.com:",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, origin string) {
		r := httptest.NewRequest(http.MethodGet, "/ws", nil)
		r.Header["Origin"] = []string{origin}
		if !originAllowed(r, allowed) {
			return
		}
		// What a browser sends is scheme, host and port: with anything else in it, it isn't one.
		lower := strings.ToLower(origin)
		rest, ok := strings.CutPrefix(lower, "https://")
		if i := strings.LastIndexByte(rest, '@'); i >= 0 {
			rest = rest[i+1:]
		}
		rest, isHost := strings.CutPrefix(rest, "app.example.com")
		if !ok || !isHost || rest != "" && !strings.ContainsAny(rest[:1], ":/?#") {
			t.Fatalf("%q is let in", origin)
		}
	})
}

// FuzzOwnOrigin: without a list, only pages of the host are let in that the request names itself.
func FuzzOwnOrigin(f *testing.F) {
	for _, seed := range [][2]string{
		{"https://app.example.com", "app.example.com"},
		{"http://app.example.com:80", "APP.example.com"},
		{"https://app.example.com", "app.example.com:80"},
		{"null", "null"},
		{"http://[::1]:8080", "[::1]:8080"},
		{"https://evil.org", "app.example.com@evil.org"},
		{"https://evil.org#@app.example.com", "app.example.com"},
		{"https://a", ""},
		{"https://:", ":"},
		{"https://evil.org", "evil.org:443:443"},
		{"https://[a", "[a"},
	} {
		f.Add(seed[0], seed[1])
	}
	f.Fuzz(func(t *testing.T, page, host string) {
		r := httptest.NewRequest(http.MethodGet, "/ws", nil)
		r.Header["Origin"], r.Host = []string{page}, host
		if !originAllowed(r, nil) {
			return
		}
		u, err := url.Parse(page)
		if err != nil || u.Host == "" {
			t.Fatalf("%q is let in to %q", page, host)
		}
		name := strings.ToLower(strings.Trim(u.Hostname(), "[]"))
		if !strings.Contains(strings.ToLower(host), name) {
			t.Fatalf("%q, a page of %q, is let in to %q", page, name, host)
		}
		if port := u.Port(); port != "" && port != "80" && port != "443" && !strings.HasSuffix(host, ":"+port) {
			t.Fatalf("%q, of port %s, is let in to %q", page, port, host)
		}
	})
}

// FuzzFrameWatch: however a client's bytes are cut, the watch on its frames comes to the same end.
func FuzzFrameWatch(f *testing.F) {
	for _, seed := range []string{
		"", "\x81\x80\x00\x00\x00\x00", "\x81\xff\x40\x00\x00\x00\x00\x00\x00\x00", "\x88\x83\x00\x00\x00\x00\x03\xe8\xff", "\x88\x82\x01\x02\x03\x04\x03\xe8", "\x81\x02{}\x8a\x00",
		"\x81\xfe\x00\x7e\x00\x00\x00\x00" + strings.Repeat("x", 126) + "\x88\xff", "\x88\x05\x03\xe8abc", "\x88\xfe\x00\x80",
	} {
		f.Add([]byte(seed), uint8(1))
	}
	f.Fuzz(func(t *testing.T, b []byte, size uint8) {
		var whole, cut limitedConn
		original := bytes.Clone(b)
		want := whole.scan(b)
		var got error
		for rest := b; len(rest) > 0 && got == nil; {
			n := min(len(rest), int(size)+1)
			got, rest = cut.scan(rest[:n]), rest[n:]
		}
		if !errors.Is(got, want) || !bytes.Equal(b, original) {
			t.Fatalf("%x: %v at once, %v in pieces of %d", b, want, got, int(size)+1)
		}
		if cap(cut.closing) > 4+maxControl {
			t.Fatalf("%x: %d bytes are kept", b, cap(cut.closing))
		}
	})
}
