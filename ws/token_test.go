package ws_test

import (
	"bufio"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/MicahParks/jwkset"
	"github.com/coder/websocket"
	"github.com/golang-jwt/jwt/v5"

	"github.com/outboxrelay/outboxrelay/auth"
	"github.com/outboxrelay/outboxrelay/internal/testenv"
	"github.com/outboxrelay/outboxrelay/ws"
)

var b64 = base64.RawURLEncoding.EncodeToString

// smith makes tokens by hand, good and bad ones, so that nothing but the server decides what is acceptable.
type smith struct {
	t     *testing.T
	rsa   *rsa.PrivateKey
	ec    *ecdsa.PrivateKey
	ed    ed25519.PrivateKey
	other ed25519.PrivateKey // of somebody else
	pem   []byte             // of rsa's public key

	fetched atomic.Int32 // requests to trap
	trap    string       // where a token may want the server to look for keys
	jwks    string       // where the server does look
}

func newSmith(t *testing.T) *smith {
	t.Helper()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	s := &smith{t: t}
	var err error
	s.rsa, err = rsa.GenerateKey(rand.Reader, 2048)
	must(err)
	s.ec, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(err)
	_, s.ed, err = ed25519.GenerateKey(rand.Reader)
	must(err)
	_, s.other, err = ed25519.GenerateKey(rand.Reader)
	must(err)
	der, err := x509.MarshalPKIXPublicKey(s.rsa.Public())
	must(err)
	s.pem = pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})

	set := func(keys map[string]crypto.PublicKey) []byte {
		store := jwkset.NewMemoryStorage()
		for kid, key := range keys {
			j, err := jwkset.NewJWKFromKey(key, jwkset.JWKOptions{Metadata: jwkset.JWKMetadataOptions{KID: kid}})
			must(err)
			must(store.KeyWrite(t.Context(), j))
		}
		text, err := store.JSONPublic(t.Context())
		must(err)
		return text
	}
	good := set(map[string]crypto.PublicKey{"r1": s.rsa.Public(), "e1": s.ec.Public(), "d1": s.ed.Public()})
	bad := set(map[string]crypto.PublicKey{"x1": s.other.Public()})
	issuer := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/trap" {
			s.fetched.Add(1)
			_, _ = w.Write(bad)
			return
		}
		_, _ = w.Write(good)
	}))
	t.Cleanup(issuer.Close)
	s.trap, s.jwks = issuer.URL+"/trap", issuer.URL+"/jwks"
	return s
}

// hs signs with HS256 by a secret, whatever the header says.
func (s *smith) hs(header, payload string, secret []byte) string {
	signed := b64([]byte(header)) + "." + b64([]byte(payload))
	mac := hmac.New(sha256.New, secret)
	mac.Write([]byte(signed))
	return signed + "." + b64(mac.Sum(nil))
}

// sign signs by a method and key, with further headers.
func (s *smith) sign(method jwt.SigningMethod, key any, headers map[string]any) string {
	s.t.Helper()
	m := jwt.NewWithClaims(method, jwt.MapClaims{"sub": "u1", "iss": "me", "aud": "app", "exp": time.Now().Add(time.Hour).Unix()})
	for name, value := range headers {
		m.Header[name] = value
	}
	text, err := m.SignedString(key)
	if err != nil {
		s.t.Fatal(err)
	}
	return text
}

// verdict is what a token leads to: by header, and as the first frame.
type verdict struct {
	status int // 101: accepted
	code   string
	close  websocket.StatusCode // 0: accepted
	later  bool                 // or 503 and 1013: the issuer was asked a moment ago, and its keys may have changed since
}

var (
	good     = verdict{status: 101}
	invalid  = verdict{status: 401, code: "invalid_token", close: 4500}
	unknown  = verdict{status: 401, code: "invalid_token", close: 4500, later: true}
	outlived = verdict{status: 401, code: "token_expired", close: 4001}
	missing  = verdict{status: 401, code: "auth_required", close: 4501}
	inactive = verdict{status: 403, code: "user_inactive", close: 4503}
	tooBig   = verdict{status: 431, code: "", close: 1009} // the header isn't read to its end: no word about tokens
)

type tokenCase struct {
	name  string
	node  string // by what it verifies: secret, pem, jwks
	token string
	want  verdict
}

func tokenCases(s *smith) []tokenCase {
	now := time.Now().Unix()
	const head = `{"alg":"HS256","typ":"JWT"}`
	claims := func(format string, args ...any) string { return s.hs(head, fmt.Sprintf(format, args...), secret) }
	with := func(claim string) string { return claims(`{"sub":"u1","iss":"me","aud":"app",%s}`, claim) }
	also := func(claim string) string { return with(fmt.Sprintf(`"exp":%d,%s`, now+3600, claim)) }
	payload := fmt.Sprintf(`{"sub":"u1","iss":"me","aud":"app","exp":%d}`, now+3600)
	valid := s.hs(head, payload, secret)
	part := strings.Split(valid, ".")
	unsigned := func(header string) string { return b64([]byte(header)) + "." + part[1] + "." }
	flipped := []byte(valid)
	flipped[len(valid)-10] ^= 1 // another digit of base64, or none at all
	rs, es, ed := jwt.SigningMethodRS256, jwt.SigningMethodES256, jwt.SigningMethodEdDSA
	kid := func(value any) map[string]any { return map[string]any{"kid": value} }
	public, _ := pem.Decode(s.pem)
	return []tokenCase{
		{"good, by secret", "secret", valid, good},
		{"none", "secret", "", missing},
		{"garbage", "secret", "garbage", invalid},
		{"20 kB of dots", "secret", strings.Repeat(".", 20<<10), invalid},
		{"10 MB of dots", "secret", strings.Repeat(".", 10<<20), tooBig},
		{"alg none", "secret", unsigned(`{"alg":"none"}`), invalid},
		{"alg None", "secret", unsigned(`{"alg":"None"}`), invalid},
		{"alg none, signed", "secret", s.hs(`{"alg":"none"}`, payload, secret), invalid},
		{"no alg", "secret", s.hs(`{"typ":"JWT"}`, payload, secret), invalid},
		{"empty signature", "secret", part[0] + "." + part[1] + ".", invalid},
		{"empty secret", "secret", s.hs(head, payload, nil), invalid},
		{"HS384 with the right secret", "secret", s.sign(jwt.SigningMethodHS384, secret, nil), invalid},
		{"HS512 with the right secret", "secret", s.sign(jwt.SigningMethodHS512, secret, nil), invalid},
		{"RS256 where HS256 is configured", "secret", s.sign(rs, s.rsa, nil), invalid},
		{"flipped signature", "secret", string(flipped), invalid},
		{"other payload", "secret", part[0] + "." + b64([]byte(strings.Replace(payload, "u1", "u2", 1))) + "." + part[2], invalid},

		{"good, by PEM", "pem", s.sign(rs, s.rsa, nil), good},
		{"HS256 where RS256 is configured", "pem", valid, invalid},
		{"HS256 with the PEM as secret", "pem", s.hs(head, payload, s.pem), invalid},
		{"HS256 with the DER as secret", "pem", s.hs(head, payload, public.Bytes), invalid},
		{"RS384", "pem", s.sign(jwt.SigningMethodRS384, s.rsa, nil), invalid},
		{"PS256", "pem", s.sign(jwt.SigningMethodPS256, s.rsa, nil), invalid},
		{"ES256 where RS256 is configured", "pem", s.sign(es, s.ec, nil), invalid},

		{"expired beyond the leeway", "secret", with(fmt.Sprintf(`"exp":%d`, now-60)), outlived},
		{"expired long ago", "secret", with(`"exp":1`), outlived},
		{"expired within the leeway", "secret", "", good}, // made when it is sent
		{"expired, other secret", "secret", s.hs(head, strings.Replace(payload, fmt.Sprint(now+3600), "1", 1), []byte("x")), invalid},
		{"no exp", "secret", claims(`{"sub":"u1","iss":"me","aud":"app"}`), invalid},
		{"exp 0", "secret", with(`"exp":0`), invalid},
		{"exp negative", "secret", with(`"exp":-1`), invalid},
		{"exp 1e300", "secret", with(`"exp":1e300`), invalid},
		{"exp a string", "secret", with(fmt.Sprintf(`"exp":"%d"`, now+3600)), invalid},
		{"exp in 2100", "secret", with(`"exp":4102444800`), good},
		{"exp beyond 9999", "secret", with(`"exp":253402300800`), invalid},
		{"nbf in the future", "secret", also(fmt.Sprintf(`"nbf":%d`, now+600)), invalid},
		{"nbf within the leeway", "secret", also(fmt.Sprintf(`"nbf":%d`, now+5)), good},
		{"iat in the future", "secret", also(fmt.Sprintf(`"iat":%d`, now+600)), invalid},
		{"other iss", "secret", claims(`{"sub":"u1","iss":"you","aud":"app","exp":%d}`, now+3600), invalid},
		{"no iss", "secret", claims(`{"sub":"u1","aud":"app","exp":%d}`, now+3600), invalid},
		{"other aud", "secret", claims(`{"sub":"u1","iss":"me","aud":"api","exp":%d}`, now+3600), invalid},
		{"aud among several", "secret", claims(`{"sub":"u1","iss":"me","aud":["api","app"],"exp":%d}`, now+3600), good},
		{"aud not among several", "secret", claims(`{"sub":"u1","iss":"me","aud":["api","web"],"exp":%d}`, now+3600), invalid},
		{"no sub", "secret", claims(`{"iss":"me","aud":"app","exp":%d}`, now+3600), invalid},
		{"sub an array", "secret", claims(`{"sub":["u1"],"iss":"me","aud":"app","exp":%d}`, now+3600), invalid},
		{"sub of 1 MB", "secret", claims(`{"sub":%q,"iss":"me","aud":"app","exp":%d}`, strings.Repeat("u", 1<<20), now+3600), tooBig},
		{"sub of SQL", "secret", claims(`{"sub":"u1' OR 1=1 --","iss":"me","aud":"app","exp":%d}`, now+3600), inactive},
		{"sub unknown", "secret", claims(`{"sub":"nobody","iss":"me","aud":"app","exp":%d}`, now+3600), inactive},
		{"sub inactive", "secret", claims(`{"sub":"gone","iss":"me","aud":"app","exp":%d}`, now+3600), inactive},

		{"good, RS256 by JWKS", "jwks", s.sign(rs, s.rsa, kid("r1")), good},
		{"good, ES256 by JWKS", "jwks", s.sign(es, s.ec, kid("e1")), good},
		{"good, EdDSA by JWKS", "jwks", s.sign(ed, s.ed, kid("d1")), good},
		{"no kid", "jwks", s.sign(ed, s.ed, nil), unknown},
		{"kid of another key", "jwks", s.sign(ed, s.ed, kid("r1")), invalid},
		{"kid unknown", "jwks", s.sign(ed, s.other, kid("x1")), unknown},
		{"kid a path", "jwks", s.sign(ed, s.other, kid("../../../../etc/passwd")), unknown},
		{"kid SQL", "jwks", s.sign(ed, s.other, kid("' UNION SELECT 'x' --")), unknown},
		{"kid of 10 kB", "jwks", s.sign(ed, s.other, kid(strings.Repeat("k", 10<<10))), unknown},
		{"kid an object", "jwks", s.sign(ed, s.other, kid(map[string]any{"a": 1})), invalid},
		{"HS256 with a kid of the JWKS", "jwks", s.sign(jwt.SigningMethodHS256, []byte(s.rsa.N.Bytes()), kid("r1")), invalid},
		{"jku", "jwks", s.sign(ed, s.other, map[string]any{"kid": "x1", "jku": s.trap}), unknown},
		{"jku beside a good signature", "jwks", s.sign(ed, s.ed, map[string]any{"kid": "d1", "jku": s.trap}), good},
		{"jwk", "jwks", s.sign(ed, s.other, map[string]any{"kid": "x1", "jwk": map[string]any{
			"kty": "OKP", "crv": "Ed25519", "kid": "x1", "x": b64(s.other.Public().(ed25519.PublicKey)),
		}}), unknown},
		{"x5u", "jwks", s.sign(ed, s.other, map[string]any{"kid": "x1", "x5u": s.trap}), unknown},
		{"crit", "jwks", s.sign(ed, s.ed, map[string]any{"kid": "d1", "crit": []string{"b64"}, "b64": false}), invalid},
		{"zip", "jwks", s.sign(ed, s.ed, map[string]any{"kid": "d1", "zip": "DEF"}), invalid},
		{"JWE", "jwks", b64([]byte(`{"alg":"RSA-OAEP","enc":"A256GCM","kid":"r1"}`)) + ".a.b.c.d", invalid},
	}
}

// TestTokens sends every token by header and by first frame, and looks at the exact status, error and close code.
func TestTokens(t *testing.T) {
	t.Parallel()
	s := newStack(t)
	s.user("u1", "p1")
	s.user("gone", "p1")
	s.exec("UPDATE relay.users SET is_active = false WHERE id = 'gone'")
	smith := newSmith(t)
	nodes := map[string]*node{}
	for name, key := range map[string]auth.Config{"secret": {Secret: secret}, "pem": {PublicKey: smith.pem}, "jwks": {JWKSURL: smith.jwks}} {
		key.Issuer, key.Audience, key.Leeway, key.Logger = "me", "app", auth.MaxLeeway, testenv.Logger(t)
		verifier, err := auth.NewVerifier(key)
		if err != nil {
			t.Fatal(err)
		}
		s.running(verifier.Run)
		testenv.Eventually(t, 10*time.Second, func() error {
			if reasons, _ := verifier.Ready(); len(reasons) > 0 {
				return fmt.Errorf("%s", reasons[0])
			}
			return nil
		})
		nodes[name] = s.node(func(c *ws.Config) { c.Auth, c.MaxPerUser = verifier, -1 })
	}
	cases := tokenCases(smith)
	t.Run("all", func(t *testing.T) {
		for _, c := range cases {
			t.Run(c.name, func(t *testing.T) { // not in parallel: a token within the leeway doesn't keep
				n := nodes[c.node]
				if c.name == "expired within the leeway" { // by now, not by when the test began
					c.token = smith.hs(`{"alg":"HS256"}`, fmt.Sprintf(`{"sub":"u1","iss":"me","aud":"app","exp":%d}`, time.Now().Unix()), secret)
				}
				status, code := n.byHeader(t, c.token)
				if later := c.want.later && status == http.StatusServiceUnavailable; !later && (status != c.want.status || code != c.want.code) {
					t.Errorf("by header: %d %q, want %d %q", status, code, c.want.status, c.want.code)
				}
				client := n.dial()
				client.t = t
				sent := make(chan struct{})
				go func() { // the answer to what is too long comes before all of it has been sent
					defer close(sent)
					_ = client.conn.Write(testenv.Context(t, 20*time.Second), websocket.MessageText, []byte(authFrame(c.token)))
				}()
				defer func() { _ = client.conn.CloseNow(); <-sent }()
				switch {
				case c.want.close == 0:
					client.expect("ready", "live")
				case c.want.close == 1009:
					client.expectClose("bad_frame", 1009)
				default:
					code, close := client.ending()
					if later := c.want.later && code == "" && close == 1013; !later && (code != c.want.code || close != c.want.close) {
						t.Errorf("closed with %q, %d, want %q, %d", code, close, c.want.code, c.want.close)
					}
				}
			})
		}
	})
	if n := smith.fetched.Load(); n != 0 {
		t.Errorf("the server went where a token told it to, %d times", n)
	}
	if len(cases) < 34 {
		t.Errorf("only %d tokens", len(cases))
	}
}

// byHeader sends a handshake with the token, by hand: a client library may not send what is too long. code is that of the error's JSON.
func (n *node) byHeader(t *testing.T, token string) (status int, code string) {
	t.Helper()
	address := strings.TrimPrefix(n.url, "ws://")
	conn, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
	sent := make(chan struct{})
	go func() { // the answer to what is too long comes before all of it has been sent
		defer close(sent)
		_, _ = io.WriteString(conn, "GET / HTTP/1.1\r\nHost: "+address+"\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"+
			"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nAuthorization: Bearer "+token+"\r\n\r\n")
	}()
	response, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	conn.Close()
	<-sent
	defer response.Body.Close()
	switch response.StatusCode {
	case http.StatusSwitchingProtocols, http.StatusRequestHeaderFieldsTooLarge, http.StatusServiceUnavailable:
		return response.StatusCode, ""
	}
	if challenge := response.Header.Get("WWW-Authenticate"); (response.StatusCode == http.StatusUnauthorized) != (challenge == "Bearer") {
		t.Errorf("WWW-Authenticate %q with %d", challenge, response.StatusCode)
	}
	var body struct{ Type, Code, Message string }
	if err := json.NewDecoder(response.Body).Decode(&body); err != nil || body.Type != "error" || body.Message == "" {
		t.Errorf("the body is %+v (%v)", body, err)
	}
	return response.StatusCode, body.Code
}

// PROTOCOL says of an auth frame on an open connection that its other fields are ignored. Those that couldn't be read ended it for good.
func TestARenewalsOtherFieldsAreIgnored(t *testing.T) {
	t.Parallel()
	s := newStack(t)
	s.user("u1", "p1")
	s.relay()
	n := s.node(nil)
	c := n.connect("u1")
	c.expect("ready", "live")
	for _, extra := range []string{`"since":"abc"`, `"lastEventTimestamp":"yesterday"`, `"programs":"p1"`, `"batch":"yes"`, `"programs":[1],"since":{"p1":1}`} {
		c.send(authFrame(n.token("u1"), extra))
		c.send(`{"type":"ping"}`)
		c.expect("pong")
	}
	c.send(`{"type":"auth","token":5,"since":"abc"}`)
	c.expectClose("bad_frame", 1007)
}
