package auth

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/MicahParks/jwkset"
	"github.com/golang-jwt/jwt/v5"

	"github.com/outboxrelay/outboxrelay/internal/testenv"
)

// signer is a private key with its kid.
type signer struct {
	kid    string
	method jwt.SigningMethod
	key    crypto.Signer
}

func newSigner(t testing.TB, kid string, method jwt.SigningMethod) signer {
	t.Helper()
	var (
		key crypto.Signer
		err error
	)
	switch method {
	case jwt.SigningMethodRS256:
		key, err = rsa.GenerateKey(rand.Reader, 2048)
	case jwt.SigningMethodES256:
		key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	case jwt.SigningMethodEdDSA:
		_, key, err = ed25519.GenerateKey(rand.Reader)
	}
	if err != nil {
		t.Fatal(err)
	}
	return signer{kid, method, key}
}

// token is good for an hour, with this iss.
func (s signer) token(t testing.TB, iss string) string {
	t.Helper()
	token := jwt.NewWithClaims(s.method, jwt.MapClaims{"sub": "u1", "iss": iss, "exp": time.Now().Add(time.Hour).Unix()})
	if s.kid != "" {
		token.Header["kid"] = s.kid
	}
	text, err := token.SignedString(s.key)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// jwks is the set of the signers' public keys.
func jwks(t testing.TB, signers ...signer) string {
	t.Helper()
	store := jwkset.NewMemoryStorage()
	for _, s := range signers {
		j, err := jwkset.NewJWKFromKey(s.key.Public(), jwkset.JWKOptions{Metadata: jwkset.JWKMetadataOptions{KID: s.kid}})
		if err != nil {
			t.Fatal(err)
		}
		_ = store.KeyWrite(t.Context(), j)
	}
	text, err := store.JSONPublic(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// publisher serves a JWKS and counts the requests.
type publisher struct {
	url string

	mu      sync.Mutex
	handler http.HandlerFunc
	served  int
}

func newPublisher(t testing.TB, body string) *publisher {
	p := &publisher{}
	p.publish(body)
	server := httptest.NewServer(p)
	t.Cleanup(server.Close)
	p.url = server.URL + "/jwks.json"
	return p
}

func (p *publisher) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	p.mu.Lock()
	p.served++
	handler := p.handler
	p.mu.Unlock()
	handler(w, r)
}

func (p *publisher) serve(handler http.HandlerFunc) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.handler = handler
}

func (p *publisher) publish(body string) {
	p.serve(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(body)) })
}

func (p *publisher) requests() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.served
}

// pace is how often a test lets an issuer be asked.
type pace struct{ every, least, wait time.Duration }

var relaxed = pace{every: time.Hour, least: time.Hour, wait: 10 * time.Second}

// running returns a verifier that runs until the end of the test.
func running(t testing.TB, p pace, configs ...Config) *Verifier {
	t.Helper()
	for i := range configs {
		configs[i].Logger = testenv.Logger(t)
	}
	v, err := NewVerifier(configs...)
	if err != nil {
		t.Fatal(err)
	}
	for _, i := range v.issuers {
		if i.set != nil {
			i.set.every, i.set.least, i.set.wait = p.every, p.least, p.wait
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- v.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	return v
}

func accept(t testing.TB, v *Verifier, token string) {
	t.Helper()
	if id, err := v.Verify(t.Context(), token); err != nil || id.UserID != "u1" {
		t.Errorf("a good token: %+v, %v", id, err)
	}
}

func refuse(t testing.TB, v *Verifier, token string, want error) {
	t.Helper()
	if id, err := v.Verify(t.Context(), token); !errors.Is(err, want) {
		t.Errorf("got %+v, %v, want %v", id, err, want)
	}
}

func TestJWKSRotation(t *testing.T) {
	t.Parallel()
	old, next := newSigner(t, "1", jwt.SigningMethodRS256), newSigner(t, "2", jwt.SigningMethodES256)
	p := newPublisher(t, jwks(t, old))
	v := running(t, pace{time.Hour, 0, 10 * time.Second}, Config{JWKSURL: p.url})
	accept(t, v, old.token(t, "")) // waits for the first fetch
	p.publish(jwks(t, old, next))
	accept(t, v, next.token(t, ""))
	accept(t, v, old.token(t, ""))
	p.publish(jwks(t, next))
	refuse(t, v, newSigner(t, "3", jwt.SigningMethodEdDSA).token(t, ""), ErrInvalid) // makes it be fetched
	refuse(t, v, old.token(t, ""), ErrInvalid)
	accept(t, v, next.token(t, ""))
}

func TestJWKSIsRefreshedByItself(t *testing.T) {
	t.Parallel()
	old, next := newSigner(t, "1", jwt.SigningMethodEdDSA), newSigner(t, "1", jwt.SigningMethodEdDSA) // the same kid: nothing unknown about it
	p := newPublisher(t, jwks(t, old))
	v := running(t, pace{10 * time.Millisecond, 0, 10 * time.Second}, Config{JWKSURL: p.url})
	accept(t, v, old.token(t, ""))
	p.publish(jwks(t, next))
	testenv.Eventually(t, 10*time.Second, func() error { _, err := v.Verify(t.Context(), next.token(t, "")); return err })
}

// TestUnknownKid: with the library's own limiter a stranger's kid holds a log-in for a minute, and every one of them asks the issuer.
func TestUnknownKid(t *testing.T) {
	t.Parallel()
	known, stranger := newSigner(t, "1", jwt.SigningMethodEdDSA), newSigner(t, "x", jwt.SigningMethodEdDSA)
	p := newPublisher(t, jwks(t, known))
	v := running(t, relaxed, Config{JWKSURL: p.url})
	accept(t, v, known.token(t, ""))
	token := stranger.token(t, "")
	began := time.Now()
	for i := range 1000 {
		refuse(t, v, token, ErrUnavailable)                 // the key may have been published since
		if took := time.Since(began); took > relaxed.wait { // a single one that waits takes as long
			t.Fatalf("%d unknown kids took %v", i+1, took)
		}
	}
	if n := p.requests(); n != 1 {
		t.Errorf("the issuer was asked %d times", n)
	}

	const least = 100 * time.Millisecond
	v = running(t, pace{time.Hour, least, 10 * time.Second}, Config{JWKSURL: p.url})
	before := p.requests()
	began = time.Now()
	for p.requests()-before < 5 {
		if _, err := v.Verify(t.Context(), token); !errors.Is(err, ErrInvalid) && !errors.Is(err, ErrUnavailable) {
			t.Fatal(err)
		}
	}
	if took := time.Since(began); took < 4*least {
		t.Errorf("the issuer was asked 5 times in %v", took)
	}
}

// Strangers who kept naming unknown keys kept the last fetch recent, so that a key published after it was refused for good.
func TestAStrangerDoesntHideANewKey(t *testing.T) {
	t.Parallel()
	old, next, stranger := newSigner(t, "1", jwt.SigningMethodEdDSA), newSigner(t, "2", jwt.SigningMethodEdDSA), newSigner(t, "x", jwt.SigningMethodEdDSA)
	p := newPublisher(t, jwks(t, old))
	const least = 500 * time.Millisecond
	v := running(t, pace{time.Hour, least, 10 * time.Second}, Config{JWKSURL: p.url})
	accept(t, v, old.token(t, ""))
	testenv.Eventually(t, 10*time.Second, func() error { // judged by a fetch of its own
		if _, err := v.Verify(t.Context(), stranger.token(t, "")); !errors.Is(err, ErrInvalid) {
			return err
		}
		return nil
	})
	fetches := p.requests()
	p.publish(jwks(t, old, next))
	testenv.Eventually(t, 10*time.Second, func() error {
		_, err := v.Verify(t.Context(), stranger.token(t, "")) // again and again
		if err == nil {
			t.Fatal("the stranger was let in")
		}
		_, err = v.Verify(t.Context(), next.token(t, ""))
		if errors.Is(err, ErrInvalid) {
			t.Fatal("the new key's token was refused for good")
		}
		if reasons, _ := v.Ready(); len(reasons) > 0 {
			t.Fatalf("that made it degraded: %q", reasons)
		}
		return err
	})
	if n := p.requests() - fetches; n != 1 {
		t.Errorf("the issuer was asked %d times for the new key", n)
	}
}

// What was fetched while a token came in is too old to judge it by: another fetch does, where one may be made.
func TestAFetchThatBeganBeforeTheToken(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name string
		pace pace
		want error
	}{
		{"nothing may be asked yet", relaxed, ErrUnavailable},
		{"asked again", pace{time.Hour, 0, 10 * time.Second}, ErrInvalid},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			old, next := newSigner(t, "1", jwt.SigningMethodEdDSA), newSigner(t, "2", jwt.SigningMethodEdDSA)
			p := newPublisher(t, jwks(t, old))
			begun, end := make(chan struct{}, 10), make(chan struct{})
			p.serve(func(w http.ResponseWriter, _ *http.Request) {
				begun <- struct{}{}
				<-end
				_, _ = w.Write([]byte(jwks(t, old)))
			})
			v := running(t, tt.pace, Config{JWKSURL: p.url})
			<-begun
			refused := make(chan error, 1)
			go func() {
				_, err := v.Verify(t.Context(), next.token(t, ""))
				refused <- err
			}()
			testenv.Eventually(t, 10*time.Second, func() error {
				if len(v.issuers[0].set.asked) == 0 {
					return errors.New("it doesn't wait yet")
				}
				return nil
			})
			close(end)
			if err := <-refused; !errors.Is(err, tt.want) {
				t.Errorf("got %v, want %v", err, tt.want)
			}
		})
	}
}

func TestIssuerThatStalls(t *testing.T) {
	t.Parallel()
	known := newSigner(t, "1", jwt.SigningMethodEdDSA)
	p := newPublisher(t, jwks(t, known))
	const wait = 200 * time.Millisecond
	v := running(t, pace{time.Hour, 0, wait}, Config{JWKSURL: p.url})
	testenv.Eventually(t, 10*time.Second, func() error { _, err := v.Verify(t.Context(), known.token(t, "")); return err })
	p.serve(func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	began := time.Now()
	refuse(t, v, newSigner(t, "2", jwt.SigningMethodEdDSA).token(t, ""), ErrUnavailable) // it may be good: nobody can say
	if took := time.Since(began); took < wait || took > 10*wait {
		t.Errorf("it waited %v for an issuer that doesn't answer, want %v", took, wait)
	}
	accept(t, v, known.token(t, "")) // while the fetch hangs
}

func TestKeysAreKeptWhileTheIssuerIsDown(t *testing.T) {
	t.Parallel()
	s := newSigner(t, "1", jwt.SigningMethodRS256)
	small, err := rsa.GenerateKey(rand.Reader, 1024) // what is refused
	if err != nil {
		t.Fatal(err)
	}
	// This machine by another name, as far as that goes: a good set at an address that a JWKS may not have.
	elsewhere := strings.Replace(newPublisher(t, jwks(t, s)).url, "127.0.0.1", "0.0.0.0", 1)
	for name, handler := range map[string]http.HandlerFunc{
		"503":          func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusServiceUnavailable) },
		"HTML":         func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("<html>maintenance</html>")) },
		"empty object": func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("{}")) },
		"empty set":    func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(`{"keys":[]}`)) },
		"a secret": func(w http.ResponseWriter, _ *http.Request) {
			_, _ = w.Write([]byte(`{"keys":[{"kty":"oct","kid":"1","k":"a0o4c2Q3RmhRMm1aeDBQdkxyNVRuWXczQmNFdTZBZ0Q"}]}`))
		},
		"1024 bits": func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(jwks(t, signer{"1", nil, small}))) },
		"more than 1 MiB": func(w http.ResponseWriter, _ *http.Request) {
			_, _ = w.Write([]byte(strings.Repeat(" ", maxSet) + jwks(t, s)))
		},
		"cut": func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) },
		"elsewhere": func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, elsewhere, http.StatusFound)
		},
		"round and round": func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, r.URL.Path, http.StatusFound) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := newPublisher(t, jwks(t, s))
			v := running(t, pace{time.Millisecond, time.Millisecond, 10 * time.Second}, Config{JWKSURL: p.url})
			accept(t, v, s.token(t, ""))
			p.serve(handler)
			testenv.Eventually(t, 10*time.Second, func() error {
				if reasons, usable := v.Ready(); len(reasons) != 1 || !usable || !strings.Contains(reasons[0], "refreshed") {
					return fmt.Errorf("reasons %q, usable %v", reasons, usable)
				}
				return nil
			})
			accept(t, v, s.token(t, ""))
			refuse(t, v, newSigner(t, "2", jwt.SigningMethodEdDSA).token(t, ""), ErrUnavailable)
			p.publish(jwks(t, s))
			testenv.Eventually(t, 10*time.Second, func() error {
				if reasons, usable := v.Ready(); len(reasons) != 0 || !usable {
					return fmt.Errorf("reasons %q, usable %v", reasons, usable)
				}
				return nil
			})
		})
	}
}

func TestStartWhileTheIssuerIsDown(t *testing.T) {
	t.Parallel()
	s := newSigner(t, "1", jwt.SigningMethodES256)
	p := newPublisher(t, jwks(t, s))
	down := func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusBadGateway) }
	p.serve(down)
	v := running(t, pace{time.Hour, time.Millisecond, 10 * time.Second}, Config{JWKSURL: p.url})
	refuse(t, v, s.token(t, ""), ErrUnavailable)
	if reasons, usable := v.Ready(); len(reasons) != 1 || usable {
		t.Errorf("reasons %q, usable %v", reasons, usable)
	}
	p.publish(jwks(t, s))
	testenv.Eventually(t, 10*time.Second, func() error { _, err := v.Verify(t.Context(), s.token(t, "")); return err })
}

// TestOneAlgorithmForEachKey: whatever a token says, the key's type decides.
// TestAnOddKeyDoesntHideTheOthers: an issuer may publish what isn't understood here, also beside the key that it begins to sign with.
func TestAnOddKeyDoesntHideTheOthers(t *testing.T) {
	t.Parallel()
	good, other := newSigner(t, "good", jwt.SigningMethodRS256), newSigner(t, "odd", jwt.SigningMethodES256)
	set := jwks(t, good)
	key := strings.TrimSuffix(strings.TrimPrefix(jwks(t, other), `{"keys":[`), `}]}`)
	for name, odd := range map[string]string{
		"another kty":            `{"kty":"AKP","alg":"ML-DSA-44","kid":"odd","pub":"AAAA"}`,
		"another curve":          `{"kty":"EC","crv":"secp256k1","kid":"odd","x":"AQ","y":"AQ"}`,
		"off its curve":          `{"kty":"EC","crv":"P-256","kid":"odd","x":"AQ","y":"AQ"}`,
		"without its modulus":    `{"kty":"RSA","kid":"odd","e":"AQAB"}`,
		"a use of its own":       key + `,"use":"tls"}`,
		"key_ops of its own":     key + `,"key_ops":["attest"]}`,
		"a certificate's rubble": key + `,"x5c":["AAAA"]}`,
		"x5u on http":            key + `,"x5u":"http://192.0.2.1/x"}`,
		"a number as kid":        `{"kty":"RSA","kid":5,"n":"AQAB","e":"AQAB"}`,
		"no key at all":          `"odd"`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := newPublisher(t, strings.Replace(set, `{"keys":[`, `{"keys":[`+odd+`,`, 1))
			v := running(t, relaxed, Config{JWKSURL: p.url})
			accept(t, v, good.token(t, ""))
			if reasons, usable := v.Ready(); len(reasons) > 0 || !usable {
				t.Errorf("Ready: %q, %v", reasons, usable)
			}
		})
	}
}

func TestOneAlgorithmForEachKey(t *testing.T) {
	t.Parallel()
	r, e, d := newSigner(t, "r", jwt.SigningMethodRS256), newSigner(t, "e", jwt.SigningMethodES256), newSigner(t, "d", jwt.SigningMethodEdDSA)
	set := jwks(t, r, e, d)
	oct := `{"kty":"oct","kid":"o","k":"a0o4c2Q3RmhRMm1aeDBQdkxyNVRuWXczQmNFdTZBZ0Q"},`
	p := newPublisher(t, strings.Replace(set, `{"keys":[`, `{"keys":[`+oct, 1))
	v := running(t, relaxed, Config{JWKSURL: p.url})
	for _, s := range []signer{r, e, d} {
		accept(t, v, s.token(t, ""))
		nameless := s
		nameless.kid = ""
		refuse(t, v, nameless.token(t, ""), ErrUnavailable) // three keys: which? There may be one by now
		for _, other := range []string{"r", "e", "d"} {
			if other != s.kid {
				refuse(t, v, signer{other, s.method, s.key}.token(t, ""), ErrInvalid)
				// The library looks at the type of a key as well; here it isn't even handed out.
				if key, err := v.issuers[0].set.key(t.Context(), &jwt.Token{Method: s.method, Header: map[string]any{"alg": s.method.Alg(), "kid": other}}); err == nil {
					t.Errorf("%s gets the %T", s.method.Alg(), key)
				}
			}
		}
	}
	rsaKey := r.key.(*rsa.PrivateKey)
	for name, token := range map[string]*jwt.Token{
		"a secret in the set": jwt.NewWithClaims(jwt.SigningMethodHS256, jwt.MapClaims{"sub": "u1", "exp": time.Now().Add(time.Hour).Unix()}),
		"RS512":               jwt.NewWithClaims(jwt.SigningMethodRS512, jwt.MapClaims{"sub": "u1", "exp": time.Now().Add(time.Hour).Unix()}),
		"PS256":               jwt.NewWithClaims(jwt.SigningMethodPS256, jwt.MapClaims{"sub": "u1", "exp": time.Now().Add(time.Hour).Unix()}),
	} {
		var key any = rsaKey
		token.Header["kid"] = "r"
		if name == "a secret in the set" {
			key, token.Header["kid"] = []byte("kJ8sd7FhQ2mZx0PvLr5TnYw3BcEu6AgD"), "o"
		}
		text, err := token.SignedString(key)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := v.Verify(t.Context(), text); !errors.Is(err, ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
	single := newPublisher(t, jwks(t, e))
	v = running(t, relaxed, Config{JWKSURL: single.url})
	accept(t, v, signer{"", e.method, e.key}.token(t, "")) // one key: no name needed
	accept(t, v, e.token(t, ""))
}

func TestSeveralIssuers(t *testing.T) {
	t.Parallel()
	a, b, c := newSigner(t, "1", jwt.SigningMethodRS256), newSigner(t, "1", jwt.SigningMethodRS256), newSigner(t, "1", jwt.SigningMethodES256)
	own := []byte("kJ8sd7FhQ2mZx0PvLr5TnYw3BcEu6AgD")
	v := running(t, relaxed,
		Config{Issuer: "a", JWKSURL: newPublisher(t, jwks(t, a)).url},
		Config{Issuer: "b", JWKSURL: newPublisher(t, jwks(t, b)).url},
		Config{Issuer: "c", PublicKey: pemOf(t, c.key.Public())},
		Config{Issuer: "d", Secret: own, Audience: "app"},
	)
	for name, s := range map[string]signer{"a": a, "b": b, "c": c} {
		for _, iss := range []string{"a", "b", "c", "d", "e", ""} {
			if iss == name {
				accept(t, v, s.token(t, iss))
			} else {
				refuse(t, v, s.token(t, iss), ErrInvalid)
			}
		}
	}
	for _, iss := range []string{"a", "c", "d"} {
		token, err := Config{Secret: own, Issuer: iss, Audience: "app"}.Mint("u1", time.Minute)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := v.Verify(t.Context(), token); (err == nil) != (iss == "d") {
			t.Errorf("the secret of d with iss %s: %v", iss, err)
		}
	}
	for name, configs := range map[string][]Config{
		"none": {}, "twice": {{Issuer: "a", Secret: own}, {Issuer: "a", Secret: own}}, "nameless": {{Secret: own}, {Issuer: "a", Secret: own}},
	} {
		if _, err := NewVerifier(configs...); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func TestJWKSAddress(t *testing.T) {
	t.Parallel()
	for address, want := range map[string]bool{
		"https://issuer.example/jwks": true, "http://localhost:8080/jwks": true, "http://127.0.0.1/jwks": true, "http://[::1]:1/jwks": true,
		"http://issuer.example/jwks": false, "http://localhost.evil.example/": false, "http://10.0.0.1/": false, "file:///etc/passwd": false,
		"https://u:topsecret@issuer.example/": false, "issuer.example": false, "https://": false, "https://h/#x": false, "https://topsecret:x/": false,
	} {
		_, err := NewVerifier(Config{JWKSURL: address})
		if (err == nil) != want || err != nil && strings.Contains(err.Error(), "topsecret") {
			t.Errorf("%s: %v", address, err)
		}
	}
}

// TestErrorsDontQuoteTheAddress: an address may have a key in its query.
func TestErrorsDontQuoteTheAddress(t *testing.T) {
	t.Parallel()
	v := running(t, relaxed, Config{JWKSURL: "http://" + testenv.FreeAddr(t) + "/jwks?key=topsecret"})
	testenv.Eventually(t, 10*time.Second, func() error {
		reasons, _ := v.Ready()
		if len(reasons) != 1 || !strings.Contains(reasons[0], "refused") {
			return fmt.Errorf("reasons %q", reasons)
		}
		if strings.Contains(reasons[0], "topsecret") {
			t.Fatalf("%q holds the address", reasons[0])
		}
		return nil
	})
}

// Whatever a token says of itself, only what an issuer has signed is good. The keys are new in each process, so that no seed is.
func FuzzVerifyPublicKeys(f *testing.F) {
	signers := []signer{newSigner(f, "r", jwt.SigningMethodRS256), newSigner(f, "e", jwt.SigningMethodES256), newSigner(f, "", jwt.SigningMethodEdDSA)}
	published := running(f, relaxed, Config{JWKSURL: newPublisher(f, jwks(f, signers[:2]...)).url})
	named, err := NewVerifier(Config{PublicKey: pemOf(f, signers[2].key.Public())})
	if err != nil {
		f.Fatal(err)
	}
	var good []string
	for i, s := range signers {
		token := s.token(f, "")
		accept(f, []*Verifier{published, published, named}[i], token)
		good = append(good, token)
		header, rest, _ := strings.Cut(token, ".")
		f.Add(token)
		f.Add(token + "A")
		f.Add(header[1:] + "." + rest)
	}
	for _, header := range []string{
		`{"alg":"RS256","kid":"e"}`, `{"alg":"ES256","kid":"r"}`, `{"alg":"HS256","kid":"r"}`, `{"alg":"none","kid":"r"}`, `{"alg":"RS256","kid":["r"]}`,
		`{"alg":"RS256","kid":"../r"}`, `{"alg":"EdDSA","jwk":{"kty":"OKP","crv":"Ed25519","x":""}}`, `{"alg":"RS256","kid":"r","crit":["exp"]}`,
	} {
		f.Add(base64.RawURLEncoding.EncodeToString([]byte(header)) + ".eyJzdWIiOiJ1MSIsImV4cCI6NDEwMjQ0NDgwMH0.AAAA")
	}
	f.Fuzz(func(t *testing.T, token string) {
		for _, v := range []*Verifier{published, named} {
			id, err := v.Verify(t.Context(), token)
			if err == nil && !slices.Contains(good, token) {
				t.Fatalf("%q is good: %+v", token, id)
			}
			later := v == published && errors.Is(err, ErrUnavailable) // an unknown kid
			if err != nil && !errors.Is(err, ErrInvalid) && !errors.Is(err, ErrExpired) && !later {
				t.Fatalf("%q: %v", token, err)
			}
		}
	})
}
