package ws

import (
	"math"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestParseSinceAndTimes(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]ask{
		`{"type":"auth"}`: {},
		`{"type":"auth","since":null,"programs":null}`:                             {},
		`{"type":"auth","since":"17"}`:                                             {since: map[string]int64{"*": 17}},
		`{"type":"auth","since":{"a:b":"17","*":"007"}}`:                           {since: map[string]int64{"a:b": 17, "*": 7}},
		`{"type":"auth","since":"99999999999999999999"}`:                           {since: map[string]int64{"*": math.MaxInt64}},
		`{"type":"auth","since":{}}`:                                               {since: map[string]int64{}},
		`{"type":"auth","lastEventTimestamp":1764000000000}`:                       {last: 1764000000000000, hasLast: true},
		`{"type":"auth","lastEventTimestamp":"1764000000000"}`:                     {last: 1764000000000000, hasLast: true},
		`{"type":"auth","lastEventTimestamp":"2025-11-24T16:00:00.000120Z"}`:       {last: 1764000000000120, hasLast: true},
		`{"type":"auth","lastEventTimestamp":"2025-11-24T17:00:00.0001209+01:00"}`: {last: 1764000000000120, hasLast: true},
		`{"type":"auth","lastEventTimestamp":"2025-11-24T17:00:00.5+0100"}`:        {last: 1764000000500000, hasLast: true},
		`{"type":"auth","lastEventTimestamp":"2025-11-24T17:00:00,5+01"}`:          {last: 1764000000500000, hasLast: true},
		`{"type":"auth","lastEventTimestamp":"2025-11-24T16:00Z"}`:                 {last: 1764000000000000, hasLast: true},
		`{"type":"auth","lastEventTimestamp":"20251124T160000.5Z"}`:                {last: 1764000000500000, hasLast: true},
		`{"type":"auth","lastEventTimestamp":"20251124T170000+0100"}`:              {last: 1764000000000000, hasLast: true},
		`{"type":"auth","lastEventTimestamp":"1960-01-01T00:00:00Z"}`:              {hasLast: true},
		`{"type":"auth","lastEventTimestamp":1e300}`:                               {last: math.MaxInt64, hasLast: true},
		`{"type":"auth","programs":[],"batch":true}`:                               {programs: map[string]bool{}, batch: true},
		`{"type":"auth","programs":["p1"],"other":1}`:                              {programs: map[string]bool{"p1": true}},
	} {
		f, err := parseClientFrame([]byte(text))
		if err != nil || f.vague {
			t.Errorf("%s: %v", text, err)
		}
		if diff := cmp.Diff(want, f.ask, cmp.AllowUnexported(ask{})); diff != "" {
			t.Errorf("%s (-want +got):\n%s", text, diff)
		}
	}
	for _, text := range []string{
		`{"type":"auth","since":17}`, `{"type":"auth","since":["1"]}`, `{"type":"auth","since":{"p1":1}}`, `{"type":"auth","since":"1.5"}`,
		`{"type":"auth","since":"+1"}`, `{"type":"auth","since":" 1"}`, `{"type":"auth","since":"0x1"}`, `{"type":"auth","since":{"p1":null,"p2":"x"}}`,
		`{"type":"auth","lastEventTimestamp":-1}`, `{"type":"auth","lastEventTimestamp":""}`, `{"type":"auth","lastEventTimestamp":true}`,
		`{"type":"auth","lastEventTimestamp":"2025-11-24T16:00:00"}`, `{"type":"auth","lastEventTimestamp":"2025-11-24"}`,
		`{"type":"auth","programs":"p1"}`, `{"type":"auth","batch":"yes"}`, `{"type":"event"}`, `{}`, `null`, `[]`, ``, ` `,
	} {
		if f, err := parseClientFrame([]byte(text)); err == nil && !f.vague {
			t.Errorf("%s: accepted as %+v", text, f)
		}
	}
}

func TestParseQuery(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]ask{
		"":                        {},
		"since=17":                {since: map[string]int64{"*": 17}},
		"since=a:b:17,p2:5,*:3":   {since: map[string]int64{"a:b": 17, "p2": 5, "*": 3}},
		"programs=p1,p2&batch=1":  {programs: map[string]bool{"p1": true, "p2": true}, batch: true},
		"lastEventTimestamp=1000": {last: 1000000, hasLast: true},
		"batch=true&token=x":      {batch: true},
	} {
		got, err := parseQuery(text)
		if diff := cmp.Diff(want, got, cmp.AllowUnexported(ask{})); err != nil || diff != "" {
			t.Errorf("%s: %v (-want +got):\n%s", text, err, diff)
		}
	}
	// What can't be decoded must not pass for what isn't there: the connection would begin live, without a gap.
	for _, text := range []string{"since=x", "since=p1:", "since=p1:1,,p2:2", "since=-1", "lastEventTimestamp=x", "since=%zz", "since=p1:1;p2:2"} {
		if got, err := parseQuery(text); err == nil {
			t.Errorf("%s: accepted as %+v", text, got)
		}
	}
}

func TestOrigin(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		allowed      []string
		host, origin string
		want         bool
	}{
		{nil, "a.example", "", true},
		{nil, "a.example", "https://a.example", true},
		{nil, "a.example", "http://a.example", true},
		{nil, "a.example:8080", "http://a.example:8080", true},
		{nil, "a.example:443", "https://a.example", true},
		{nil, "A.example", "https://a.EXAMPLE", true},
		{nil, "a.example", "https://a.example:8443", false},
		{nil, "a.example", "https://b.example", false},
		{nil, "a.example", "null", false},
		{nil, "a.example", "file://", false},
		{[]string{"https://app.example.com"}, "x", "https://app.example.com", true},
		{[]string{"https://app.example.com/"}, "x", "https://app.example.com:443", true},
		{[]string{"https://app.example.com"}, "x", "http://app.example.com", false},
		{[]string{"https://app.example.com"}, "x", "https://app.example.com:444", false},
		{[]string{"https://app.example.com"}, "x", "https://app.example.com.evil.org", false},
		{[]string{"https://app.example.com"}, "x", "https://x", false},
		{[]string{"https://*.example.com"}, "x", "https://a.example.com", true},
		{[]string{"https://*.example.com"}, "x", "https://example.com", false},
		{[]string{"https://*.example.com"}, "x", "https://a.b.example.com", false},
		{[]string{"https://*.example.com"}, "x", "https://aexample.com", false},
		{[]string{"https://a.org", "http://localhost:3000"}, "x", "http://localhost:3000", true},
	} {
		allowed, err := parseOrigins(c.allowed)
		if err != nil {
			t.Fatal(err)
		}
		r := httptest.NewRequest(http.MethodGet, "/ws", nil)
		r.Host = c.host
		if c.origin != "" {
			r.Header.Set("Origin", c.origin)
		}
		if got := originAllowed(r, allowed); got != c.want {
			t.Errorf("origins %v, host %s, origin %s: %v", c.allowed, c.host, c.origin, got)
		}
	}
	for _, bad := range []string{"", "*", "app.example.com", "https://", "https://*", "https://*.com", "https://a.*.com", "ftp://a.org", "https://a.org/path"} {
		if _, err := parseOrigins([]string{bad}); err == nil {
			t.Errorf("origin %q accepted", bad)
		}
	}
}
