package auth

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"strings"

	"github.com/golang-jwt/jwt/v5"
)

// Sizes of RSA keys in bits. Below, a signature can be forged; above, a stranger's token costs too much time.
const (
	minRSA = 2048
	maxRSA = 8192
)

// parsePublicKey reads one public key and returns it with the one algorithm that it is good for. The error doesn't quote the PEM: it may
// be a private key.
func parsePublicKey(text []byte) (crypto.PublicKey, string, error) {
	block, rest := pem.Decode(text)
	switch {
	case block == nil:
		return nil, "", errors.New("it is no PEM: want -----BEGIN PUBLIC KEY-----, line breaks included")
	case strings.HasSuffix(block.Type, "PRIVATE KEY"):
		return nil, "", errors.New("it is a private key, which belongs to the issuer alone: want the public one (`openssl pkey -pubout`)")
	case len(bytes.TrimSpace(rest)) > 0:
		return nil, "", errors.New("something follows the key: want one public key, and nothing else")
	}
	var (
		key crypto.PublicKey
		err error
	)
	switch block.Type {
	case "PUBLIC KEY":
		key, err = x509.ParsePKIXPublicKey(block.Bytes)
	case "RSA PUBLIC KEY":
		key, err = x509.ParsePKCS1PublicKey(block.Bytes)
	default:
		return nil, "", fmt.Errorf("the PEM holds something else than a key: want -----BEGIN PUBLIC KEY-----")
	}
	if err != nil {
		return nil, "", errors.New("the PEM holds no key that can be read")
	}
	algorithm, err := algorithmOf(key)
	if err != nil {
		return nil, "", err
	}
	return key, algorithm, nil
}

// algorithmOf returns the one algorithm that a public key is accepted for.
func algorithmOf(key crypto.PublicKey) (string, error) {
	switch k := key.(type) {
	case *rsa.PublicKey:
		if n := k.N.BitLen(); n < minRSA || n > maxRSA {
			return "", fmt.Errorf("the RSA key has %d bits: want %d to %d", n, minRSA, maxRSA)
		}
		return jwt.SigningMethodRS256.Alg(), nil
	case *ecdsa.PublicKey:
		if k.Curve != elliptic.P256() {
			return "", fmt.Errorf("the ECDSA key is on %s: want P-256 (ES256)", k.Curve.Params().Name)
		}
		return jwt.SigningMethodES256.Alg(), nil
	case ed25519.PublicKey:
		return jwt.SigningMethodEdDSA.Alg(), nil
	}
	return "", fmt.Errorf("the key is a %T: want RSA, ECDSA on P-256 or Ed25519", key)
}
