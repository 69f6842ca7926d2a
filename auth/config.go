package auth

import (
	"errors"
	"fmt"
	"log/slog"
	"time"
)

const (
	// MinSecret is the least length of an HS256 secret in bytes.
	MinSecret = 32
	// MaxLeeway is the greatest Leeway.
	MaxLeeway = 30 * time.Second
)

// Config says which tokens of one issuer are accepted. Exactly one of Secret, PublicKey and JWKSURL is required: it decides the algorithm,
// never the token.
type Config struct {
	Secret    []byte // HS256 key, at least MinSecret bytes and no placeholder
	PublicKey []byte // PEM of one public key: RSA of 2048 to 8192 bits (RS256), ECDSA on P-256 (ES256) or Ed25519 (EdDSA)
	JWKSURL   string // where the keys are fetched from, see [Verifier.Run]; https, or http on this machine; RS256, ES256 and EdDSA

	Issuer   string        // the iss that is required; empty: not checked
	Audience string        // the aud that is required; empty: not checked
	Leeway   time.Duration // tolerated clock difference, 0 to MaxLeeway
	Logger   *slog.Logger  // told when keys can't be fetched, and when they can again; default: slog.Default()
}

// Validate returns an error for each setting that NewVerifier would refuse, joined; nil if there is none. No error holds a key.
func (c Config) Validate() error {
	var errs []error
	keys := 0
	if len(c.Secret) > 0 {
		keys++
		errs = append(errs, checkSecret(c.Secret))
	}
	if len(c.PublicKey) > 0 {
		keys++
		_, _, err := parsePublicKey(c.PublicKey)
		errs = append(errs, err)
	}
	if c.JWKSURL != "" {
		keys++
		_, err := parseJWKSURL(c.JWKSURL)
		errs = append(errs, err)
	}
	if keys != 1 {
		errs = append(errs, fmt.Errorf("%d keys: want exactly one of a secret, a public key and a JWKS URL", keys))
	}
	if c.Leeway < 0 || c.Leeway > MaxLeeway {
		errs = append(errs, fmt.Errorf("leeway %v is not between 0 and %v", c.Leeway, MaxLeeway))
	}
	return errors.Join(errs...)
}
