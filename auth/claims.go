package auth

import (
	"encoding/json"
	"errors"
	"math"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/golang-jwt/jwt/v5"
)

const (
	maxSubject = 128          // characters, as in relay.users
	maxTime    = 253402300800 // Unix time of the year 10000
)

// claims are the claims that are looked at. Its own type for times: the library's takes strings and 1e300.
type claims struct {
	Subject   string           `json:"sub"`
	Issuer    string           `json:"iss,omitempty"`
	Audience  jwt.ClaimStrings `json:"aud,omitempty"`
	Expires   *unixTime        `json:"exp,omitempty"`
	NotBefore *unixTime        `json:"nbf,omitempty"`
	IssuedAt  *unixTime        `json:"iat,omitempty"`
}

// UnmarshalJSON takes names as they are: to encoding/json, an issuer's claim "Sub" would be one more "sub".
func (c *claims) UnmarshalJSON(b []byte) error {
	var all map[string]json.RawMessage
	if err := json.Unmarshal(b, &all); err != nil {
		return err
	}
	for name, field := range map[string]any{
		"sub": &c.Subject, "iss": &c.Issuer, "aud": &c.Audience, "exp": &c.Expires, "nbf": &c.NotBefore, "iat": &c.IssuedAt,
	} {
		if value, ok := all[name]; ok {
			if err := json.Unmarshal(value, field); err != nil {
				return err
			}
		}
	}
	return nil
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
