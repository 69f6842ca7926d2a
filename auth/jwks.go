package auth

import (
	"cmp"
	"context"
	"crypto"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"sync"
	"time"

	"github.com/MicahParks/jwkset"
	"github.com/MicahParks/keyfunc/v3"
	"github.com/golang-jwt/jwt/v5"
)

const (
	fetchTimeout = 10 * time.Second
	maxRedirects = 3
	maxSet       = 1 << 20 // bytes of a JWKS
)

// keySet holds the keys of one JWKS. A stranger's token can name any kid: it makes the issuer be asked at most once in `least`, and
// waits for `wait` at most. So it can't be used to turn others away either: a key is missing only if the issuer was asked after the token came.
type keySet struct {
	address string
	host    string // what may be shown of the address
	client  *http.Client
	log     *slog.Logger
	keys    keyfunc.Keyfunc
	asked   chan struct{} // holds a token when somebody waits for a fetch

	every, least, wait time.Duration

	mu       sync.Mutex
	fetching bool
	began    time.Time     // of the newest fetch; zero: there was none
	fetched  chan struct{} // closed when the next one has ended
	err      error         // of the newest one that has ended
	asOf     time.Time     // when the fetch of the keys that are held began; zero: there are none
}

func newKeySet(address string, log *slog.Logger) (*keySet, error) {
	u, err := parseJWKSURL(address)
	if err != nil {
		return nil, err
	}
	keys, err := keyfunc.New(keyfunc.Options{
		Storage: usableKeys{jwkset.NewMemoryStorage()}, UseWhitelist: []jwkset.USE{jwkset.UseSig, ""},
	})
	if err != nil {
		return nil, fmt.Errorf("hold the keys of %q: %w", u.Host, err)
	}
	return &keySet{
		address: address, host: u.Host, client: newFetcher(), log: cmp.Or(log, slog.Default()), keys: keys,
		asked: make(chan struct{}, 1), fetched: make(chan struct{}),
		every: 5 * time.Minute, least: 5 * time.Second, wait: time.Second,
	}, nil
}

// parseJWKSURL takes https, or http on this machine. The error doesn't quote the address: its query may hold a secret.
func parseJWKSURL(address string) (*url.URL, error) {
	u, err := url.Parse(address)
	if err != nil || u.Host == "" || u.User != nil || u.Fragment != "" {
		return nil, errors.New("it is no address of a JWKS: want https://host/path, without a password")
	}
	ip := net.ParseIP(u.Hostname())
	local := u.Hostname() == "localhost" || ip != nil && ip.IsLoopback()
	if u.Scheme != "https" && !(u.Scheme == "http" && local) {
		return nil, errors.New("the keys must come by https; http is for localhost only")
	}
	return u, nil
}

// newFetcher returns a client that keeps no connection open, goes where parseJWKSURL would let it go, and reads maxSet bytes.
func newFetcher() *http.Client {
	return &http.Client{
		Transport: boundedTransport{&http.Transport{Proxy: http.ProxyFromEnvironment, DisableKeepAlives: true}},
		CheckRedirect: func(r *http.Request, via []*http.Request) error {
			if len(via) > maxRedirects {
				return errors.New("too many redirects")
			}
			if r.URL.Scheme != "https" && via[0].URL.Scheme == "https" {
				return errors.New("redirected from https to http")
			}
			_, err := parseJWKSURL(r.URL.String())
			return err
		},
	}
}

// boundedTransport cuts answers off at maxSet bytes.
type boundedTransport struct{ http.RoundTripper }

// RoundTrip implements http.RoundTripper.
func (t boundedTransport) RoundTrip(r *http.Request) (*http.Response, error) {
	response, err := t.RoundTripper.RoundTrip(r)
	if err == nil {
		response.Body = struct {
			io.Reader
			io.Closer
		}{io.LimitReader(response.Body, maxSet), response.Body}
	}
	return response, err
}

// usableKeys takes over a fetched set: without the keys that nothing may be verified with (secrets among them), and only if some are left.
type usableKeys struct{ jwkset.Storage }

// KeyReplaceAll implements jwkset.Storage.
func (k usableKeys) KeyReplaceAll(ctx context.Context, fetched []jwkset.JWK) error {
	var usable []jwkset.JWK
	for _, j := range fetched {
		key := j.Key()
		if private, ok := key.(interface{ Public() crypto.PublicKey }); ok {
			key = private.Public()
		}
		if _, err := algorithmOf(key); err == nil && j.Marshal().USE != jwkset.UseEnc {
			usable = append(usable, j)
		}
	}
	if len(usable) == 0 {
		return errors.New("the set holds no key to verify with: want RSA of at least 2048 bits, ECDSA on P-256 or Ed25519")
	}
	return k.Storage.KeyReplaceAll(ctx, usable)
}

// run fetches until ctx ends.
func (s *keySet) run(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		case <-s.asked:
			if !s.due() {
				continue // it came during a fetch
			}
		}
		next := s.every - s.every/10 + rand.N(s.every/5)
		if s.fetch(ctx) != nil {
			next = s.least
		}
		timer.Reset(next)
	}
}

// due reports whether the last fetch began long enough ago.
func (s *keySet) due() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return time.Since(s.began) >= s.least
}

// fetch asks the issuer; the keys stay as they are if that fails.
func (s *keySet) fetch(ctx context.Context) error {
	began := time.Now()
	s.mu.Lock()
	s.fetching, s.began = true, began
	s.mu.Unlock()
	err := s.load(ctx)
	var inURL *url.Error
	if errors.As(err, &inURL) { // it quotes the address
		err = inURL.Err
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case err != nil && s.err == nil:
		s.log.Warn("auth: the keys can't be fetched", "issuer", s.host, "kept", !s.asOf.IsZero(), "error", err)
	case err == nil && (s.err != nil || s.asOf.IsZero()):
		s.log.Info("auth: the keys were fetched", "issuer", s.host)
	}
	s.fetching, s.err = false, err
	if err == nil {
		s.asOf = began
	}
	close(s.fetched)
	s.fetched = make(chan struct{})
	return err
}

// load takes over what the issuer publishes now. A key that can't be read is passed over, as RFC 7517 section 5 has it: it mustn't take the others away.
func (s *keySet) load(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, fetchTimeout)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, s.address, http.NoBody)
	if err != nil {
		return err
	}
	response, err := s.client.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("the issuer answered %q", response.Status)
	}
	var set struct {
		Keys []json.RawMessage `json:"keys"`
	}
	if err := json.NewDecoder(response.Body).Decode(&set); err != nil {
		return fmt.Errorf("the answer is no JWKS: %w", err)
	}
	var keys []jwkset.JWK
	for _, text := range set.Keys {
		j, err := jwkset.NewJWKFromRawJSON(text, jwkset.JWKMarshalOptions{Private: true}, jwkset.JWKValidateOptions{})
		if err != nil {
			s.log.Debug("auth: a key was passed over", "issuer", s.host)
			continue
		}
		keys = append(keys, j)
	}
	return s.keys.Storage().KeyReplaceAll(ctx, keys)
}

// ready returns what is wrong, and whether there are keys.
func (s *keySet) ready() (reason string, has bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	has = !s.asOf.IsZero()
	switch {
	case s.err != nil && has:
		return fmt.Sprintf("auth: the keys of %s couldn't be refreshed: %v", s.host, s.err), true
	case s.err != nil:
		return fmt.Sprintf("auth: the keys of %s can't be fetched: %v", s.host, s.err), false
	case !has:
		return fmt.Sprintf("auth: the keys of %s have not been fetched yet", s.host), false
	}
	return "", true
}

// key returns the key that a token names, if it is good for the token's algorithm.
func (s *keySet) key(ctx context.Context, t *jwt.Token) (any, error) {
	key, err := s.lookup(ctx, t)
	if errors.Is(err, jwkset.ErrKeyNotFound) {
		stale := s.refresh(ctx)
		if key, err = s.lookup(ctx, t); stale != nil && errors.Is(err, jwkset.ErrKeyNotFound) {
			return nil, stale
		}
	}
	if err != nil {
		return nil, err
	}
	if algorithm, err := algorithmOf(key); err != nil || algorithm != t.Method.Alg() {
		return nil, errors.New("the key is for another algorithm")
	}
	return key, nil
}

// lookup finds the key named by kid; a token without one is good enough where there is only one key.
func (s *keySet) lookup(ctx context.Context, t *jwt.Token) (any, error) {
	if _, named := t.Header[jwkset.HeaderKID]; named {
		return s.keys.KeyfuncCtx(ctx)(t)
	}
	all, err := s.keys.VerificationKeySet(ctx)
	if err != nil {
		return nil, err
	}
	if len(all.Keys) != 1 {
		return nil, jwkset.ErrKeyNotFound
	}
	return all.Keys[0], nil
}

// refresh waits for a fetch that begins after the call, if one may be made. The error is ErrUnavailable where the keys are older than the call:
// nobody can tell then whether a key exists.
func (s *keySet) refresh(ctx context.Context) error {
	asked := time.Now()
	ctx, cancel := context.WithTimeout(ctx, s.wait)
	defer cancel()
	for range 2 { // a fetch that is under way began too early
		s.mu.Lock()
		fetched, fresh, wait := s.fetched, !s.asOf.Before(asked), s.fetching || time.Since(s.began) >= s.least
		s.mu.Unlock()
		if fresh || !wait {
			break
		}
		select {
		case s.asked <- struct{}{}:
		default:
		}
		select {
		case <-fetched:
		case <-ctx.Done():
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.asOf.Before(asked) {
		return ErrUnavailable
	}
	return nil
}
