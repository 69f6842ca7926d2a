package main

import (
	"bufio"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// request sends one request as it stands and returns the answer with all of its text.
func request(t *testing.T, addr, head string) (*http.Response, string) {
	t.Helper()
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
	if _, err := io.WriteString(conn, head); err != nil {
		t.Fatal(err)
	}
	response, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatalf("%.80q: %v", head, err)
	}
	defer response.Body.Close()
	var all strings.Builder
	_ = response.Write(&all)
	return response, all.String()
}

// TestNothingButTheSocketIsPublic: on the public listener all but /ws is a 404 that says nothing, least of all what was asked for.
func TestNothingButTheSocketIsPublic(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.serve(map[string]string{"ALLOWED_HOSTS": "relay.example"})
	public := s.vars["LISTEN_ADDR"]
	for _, path := range []string{
		"/", "/ws/", "//ws", "/ws/x", "/WS", "/ws%2f", "/./ws", "/x/../ws", "/ws/../metrics", "/metrics", "/healthz", "/readyz", "/debug", "/debug/", "/debug/pprof/", "/debug/pprof/cmdline",
		"/debug/vars", "/socket.io/", "/socket.io/?EIO=4&transport=polling", "/favicon.ico", "/robots.txt", "/index.html", "/.env", "/.git/config", "/admin", "/api/users", "/state.js", "/login", "/%2e%2e/etc/passwd",
		"/ws;x", "/?token=x", "*", "http://relay.example/metrics",
	} {
		for _, method := range []string{"GET", "POST", "OPTIONS", "PUT", "TRACE"} {
			response, text := request(t, public, method+" "+path+" HTTP/1.1\r\nHost: relay.example\r\nConnection: close\r\n\r\n")
			bad := path == "*" && method != "OPTIONS" // malformed: net/http says so
			if response.StatusCode != http.StatusNotFound && !(bad && response.StatusCode == http.StatusBadRequest) {
				t.Errorf("%s %s: %d\n%s", method, path, response.StatusCode, text)
			}
			if len(path) > 3 && strings.Contains(text, strings.Trim(path, "/")) {
				t.Errorf("%s %s: the answer repeats the path:\n%s", method, path, text)
			}
			if response.Header.Get("Server") != "" || response.Header.Get("Location") != "" {
				t.Errorf("%s %s: headers %v", method, path, response.Header)
			}
		}
	}
	const upgrade = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
	for host, want := range map[string]int{"relay.example": 101, "RELAY.example:80": 101, "127.0.0.1": 403, "evil.example": 403, "relay.example.evil.example": 403} {
		response, text := request(t, public, "GET /ws HTTP/1.1\r\nHost: "+host+"\r\nOrigin: http://"+host+"\r\n"+upgrade)
		if response.StatusCode != want || strings.Contains(text, "evil") {
			t.Errorf("Host %s: %d, want %d\n%s", host, response.StatusCode, want, text)
		}
	}
	// The admin listener is on loopback: a page whose name was made to point here must not read it.
	for host, want := range map[string]int{"localhost:9090": 200, "127.0.0.1": 200, "[::1]:1": 200, "evil.example:9090": 403} {
		if response, text := request(t, s.vars["ADMIN_ADDR"], "GET /healthz HTTP/1.1\r\nConnection: close\r\nHost: "+host+"\r\n\r\n"); response.StatusCode != want {
			t.Errorf("admin, Host %s: %d, want %d\n%s", host, response.StatusCode, want, text)
		}
	}
	// A header has a bound, in size and in time: see TestServerUnderAbuse for time.
	big := strings.Repeat("x", 64<<10)
	if response, text := request(t, public, "GET /ws HTTP/1.1\r\nHost: relay.example\r\nX: "+big+"\r\n\r\n"); response.StatusCode != http.StatusRequestHeaderFieldsTooLarge || strings.Contains(text, "xxx") {
		t.Errorf("a header of 64 KiB: %d\n%.200s", response.StatusCode, text)
	}
}

// TestCommandErrorsHoldNoSecret: what a command complains about may be a secret, and its complaint ends in a log.
func TestCommandErrorsHoldNoSecret(t *testing.T) {
	t.Parallel()
	const canary = "canary"
	s := newSite(t)
	s.serve(nil)
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	private := string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
	file := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(file, []byte(canary), 0o600); err != nil {
		t.Fatal(err)
	}
	unreachable := "@127.0.0.1:1/d"
	for name, c := range map[string]struct {
		vars map[string]string
		args []string
	}{
		"unreachable Postgres":      {map[string]string{"DATABASE_URL": "postgres://u:canary" + unreachable}, []string{"serve"}},
		"bad database URL":          {map[string]string{"DATABASE_URL": "postgres://u:canary@h:port/d"}, []string{"serve"}},
		"bad database words":        {map[string]string{"DATABASE_URL": "host=h password='canary port=x"}, []string{"serve"}},
		"bad Redis URL":             {map[string]string{"REDIS_URL": "redis://:canary@h:port"}, []string{"serve"}},
		"bad Redis scheme":          {map[string]string{"REDIS_URL": "http://u:canary@h"}, []string{"serve"}},
		"short secret":              {map[string]string{"JWT_ACCESS_SECRET": canary}, []string{"serve"}},
		"short secret in a file":    {map[string]string{"JWT_ACCESS_SECRET": "", "JWT_ACCESS_SECRET_FILE": file}, []string{"serve"}},
		"a private key":             {map[string]string{"JWT_ACCESS_SECRET": "", "JWT_PUBLIC_KEY": private}, []string{"serve"}},
		"a secret as public key":    {map[string]string{"JWT_ACCESS_SECRET": "", "JWT_PUBLIC_KEY_FILE": file}, []string{"serve"}},
		"a password in the JWKS":    {map[string]string{"JWT_ACCESS_SECRET": "", "JWT_JWKS_URL": "https://u:canary@issuer.example/"}, []string{"serve"}},
		"a JWKS without TLS":        {map[string]string{"JWT_ACCESS_SECRET": "", "JWT_JWKS_URL": "http://issuer.example/?key=canary"}, []string{"serve"}},
		"a secret as issuers":       {map[string]string{"JWT_ACCESS_SECRET": "", "JWT_ISSUERS_FILE": file}, []string{"serve"}},
		"migrate":                   {map[string]string{"DATABASE_URL": "postgres://u:canary" + unreachable}, []string{"migrate", "up"}},
		"emit":                      {map[string]string{"DATABASE_URL": "postgres://u:canary" + unreachable}, []string{"emit", "--program", "p1", "--event", "a:b"}},
		"emit what is no JSON":      {nil, []string{"emit", "--program", "p1", "--event", "a:b", "--data", `{"canary`}},
		"emit what is no object":    {nil, []string{"emit", "--program", "p1", "--event", "a:b", "--data", `"canary"`}},
		"token with a short secret": {map[string]string{"JWT_ACCESS_SECRET": canary}, []string{"token", "--user", "u1"}},
		"tail with a bad token":     {nil, []string{"tail", "--token", canary, "--url", "ws://" + s.vars["LISTEN_ADDR"] + "/ws"}},
		"tail with a bad file":      {nil, []string{"tail", "--token-file", file, "--url", "ws://" + s.vars["LISTEN_ADDR"] + "/ws"}},
		"tail nowhere":              {nil, []string{"tail", "--token", canary, "--url", "ws://" + s.vars["LISTEN_ADDR"] + "/nowhere"}},
	} {
		vars := with(map[string]string{"DATABASE_URL": s.vars["DATABASE_URL"], "REDIS_URL": s.vars["REDIS_URL"], "LISTEN_ADDR": "127.0.0.1:0", "ADMIN_ADDR": "127.0.0.1:0"})
		for name, value := range c.vars {
			vars[name] = value
		}
		code, stdout, stderr := call(t, vars, c.args...)
		if code == 0 || stderr == "" || strings.Contains(stdout+stderr, canary) || strings.Contains(stderr, strings.Split(private, "\n")[1]) {
			t.Errorf("%s: exit code %d, wrote %q", name, code, stdout+stderr)
		}
	}
}

// TestServerUnderAbuse: sockets that never authenticate, connections that never end their header, and one user with hundreds of
// connections, all at once. A client in good faith, at another address, gets in all the while.
func TestServerUnderAbuse(t *testing.T) {
	t.Parallel()
	silent, slow, greedy, patience := 300, 100, 100, 5*time.Second
	if long() {
		silent, slow, greedy, patience = 2000, 2000, 500, time.Second
	}
	s := newSite(t)
	if _, err := s.pool.Exec(t.Context(), "INSERT INTO relay.users (id) VALUES ('greedy')"); err != nil {
		t.Fatal(err)
	}
	b := s.serve(map[string]string{"MAX_UNAUTHENTICATED": fmt.Sprint(silent / 2), "AUTH_TIMEOUT": "1m", "TRUSTED_PROXIES": "127.0.0.1"})
	a := newAttack(t, s.vars["LISTEN_ADDR"])
	honest := a.honest("u1", patience)
	a.silent(silent)
	a.slowHeaders(slow)
	a.greedy("greedy", greedy)
	a.wait()
	if n := honest(); n < 5 {
		t.Errorf("the client in good faith got in %d times only", n)
	}
	a.settled(silent/2, greedy)
	select {
	case <-b.done:
		t.Fatalf("the server ended:\n%s", b.stderr.String())
	default:
	}
}
