package auth

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"golang.org/x/sync/errgroup"
)

// What can be wrong with a token. Everything that isn't a good token that merely ran out is ErrInvalid.
var (
	// ErrExpired: the token would be accepted if its exp (plus the leeway) didn't lie in the past.
	ErrExpired = errors.New("token has expired")
	// ErrInvalid: bad signature, algorithm, issuer, audience or claims, or no token at all.
	ErrInvalid = errors.New("token is invalid")
	// ErrUnavailable: the keys that would decide couldn't be fetched, or mustn't be again yet. The token may be good; asking again later makes sense.
	ErrUnavailable = errors.New("the keys of the issuer are not available")
)

// maxToken bounds a token in bytes; nothing longer is parsed.
const maxToken = 16 << 10

// Identity is what a good token says.
type Identity struct {
	UserID    string    // sub: 1 to 128 characters
	ExpiresAt time.Time // exp
	Until     time.Time // exp plus the leeway: the token is refused from here on
}

// Verifier checks tokens. It may be used by several goroutines at once.
type Verifier struct{ issuers []*issuer }

// issuer is one origin of tokens. Its keys are looked for among its own alone, and each is good for one algorithm: a public key can't
// be passed off as an HMAC secret, nor the key of one issuer as that of another.
type issuer struct {
	name   string // iss; empty: not checked
	leeway time.Duration
	parser *jwt.Parser
	key    func(context.Context, *jwt.Token) (any, error)
	set    *keySet // nil: the key is a fixed one
}

// NewVerifier returns a Verifier for the tokens of one issuer or of several, or the errors of [Config.Validate]. Of several each must
// be named, differently: a token's iss says which of them it is judged by.
func NewVerifier(configs ...Config) (*Verifier, error) {
	if len(configs) == 0 {
		return nil, errors.New("no issuer of tokens")
	}
	v := &Verifier{}
	names := map[string]bool{}
	for _, c := range configs {
		if len(configs) > 1 && (c.Issuer == "" || names[c.Issuer]) {
			return nil, fmt.Errorf("issuer %q: of several issuers each needs a name of its own", c.Issuer)
		}
		names[c.Issuer] = true
		i, err := newIssuer(c)
		if err != nil {
			return nil, err
		}
		v.issuers = append(v.issuers, i)
	}
	return v, nil
}

func newIssuer(c Config) (*issuer, error) {
	if err := c.Validate(); err != nil {
		return nil, err
	}
	i := &issuer{name: c.Issuer, leeway: c.Leeway}
	methods := []string{jwt.SigningMethodHS256.Alg()}
	fixed := func(key any) func(context.Context, *jwt.Token) (any, error) {
		return func(context.Context, *jwt.Token) (any, error) { return key, nil }
	}
	switch {
	case len(c.Secret) > 0:
		i.key = fixed(bytes.Clone(c.Secret))
	case len(c.PublicKey) > 0:
		key, algorithm, err := parsePublicKey(c.PublicKey)
		if err != nil {
			return nil, err
		}
		i.key, methods = fixed(key), []string{algorithm}
	default:
		set, err := newKeySet(c.JWKSURL, c.Logger)
		if err != nil {
			return nil, err
		}
		i.set, i.key = set, set.key
		methods = []string{jwt.SigningMethodRS256.Alg(), jwt.SigningMethodES256.Alg(), jwt.SigningMethodEdDSA.Alg()}
	}
	options := []jwt.ParserOption{
		jwt.WithValidMethods(methods),
		jwt.WithExpirationRequired(), jwt.WithIssuedAt(), jwt.WithStrictDecoding(), jwt.WithLeeway(c.Leeway),
	}
	if c.Issuer != "" {
		options = append(options, jwt.WithIssuer(c.Issuer))
	}
	if c.Audience != "" {
		options = append(options, jwt.WithAudience(c.Audience))
	}
	i.parser = jwt.NewParser(options...)
	return i, nil
}

// Run keeps the keys of issuers with a JWKSURL fresh until ctx ends: they are fetched at once, every 5 minutes, and when a token names
// a key that isn't known, but never twice within 5 seconds: until then such a token is ErrUnavailable. Keys are kept while their issuer
// can't be reached. It returns nil.
func (v *Verifier) Run(ctx context.Context) error {
	var group errgroup.Group
	for _, i := range v.issuers {
		if i.set != nil {
			group.Go(func() error { i.set.run(ctx); return nil })
		}
	}
	<-ctx.Done()
	return group.Wait()
}

// Ready returns what is wrong with the keys, one line for each issuer with a JWKSURL that has none or could not be asked lately; usable
// reports whether there is any issuer with keys.
func (v *Verifier) Ready() (reasons []string, usable bool) {
	for _, i := range v.issuers {
		if i.set == nil {
			usable = true
			continue
		}
		reason, any := i.set.ready()
		usable = usable || any
		if reason != "" {
			reasons = append(reasons, reason)
		}
	}
	return reasons, usable
}

// Verify returns the identity in a token, or an error that wraps ErrExpired, ErrInvalid or ErrUnavailable. The error never contains the
// token. It blocks, for a second at most, only for a token that names a key which its issuer's JWKSURL may have since the last look.
func (v *Verifier) Verify(ctx context.Context, token string) (Identity, error) {
	if token == "" || len(token) > maxToken || strings.ContainsAny(token, "\r\n") { // base64 would skip line breaks
		return Identity{}, ErrInvalid
	}
	if i := v.issuerOf(token); i != nil {
		return i.verify(ctx, token)
	}
	return Identity{}, fmt.Errorf("%w: unknown issuer", ErrInvalid)
}

// issuerOf returns who must have signed a token: the only issuer, or the one that it names.
func (v *Verifier) issuerOf(token string) *issuer {
	if len(v.issuers) == 1 {
		return v.issuers[0]
	}
	_, rest, _ := strings.Cut(token, ".")
	payload, _, _ := strings.Cut(rest, ".")
	text, err := base64.RawURLEncoding.DecodeString(payload)
	if err != nil {
		return nil
	}
	var c claims
	if json.Unmarshal(text, &c) != nil {
		return nil
	}
	for _, i := range v.issuers {
		if i.name == c.Issuer {
			return i
		}
	}
	return nil
}

func (i *issuer) verify(ctx context.Context, token string) (Identity, error) {
	var c claims
	parsed, err := i.parser.ParseWithClaims(token, &c, func(t *jwt.Token) (any, error) { return i.key(ctx, t) })
	switch {
	case errors.Is(err, ErrUnavailable):
		return Identity{}, ErrUnavailable
	case err == nil && !parsed.Valid:
		return Identity{}, ErrInvalid
	case err != nil && !onlyExpired(err):
		return Identity{}, fmt.Errorf("%w: %s", ErrInvalid, reason(err))
	case c.Validate() != nil:
		return Identity{}, fmt.Errorf("%w: unacceptable claims", ErrInvalid)
	}
	for _, name := range []string{"crit", "zip"} { // crit: extensions that must be understood, and none is. zip: of JWE alone
		if _, ok := parsed.Header[name]; ok {
			return Identity{}, fmt.Errorf("%w: header %s", ErrInvalid, name)
		}
	}
	if err != nil {
		return Identity{}, ErrExpired
	}
	return Identity{UserID: c.Subject, ExpiresAt: c.Expires.Time(), Until: c.Expires.Time().Add(i.leeway)}, nil
}

// wrongs are the library's errors other than expiry.
var wrongs = []error{
	jwt.ErrTokenMalformed, jwt.ErrTokenUnverifiable, jwt.ErrTokenSignatureInvalid, jwt.ErrTokenRequiredClaimMissing,
	jwt.ErrTokenInvalidAudience, jwt.ErrTokenInvalidIssuer, jwt.ErrTokenUsedBeforeIssued, jwt.ErrTokenNotValidYet,
}

// onlyExpired reports whether the signature was good and expiry is all that was wrong.
func onlyExpired(err error) bool {
	if !errors.Is(err, jwt.ErrTokenExpired) {
		return false
	}
	for _, other := range wrongs {
		if errors.Is(err, other) {
			return false
		}
	}
	return true
}

// reason names what was wrong in fixed words: the library's message may quote parts of the token.
func reason(err error) string {
	for _, e := range wrongs {
		if errors.Is(err, e) {
			return e.Error()
		}
	}
	return "unacceptable claims"
}
