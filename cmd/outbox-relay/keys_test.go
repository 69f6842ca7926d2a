package main

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/MicahParks/jwkset"
	"github.com/coder/websocket"
	"github.com/golang-jwt/jwt/v5"

	"github.com/outboxrelay/outboxrelay/internal/testenv"
)

// publicPEM is a public key as JWT_PUBLIC_KEY takes it.
func publicPEM(t *testing.T, key any) string {
	t.Helper()
	der, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))
}

// token signs for u1.
func token(t *testing.T, method jwt.SigningMethod, key any, kid, iss string) string {
	t.Helper()
	m := jwt.NewWithClaims(method, jwt.MapClaims{"sub": "u1", "iss": iss, "exp": time.Now().Add(time.Hour).Unix()})
	m.Header["kid"] = kid
	text, err := m.SignedString(key)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// upgrade returns the status of a handshake with a token in the header.
func (s *site) upgrade(token string) int {
	s.t.Helper()
	conn, response, err := websocket.Dial(testenv.Context(s.t, 10*time.Second), "ws://"+s.vars["LISTEN_ADDR"]+"/ws", &websocket.DialOptions{
		HTTPHeader: http.Header{"Authorization": {"Bearer " + token}},
	})
	if err == nil {
		_ = conn.CloseNow()
	}
	if response == nil {
		s.t.Fatal(err)
	}
	return response.StatusCode
}

func TestPublicKeyAndIssuersFile(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	_, mine, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	other, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	delete(s.vars, "JWT_ACCESS_SECRET")
	b := s.serve(map[string]string{"JWT_PUBLIC_KEY_FILE": write("mine.pem", publicPEM(t, mine.Public()))})
	if got := s.upgrade(token(t, jwt.SigningMethodEdDSA, mine, "", "")); got != http.StatusSwitchingProtocols {
		t.Errorf("a good token: %d", got)
	}
	if got := s.upgrade(token(t, jwt.SigningMethodES256, other, "", "")); got != http.StatusUnauthorized {
		t.Errorf("another key: %d", got)
	}
	b.stop()

	write("own", goodSecret+"\n")
	list := write("issuers.json", `[{"issuer":"a","public_key_file":"mine.pem"},{"issuer":"b","audience":"x","secret_file":"own"}]`)
	s.serve(map[string]string{"JWT_ISSUERS_FILE": list})
	code, stdout, stderr := call(t, map[string]string{"JWT_ACCESS_SECRET": goodSecret, "JWT_ISSUER": "b", "JWT_AUDIENCE": "x"}, "token", "--user", "u1")
	if code != 0 {
		t.Fatal(stderr)
	}
	for text, want := range map[string]int{
		token(t, jwt.SigningMethodEdDSA, mine, "", "a"): http.StatusSwitchingProtocols,
		token(t, jwt.SigningMethodEdDSA, mine, "", "b"): http.StatusUnauthorized,
		strings.TrimSpace(stdout):                       http.StatusSwitchingProtocols,
	} {
		if got := s.upgrade(text); got != want {
			t.Errorf("token %.20s…: %d, want %d", text, got, want)
		}
	}
	if code, _, stderr := call(t, map[string]string{"JWT_ISSUERS_FILE": list}, "token", "--user", "u1"); code != 2 || !strings.Contains(stderr, "come from their issuer") {
		t.Errorf("token without a secret: exit code %d, wrote %q", code, stderr)
	}
	for text, want := range map[string]string{
		`{}`: "isn't a list", `[]`: "0 issuers", `[{"isuer":"a"}]`: "isn't a list", `[{"secret_file":"own"}]`: "without a name",
		`[{"issuer":"a"}]`: "0 keys", `[{"issuer":"a","secret_file":"own","jwks_url":"https://h/"}]`: "2 keys",
		`[{"issuer":"a","secret_file":"gone"}]`: "no such file", `[{"issuer":"a","public_key_file":"own"}]`: "no PEM", `[{"issuer":"a","jwks_url":"http://h/"}]`: "https",
		`[{"issuer":"a","secret_file":"own"},{"issuer":"a","secret_file":"own"}]`: "name of its own",
	} {
		path := filepath.Join(dir, "bad.json")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		_, lines := parse(t, with(map[string]string{"JWT_ACCESS_SECRET": "", "JWT_ISSUERS_FILE": path}))
		if len(lines) != 1 || !strings.HasPrefix(lines[0], "JWT_ISSUERS_FILE: ") || !strings.Contains(lines[0], want) || strings.Contains(lines[0], goodSecret) {
			t.Errorf("%s: %q, want %q", text, lines, want)
		}
	}
	_, lines := parse(t, with(map[string]string{"JWT_ACCESS_SECRET": "", "JWT_ISSUERS_FILE": list, "JWT_ISSUER": "a"}))
	if len(lines) != 1 || !strings.HasPrefix(lines[0], "JWT_ISSUER: ") {
		t.Errorf("JWT_ISSUER beside the file: %q", lines)
	}
}

// TestServeWithJWKS starts while the issuer is down, rotates its key, and loses the issuer again.
func TestServeWithJWKS(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	delete(s.vars, "JWT_ACCESS_SECRET")
	var set atomic.Pointer[string] // nil: down
	issuer := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if text := set.Load(); text != nil {
			_, _ = w.Write([]byte(*text))
			return
		}
		w.WriteHeader(http.StatusBadGateway)
	}))
	t.Cleanup(issuer.Close)
	publish := func(kid string) ed25519.PrivateKey {
		_, key, err := ed25519.GenerateKey(rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		store := jwkset.NewMemoryStorage()
		j, err := jwkset.NewJWKFromKey(key.Public(), jwkset.JWKOptions{Metadata: jwkset.JWKMetadataOptions{KID: kid}})
		if err != nil {
			t.Fatal(err)
		}
		_ = store.KeyWrite(t.Context(), j)
		text, err := store.JSONPublic(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		published := string(text)
		set.Store(&published)
		return key
	}
	s.vars["JWT_JWKS_URL"] = issuer.URL + "/jwks"
	ready := func(want string) {
		t.Helper()
		testenv.Eventually(t, 20*time.Second, func() error {
			if _, body, err := get("http://" + s.vars["ADMIN_ADDR"] + "/readyz"); err != nil || !strings.Contains(body, want) {
				return fmt.Errorf("readyz: %s (%w), want %s", body, err, want)
			}
			return nil
		})
	}
	start(t, s.vars, "serve")
	ready("can't be fetched")
	_, stranger, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	if got := s.upgrade(token(t, jwt.SigningMethodEdDSA, stranger, "1", "")); got != http.StatusServiceUnavailable {
		t.Errorf("a token before there are keys: %d", got)
	}
	first := publish("1")
	ready(`"reasons":[]`) // within 5 s
	if got := s.upgrade(token(t, jwt.SigningMethodEdDSA, first, "1", "")); got != http.StatusSwitchingProtocols {
		t.Errorf("a good token: %d", got)
	}
	if got := s.upgrade(token(t, jwt.SigningMethodEdDSA, stranger, "1", "")); got != http.StatusUnauthorized {
		t.Errorf("a stranger's token: %d", got)
	}
	second := publish("2")
	testenv.Eventually(t, 20*time.Second, func() error {
		if got := s.upgrade(token(t, jwt.SigningMethodEdDSA, second, "2", "")); got != http.StatusSwitchingProtocols {
			return fmt.Errorf("the new key: %d", got)
		}
		return nil
	})
	set.Store(nil)
	testenv.Eventually(t, 20*time.Second, func() error {
		if got := s.upgrade(token(t, jwt.SigningMethodEdDSA, stranger, "3", "")); got != http.StatusServiceUnavailable {
			return fmt.Errorf("an unknown kid while the issuer is down: %d", got)
		}
		if _, body, err := get("http://" + s.vars["ADMIN_ADDR"] + "/readyz"); err != nil || !strings.Contains(body, `"degraded":["auth: the keys of`) {
			return fmt.Errorf("readyz: %s (%w)", body, err) // nobody has asked the issuer yet
		}
		return nil
	})
	if got := s.upgrade(token(t, jwt.SigningMethodEdDSA, second, "2", "")); got != http.StatusSwitchingProtocols {
		t.Errorf("a known key while the issuer is down: %d", got)
	}
	if _, body, err := get("http://" + s.vars["ADMIN_ADDR"] + "/metrics"); err != nil || !strings.Contains(body, "outbox_relay_auth_degraded 1\n") {
		t.Errorf("no metric says so (%v)", err)
	}
}
