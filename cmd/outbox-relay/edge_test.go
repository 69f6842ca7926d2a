package main

import (
	"net/http"
	"net/http/httptest"
	"net/netip"
	"regexp"
	"strings"
	"testing"
)

func edgeOf(t testing.TB, hosts, proxies string) edge {
	t.Helper()
	var c config
	if hosts != "" {
		if err := setHosts(&c, hosts); err != nil {
			t.Fatal(err)
		}
	}
	if proxies != "" {
		if err := setProxies(&c, proxies); err != nil {
			t.Fatal(err)
		}
	}
	return c.edge
}

func TestAllowedHosts(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		hosts, host string
		want        bool
	}{
		{"", "evil.example:8080", true},
		{"relay.example.com", "relay.example.com", true},
		{"relay.example.com", "Relay.Example.com:8080", true},
		{"relay.example.com.", "relay.example.com.:443", true},
		{"relay.example.com", "evil.example", false},
		{"relay.example.com", "relay.example.com.evil.example", false},
		{"relay.example.com", "a.relay.example.com", false},
		{"relay.example.com", "", false},
		{"*.example.com, localhost", "a.example.com", true},
		{"*.example.com, localhost", "localhost:1", true},
		{"*.example.com", "example.com", false},
		{"*.example.com", "a.b.example.com", false},
		{"*.example.com", ".example.com", false},
		{"127.0.0.1,[::1]", "[::1]:8080", true},
		{"::1", "[::1]", true},
		{"127.0.0.1,[::1]", "127.0.0.1", true},
		{"127.0.0.1,[::1]", "127.0.0.2", false},
	} {
		handler := edgeOf(t, c.hosts, "").wrap(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) }))
		r, w := httptest.NewRequest(http.MethodGet, "/ws", nil), httptest.NewRecorder()
		r.Host = c.host
		handler.ServeHTTP(w, r)
		want := http.StatusForbidden
		if c.want {
			want = http.StatusNoContent
		}
		if w.Code != want || !c.want && w.Body.String() != "Host not allowed: see ALLOWED_HOSTS\n" {
			t.Errorf("hosts %q, host %q: %d %q", c.hosts, c.host, w.Code, w.Body)
		}
	}
	for _, bad := range []string{"https://h", "h:80", "*", "*.", "a.*.b", "a b", "[x]", "*.::1", "h/path"} {
		if err := setHosts(&config{}, bad); err == nil {
			t.Errorf("%q accepted", bad)
		}
	}
}

func TestClientAddress(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		proxies, peer string
		forwarded     []string
		want          string
	}{
		{"", "192.0.2.1:5", []string{"198.51.100.1"}, "192.0.2.1:5"}, // nobody is trusted
		{"10.0.0.0/8", "192.0.2.1:5", []string{"198.51.100.1"}, "192.0.2.1:5"},
		{"10.0.0.0/8", "10.0.0.1:5", nil, "10.0.0.1:5"},
		{"10.0.0.0/8", "10.0.0.1:5", []string{"198.51.100.1"}, "198.51.100.1:0"},
		{"10.0.0.0/8", "[::ffff:10.0.0.1]:5", []string{"198.51.100.1"}, "198.51.100.1:0"},
		{"10.0.0.0/8", "10.0.0.1:5", []string{"1.1.1.1, 198.51.100.1"}, "198.51.100.1:0"}, // what the client wrote stands left
		{"10.0.0.0/8", "10.0.0.1:5", []string{"1.1.1.1", "198.51.100.1,10.0.0.9"}, "198.51.100.1:0"},
		{"10.0.0.0/8", "10.0.0.1:5", []string{"10.0.0.7,10.0.0.8"}, "10.0.0.7:0"},
		{"10.0.0.0/8", "10.0.0.1:5", []string{"1.1.1.1,unknown"}, "10.0.0.1:5"},
		{"10.0.0.0/8", "10.0.0.1:5", []string{"1.1.1.1,,10.0.0.9"}, "10.0.0.9:0"},
		{"10.0.0.1", "10.0.0.1:5", []string{"198.51.100.1:4711"}, "198.51.100.1:0"},
		{"2001:db8::/32", "[2001:db8::1]:5", []string{"[2001:db9::2]:77"}, "[2001:db9::2]:0"},
		{"10.0.0.0/8", "10.0.0.1:5", []string{"fe80::1%eth0"}, "[fe80::1]:0"},
		{"10.0.0.0/8", "@", []string{"198.51.100.1"}, "@"}, // a Unix socket
	} {
		var got string
		handler := edgeOf(t, "", c.proxies).wrap(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { got = r.RemoteAddr }))
		r := httptest.NewRequest(http.MethodGet, "/ws", nil)
		r.RemoteAddr, r.Header["X-Forwarded-For"] = c.peer, c.forwarded
		handler.ServeHTTP(httptest.NewRecorder(), r)
		if got != c.want {
			t.Errorf("proxies %q, peer %s, forwarded %q: %s, want %s", c.proxies, c.peer, c.forwarded, got, c.want)
		}
	}
	for _, bad := range []string{"all", "10.0.0.0/33", "0.0.0.0/0", "::/0", "proxy.example"} {
		if err := setProxies(&config{}, bad); err == nil {
			t.Errorf("%q accepted", bad)
		}
	}
}

// FuzzHost: nothing is let in but the allowed names, with or without a port.
func FuzzHost(f *testing.F) {
	e := edgeOf(f, "relay.example, *.example.org, [::1]", "")
	for _, seed := range []string{
		"", "relay.example", "RELAY.example:80", "relay.example.", "relay.example:x", "a.example.org", ".example.org", "a.b.example.org", "[::1]:1", "[::1", "::1", "relay.example@evil", "evil:relay.example",
		"evil.org#relay.example", "relay.example\x00", "[relay.example]", "relay.example:80:80",
	} {
		f.Add(seed)
	}
	allowed := regexp.MustCompile(`^(relay\.example|[^.]+\.example\.org|\[?::1\]?|\[relay\.example\])\.?(:[^.]*)?$`)
	f.Fuzz(func(t *testing.T, host string) {
		if e.allows(host) && !allowed.MatchString(strings.ToLower(host)) {
			t.Fatalf("%q is let in", host)
		}
	})
}

// FuzzForwardedFor: whatever is sent, the answer is an address, and who isn't a trusted proxy can't name another one.
func FuzzForwardedFor(f *testing.F) {
	e := edgeOf(f, "", "10.0.0.0/8, 2001:db8::/32")
	for _, seed := range []string{"", ",", ",,,", "198.51.100.1", "1.1.1.1, 10.0.0.2", "[::1]:5", "::ffff:10.0.0.1", "fe80::1%x", "10.0.0.1:99999", "\x00", "[[::1]]"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		stranger := netip.MustParseAddr("192.0.2.1")
		if got := e.client(stranger, []string{text}); got != stranger {
			t.Fatalf("%q makes a stranger %v", text, got)
		}
		if got := e.client(netip.MustParseAddr("10.0.0.1"), []string{text}); !got.IsValid() || got.Zone() != "" || got.Is4In6() {
			t.Fatalf("%q gives %v", text, got)
		}
	})
}
