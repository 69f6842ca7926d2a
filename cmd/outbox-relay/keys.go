package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/outboxrelay/outboxrelay/auth"
)

const (
	maxIssuers     = 32
	maxIssuersFile = 1 << 20 // bytes, of the file and of each that it names
)

// keySettings say by which key tokens are verified: exactly one of them is set.
var keySettings = []string{"JWT_ACCESS_SECRET", "JWT_PUBLIC_KEY", "JWT_JWKS_URL", "JWT_ISSUERS_FILE"}

const (
	wantSecret = "want the HS256 key of your tokens, at least 32 bytes; `openssl rand -base64 48` makes one"
	wantKey    = wantSecret + "; or set JWT_PUBLIC_KEY, JWT_JWKS_URL or JWT_ISSUERS_FILE instead"
	wantMint   = "tokens are minted with this secret alone; those for JWT_PUBLIC_KEY, JWT_JWKS_URL or JWT_ISSUERS_FILE come from their issuer"
)

// tokens returns what a verifier is made of.
func (c *config) tokens() []auth.Config {
	if len(c.issuers) == 0 {
		return []auth.Config{c.auth}
	}
	list := slices.Clone(c.issuers)
	for i := range list {
		list[i].Leeway = c.auth.Leeway
	}
	return list
}

// checkKeys adds a line unless exactly one of keySettings is given.
func (e *usageError) checkKeys(c *config) {
	var given []string
	for _, name := range keySettings {
		switch {
		case !c.given[name]:
		case len(given) == 0 || e.names(name):
			given = append(given, name)
		default:
			e.lines = append(e.lines, fmt.Sprintf("%s: %s is set too: keep one of them", name, given[0]))
		}
	}
	if len(given) == 0 && !slices.ContainsFunc(keySettings, e.names) {
		e.lines = append(e.lines, "JWT_ACCESS_SECRET: not set: "+wantKey)
	}
	for _, name := range []string{"JWT_ISSUER", "JWT_AUDIENCE"} {
		if c.given[name] && c.given["JWT_ISSUERS_FILE"] {
			e.lines = append(e.lines, name+": JWT_ISSUERS_FILE says it for each issuer: leave this one out")
		}
	}
}

// names reports whether there is a line about a setting.
func (e *usageError) names(setting string) bool {
	return slices.ContainsFunc(e.lines, func(line string) bool { return strings.HasPrefix(line, setting+": ") })
}

func setSecret(c *config, value string) error {
	c.auth.Secret = []byte(value)
	return auth.Config{Secret: c.auth.Secret}.Validate()
}

func setPublicKey(c *config, value string) error {
	c.auth.PublicKey = []byte(value)
	return auth.Config{PublicKey: c.auth.PublicKey}.Validate()
}

func setJWKS(c *config, value string) error {
	c.auth.JWKSURL = value
	return auth.Config{JWKSURL: value}.Validate()
}

// setIssuers reads a file that lists issuers.
func setIssuers(c *config, path string) error {
	text, err := readShort(path)
	if err != nil {
		return err
	}
	var list []struct {
		Issuer    string `json:"issuer"`
		Audience  string `json:"audience"`
		Secret    string `json:"secret_file"`
		PublicKey string `json:"public_key_file"`
		JWKS      string `json:"jwks_url"`
	}
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	if err := d.Decode(&list); err != nil || d.More() {
		return fmt.Errorf(`the file %q isn't a list of issuers: want [{"issuer": …, "audience": …, and one of "secret_file", "public_key_file", "jwks_url"}, …]`, path)
	}
	if len(list) == 0 || len(list) > maxIssuers {
		return fmt.Errorf("the file %q lists %d issuers: want 1 to %d", path, len(list), maxIssuers)
	}
	for _, entry := range list {
		i := auth.Config{Issuer: entry.Issuer, Audience: entry.Audience, JWKSURL: entry.JWKS}
		if i.Issuer == "" {
			return fmt.Errorf("the file %q has an issuer without a name: want its iss as \"issuer\"", path)
		}
		if i.Secret, err = readKey(path, entry.Secret); err == nil {
			i.PublicKey, err = readKey(path, entry.PublicKey)
		}
		if err == nil {
			err = i.Validate()
		}
		if err != nil {
			return fmt.Errorf("issuer %q: %w", i.Issuer, err)
		}
		c.issuers = append(c.issuers, i)
	}
	_, err = auth.NewVerifier(c.issuers...) // for its opinion of them together
	return err
}

// readKey reads a file that the list names, by a path from the folder of the list; no name, no key.
func readKey(list, name string) ([]byte, error) {
	if name == "" {
		return nil, nil
	}
	if !filepath.IsAbs(name) {
		name = filepath.Join(filepath.Dir(list), name)
	}
	text, err := readShort(name)
	if err != nil {
		return nil, err
	}
	text = bytes.TrimRight(text, "\r\n")
	if len(text) == 0 {
		return nil, fmt.Errorf("the file %q is empty", name)
	}
	return text, nil
}

func readShort(path string) ([]byte, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() || info.Size() > maxIssuersFile {
		return nil, errors.New("the file " + path + " is no file of at most 1 MiB")
	}
	return os.ReadFile(path)
}
