package auth

import (
	"bytes"
	"fmt"
)

// placeholders are parts of secrets that were copied from somebody's documentation.
var placeholders = []string{
	"changeme", "change-me", "change_me", "change this", "change-this", "change_this", "changethis", "placeholder",
	"your-256-bit-secret", "your-secret", "your_secret", "yoursecret", "supersecret", "super-secret", "super_secret",
	"replace-me", "replace_me", "replaceme", "insecure",
}

// checkSecret refuses a secret that can be guessed. It can't measure entropy; it catches what people really do.
func checkSecret(secret []byte) error {
	if len(secret) < MinSecret {
		return fmt.Errorf("secret has %d bytes, it needs at least %d", len(secret), MinSecret)
	}
	lower := bytes.ToLower(secret)
	for _, p := range placeholders {
		if bytes.Contains(lower, []byte(p)) {
			return fmt.Errorf("secret contains %q: it is a placeholder", p)
		}
	}
	distinct := map[byte]bool{}
	for _, b := range secret {
		distinct[b] = true
	}
	if len(distinct) < 8 || repeats(secret) {
		return fmt.Errorf("secret is too regular: make one with `openssl rand -base64 48`")
	}
	return nil
}

// repeats reports whether b is a pattern of at most 8 bytes, again and again.
func repeats(b []byte) bool {
	for period := 1; period <= 8; period++ {
		if bytes.Equal(b[period:], b[:len(b)-period]) {
			return true
		}
	}
	return false
}
