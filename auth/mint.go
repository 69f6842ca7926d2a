package auth

import (
	"errors"
	"fmt"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

// Mint returns an HS256 token for user that expires after ttl, with the configured issuer and audience: for the command line,
// demos and tests. It needs a Secret, and refuses what Verify would refuse.
func (c Config) Mint(user string, ttl time.Duration) (string, error) {
	if err := c.Validate(); err != nil {
		return "", err
	}
	if len(c.Secret) == 0 {
		return "", errors.New("mint a token: only a secret signs; tokens for other keys come from their issuer")
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
