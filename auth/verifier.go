package auth

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/golang-jwt/jwt/v5"
)

// The two ways in which a token is no good. Everything that isn't a good token that merely ran out is ErrInvalid.
var (
	// ErrExpired: the token would be accepted if its exp (plus the leeway) didn't lie in the past.
	ErrExpired = errors.New("token has expired")
	// ErrInvalid: bad signature, algorithm, issuer, audience or claims, or no token at all.
	ErrInvalid = errors.New("token is invalid")
)

const (
	// MinSecret is the least length of an HS256 secret in bytes.
	MinSecret = 32
	// MaxLeeway is the greatest Leeway.
	MaxLeeway = 30 * time.Second

	maxToken   = 16 << 10     // bytes; nothing longer is parsed
	maxSubject = 128          // characters, as in relay.users
	maxTime    = 253402300800 // Unix time of the year 10000
)

// Config says which tokens are accepted. Secret is required.
type Config struct {
	Secret   []byte        // HS256 key, at least MinSecret bytes and no placeholder
	Issuer   string        // the iss that is required; empty: not checked
	Audience string        // the aud that is required; empty: not checked
	Leeway   time.Duration // tolerated clock difference, 0 to MaxLeeway
}

// Validate returns an error for each setting that NewVerifier would refuse, joined; nil if there is none.
func (c Config) Validate() error {
	var errs []error
	if err := checkSecret(c.Secret); err != nil {
		errs = append(errs, err)
	}
	if c.Leeway < 0 || c.Leeway > MaxLeeway {
		errs = append(errs, fmt.Errorf("leeway %v is not between 0 and %v", c.Leeway, MaxLeeway))
	}
	return errors.Join(errs...)
}

// Identity is what a good token says.
type Identity struct {
	UserID    string    // sub: 1 to 128 characters
	ExpiresAt time.Time // exp
	Until     time.Time // exp plus the leeway: the token is refused from here on
}

// Verifier checks tokens. It may be used by several goroutines at once.
type Verifier struct {
	leeway time.Duration
	keys   []key // one algorithm each: a public key can't be passed off as an HMAC secret
}

// key is one accepted key with the parser for its algorithm.
type key struct {
	parser *jwt.Parser
	secret any
}

// NewVerifier returns a Verifier, or the error of [Config.Validate].
func NewVerifier(c Config) (*Verifier, error) {
	if err := c.Validate(); err != nil {
		return nil, err
	}
	options := []jwt.ParserOption{
		jwt.WithValidMethods([]string{jwt.SigningMethodHS256.Alg()}),
		jwt.WithExpirationRequired(), jwt.WithIssuedAt(), jwt.WithStrictDecoding(), jwt.WithLeeway(c.Leeway),
	}
	if c.Issuer != "" {
		options = append(options, jwt.WithIssuer(c.Issuer))
	}
	if c.Audience != "" {
		options = append(options, jwt.WithAudience(c.Audience))
	}
	return &Verifier{leeway: c.Leeway, keys: []key{{parser: jwt.NewParser(options...), secret: bytes.Clone(c.Secret)}}}, nil
}

// Verify returns the identity in a token, or an error that wraps ErrExpired or ErrInvalid. The error never contains the token.
func (v *Verifier) Verify(token string) (Identity, error) {
	if token == "" || len(token) > maxToken || strings.ContainsAny(token, "\r\n") { // base64 would skip line breaks
		return Identity{}, ErrInvalid
	}
	err := ErrInvalid
	for _, k := range v.keys {
		var id Identity
		if id, err = v.verify(token, k); err == nil || errors.Is(err, ErrExpired) {
			return id, err
		}
	}
	return Identity{}, err
}

func (v *Verifier) verify(token string, k key) (Identity, error) {
	var c claims
	parsed, err := k.parser.ParseWithClaims(token, &c, func(*jwt.Token) (any, error) { return k.secret, nil })
	switch {
	case err == nil && !parsed.Valid:
		return Identity{}, ErrInvalid
	case onlyExpired(err) && c.Validate() == nil:
		return Identity{}, ErrExpired
	case err != nil:
		return Identity{}, fmt.Errorf("%w: %s", ErrInvalid, reason(err))
	}
	if _, ok := parsed.Header["crit"]; ok { // extensions that must be understood: none is
		return Identity{}, fmt.Errorf("%w: critical header extension", ErrInvalid)
	}
	return Identity{UserID: c.Subject, ExpiresAt: c.Expires.Time(), Until: c.Expires.Time().Add(v.leeway)}, nil
}

// onlyExpired reports whether the signature was good and expiry is all that was wrong.
func onlyExpired(err error) bool {
	if !errors.Is(err, jwt.ErrTokenExpired) {
		return false
	}
	for _, other := range []error{
		jwt.ErrTokenMalformed, jwt.ErrTokenUnverifiable, jwt.ErrTokenSignatureInvalid, jwt.ErrTokenRequiredClaimMissing,
		jwt.ErrTokenInvalidAudience, jwt.ErrTokenInvalidIssuer, jwt.ErrTokenUsedBeforeIssued, jwt.ErrTokenNotValidYet,
	} {
		if errors.Is(err, other) {
			return false
		}
	}
	return true
}

// reason names what was wrong in fixed words: the library's message may quote parts of the token.
func reason(err error) string {
	for _, e := range []error{
		jwt.ErrTokenMalformed, jwt.ErrTokenUnverifiable, jwt.ErrTokenSignatureInvalid, jwt.ErrTokenRequiredClaimMissing,
		jwt.ErrTokenInvalidAudience, jwt.ErrTokenInvalidIssuer, jwt.ErrTokenUsedBeforeIssued, jwt.ErrTokenNotValidYet,
	} {
		if errors.Is(err, e) {
			return e.Error()
		}
	}
	return "unacceptable claims"
}

// claims are the claims that are looked at. Its own type for times: the library's takes strings and 1e300.
type claims struct {
	Subject   string           `json:"sub"`
	Issuer    string           `json:"iss,omitempty"`
	Audience  jwt.ClaimStrings `json:"aud,omitempty"`
	Expires   *unixTime        `json:"exp,omitempty"`
	NotBefore *unixTime        `json:"nbf,omitempty"`
	IssuedAt  *unixTime        `json:"iat,omitempty"`
}

func (c *claims) GetExpirationTime() (*jwt.NumericDate, error) { return c.Expires.date(), nil }
func (c *claims) GetNotBefore() (*jwt.NumericDate, error)      { return c.NotBefore.date(), nil }
func (c *claims) GetIssuedAt() (*jwt.NumericDate, error)       { return c.IssuedAt.date(), nil }
func (c *claims) GetIssuer() (string, error)                   { return c.Issuer, nil }
func (c *claims) GetSubject() (string, error)                  { return c.Subject, nil }
func (c *claims) GetAudience() (jwt.ClaimStrings, error)       { return c.Audience, nil }

// Validate is called by the parser for what it doesn't check itself.
func (c *claims) Validate() error {
	if c.Subject == "" || utf8.RuneCountInString(c.Subject) > maxSubject || strings.ContainsFunc(c.Subject, unicode.IsControl) {
		return jwt.ErrTokenInvalidSubject
	}
	return nil
}

// unixTime is a time in seconds, greater than 0 and before the year 10000; fractions are allowed.
type unixTime float64

// UnmarshalJSON takes a JSON number only.
func (t *unixTime) UnmarshalJSON(b []byte) error {
	var f float64
	if err := json.Unmarshal(b, &f); err != nil || string(b) == "null" {
		return errors.New("time is not a number")
	}
	if !(f > 0 && f < maxTime) {
		return errors.New("time is out of range")
	}
	*t = unixTime(f)
	return nil
}

// Time returns t as a time.
func (t unixTime) Time() time.Time {
	s, frac := math.Modf(float64(t))
	return time.Unix(int64(s), int64(frac*1e9)).UTC()
}

func (t *unixTime) date() *jwt.NumericDate {
	if t == nil {
		return nil
	}
	return &jwt.NumericDate{Time: t.Time()}
}

// Mint returns an HS256 token for user that expires after ttl, with the configured issuer and audience: for the command line,
// demos and tests. It refuses what Verify would refuse.
func (c Config) Mint(user string, ttl time.Duration) (string, error) {
	if err := c.Validate(); err != nil {
		return "", err
	}
	now := time.Now()
	m := claims{Subject: user, Issuer: c.Issuer}
	if c.Audience != "" {
		m.Audience = jwt.ClaimStrings{c.Audience}
	}
	issued, expires := unixTime(now.Unix()), unixTime(now.Add(ttl).Unix())
	m.IssuedAt, m.Expires = &issued, &expires
	if err := m.Validate(); err != nil {
		return "", fmt.Errorf("mint a token: the user id must have 1 to %d characters", maxSubject)
	}
	token, err := jwt.NewWithClaims(jwt.SigningMethodHS256, &m).SignedString(c.Secret)
	if err != nil {
		return "", fmt.Errorf("mint a token: %w", err)
	}
	return token, nil
}

// Mint is [Config.Mint] without issuer and audience.
func Mint(secret []byte, user string, ttl time.Duration) (string, error) {
	return Config{Secret: secret}.Mint(user, ttl)
}
