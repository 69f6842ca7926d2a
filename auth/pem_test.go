package auth

import (
	"bytes"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

func pemOf(t testing.TB, key any) []byte {
	t.Helper()
	der, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})
}

func TestPublicKeys(t *testing.T) {
	t.Parallel()
	methods := []jwt.SigningMethod{jwt.SigningMethodRS256, jwt.SigningMethodES256, jwt.SigningMethodEdDSA}
	var signers []signer
	for _, m := range methods {
		signers = append(signers, newSigner(t, "", m))
	}
	for i, s := range signers {
		text := pemOf(t, s.key.Public())
		v, err := NewVerifier(Config{PublicKey: text})
		if err != nil {
			t.Fatal(err)
		}
		for j, other := range signers {
			if i == j {
				accept(t, v, other.token(t, ""))
			} else {
				refuse(t, v, other.token(t, ""), ErrInvalid)
			}
		}
		refuse(t, v, newSigner(t, "", s.method).token(t, ""), ErrInvalid)
		// The public key is public: it must not do as an HMAC secret, in any of its forms.
		block, _ := pem.Decode(text)
		for _, secret := range [][]byte{text, bytes.TrimSpace(text), block.Bytes} {
			token, err := jwt.NewWithClaims(jwt.SigningMethodHS256, jwt.MapClaims{"sub": "u1", "exp": time.Now().Add(time.Hour).Unix()}).SignedString(secret)
			if err != nil {
				t.Fatal(err)
			}
			refuse(t, v, token, ErrInvalid)
		}
	}
	old := &pem.Block{Type: "RSA PUBLIC KEY", Bytes: x509.MarshalPKCS1PublicKey(signers[0].key.Public().(*rsa.PublicKey))}
	v, err := NewVerifier(Config{PublicKey: pem.EncodeToMemory(old)})
	if err != nil {
		t.Fatal(err)
	}
	accept(t, v, signers[0].token(t, ""))
	if _, err := (Config{PublicKey: pem.EncodeToMemory(old)}).Mint("u1", time.Minute); err == nil {
		t.Error("a token was minted without a secret")
	}
}

func TestBadPublicKeys(t *testing.T) {
	t.Parallel()
	small, err := rsa.GenerateKey(rand.Reader, 1024) // what is refused
	if err != nil {
		t.Fatal(err)
	}
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	x25519, err := ecdh.X25519().GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(p384)
	if err != nil {
		t.Fatal(err)
	}
	good := pemOf(t, newSigner(t, "", jwt.SigningMethodEdDSA).key.Public())
	for name, c := range map[string]struct {
		text []byte
		want string // in the message
	}{
		"no PEM":        {[]byte("MCowBQYDK2VwAyEA"), "-----BEGIN PUBLIC KEY-----"},
		"a private key": {pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private}), "private key"},
		"a certificate": {pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: private}), "-----BEGIN PUBLIC KEY-----"},
		"garbage":       {pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: []byte("x")}), "no key"},
		"two keys":      {append(bytes.Clone(good), good...), "one public key"},
		"1024 bits":     {pemOf(t, &small.PublicKey), "1024 bits"},
		"P-384":         {pemOf(t, &p384.PublicKey), "P-256"},
		"X25519":        {pemOf(t, x25519.PublicKey()), "Ed25519"},
	} {
		_, err := NewVerifier(Config{PublicKey: c.text})
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q in it", name, err, c.want)
		}
	}
}
