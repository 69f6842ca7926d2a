package auth_test

import (
	"crypto/hmac"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/base64"
	"errors"
	"fmt"
	"hash"
	"strings"
	"testing"
	"time"

	"github.com/outboxrelay/outboxrelay/auth"
	"github.com/outboxrelay/outboxrelay/internal/testenv"
)

func TestMain(m *testing.M) { testenv.Main(m) }

var secret = []byte("kJ8sd7FhQ2mZx0PvLr5TnYw3BcEu6AgD")

// sign makes a token by hand, so that nothing but the verifier decides what is acceptable.
func sign(header, payload string, h func() hash.Hash, secret []byte) string {
	b64 := base64.RawURLEncoding.EncodeToString
	signed := b64([]byte(header)) + "." + b64([]byte(payload))
	mac := hmac.New(h, secret)
	mac.Write([]byte(signed))
	return signed + "." + b64(mac.Sum(nil))
}

const hs256 = `{"alg":"HS256","typ":"JWT"}`

func TestVerify(t *testing.T) {
	t.Parallel()
	now := time.Now().Unix()
	good := fmt.Sprintf(`{"sub":"u1","iss":"me","aud":"app","exp":%d}`, now+60)
	claims := func(format string, args ...any) string {
		return sign(hs256, fmt.Sprintf(format, args...), sha256.New, secret)
	}
	with := func(claim string) string { return claims(`{"sub":"u1","iss":"me","aud":"app",%s}`, claim) }
	both := func(claim string) string { return with(fmt.Sprintf(`"exp":%d,%s`, now+60, claim)) }
	valid := sign(hs256, good, sha256.New, secret)
	parts := strings.Split(valid, ".")
	none := base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"none"}`)) + "." + parts[1] + "."

	for name, c := range map[string]struct {
		token string
		want  error
	}{
		"good":                  {valid, nil},
		"no typ":                {sign(`{"alg":"HS256"}`, good, sha256.New, secret), nil},
		"audience list":         {claims(`{"sub":"u1","iss":"me","aud":["x","app"],"exp":%d}`, now+60), nil},
		"fractional exp":        {with(fmt.Sprintf(`"exp":%d.5`, now+60)), nil},
		"expired in the leeway": {with(fmt.Sprintf(`"exp":%d`, now-5)), nil},
		"nbf in the leeway":     {both(fmt.Sprintf(`"nbf":%d`, now+5)), nil},
		"iat in the past":       {both(fmt.Sprintf(`"iat":%d`, now-1000)), nil},
		"128 characters":        {claims(`{"sub":%q,"iss":"me","aud":"app","exp":%d}`, strings.Repeat("ä", 128), now+60), nil},

		"expired":                      {with(fmt.Sprintf(`"exp":%d`, now-60)), auth.ErrExpired},
		"expired long ago":             {with(`"exp":1`), auth.ErrExpired},
		"expired, other secret":        {sign(hs256, fmt.Sprintf(`{"sub":"u1","iss":"me","aud":"app","exp":%d}`, now-60), sha256.New, []byte("x")), auth.ErrInvalid},
		"expired, other issuer":        {claims(`{"sub":"u1","iss":"you","aud":"app","exp":%d}`, now-60), auth.ErrInvalid},
		"expired, no sub":              {claims(`{"iss":"me","aud":"app","exp":%d}`, now-60), auth.ErrInvalid},
		"empty":                        {"", auth.ErrInvalid},
		"garbage":                      {"garbage", auth.ErrInvalid},
		"two parts":                    {parts[0] + "." + parts[1], auth.ErrInvalid},
		"four parts":                   {valid + ".x", auth.ErrInvalid},
		"no signature":                 {parts[0] + "." + parts[1] + ".", auth.ErrInvalid},
		"signature cut":                {valid[:len(valid)-2], auth.ErrInvalid},
		"padding":                      {valid + "=", auth.ErrInvalid},
		"trailing newline":             {valid + "\n", auth.ErrInvalid},
		"other secret":                 {sign(hs256, good, sha256.New, []byte("another secret of enough length!")), auth.ErrInvalid},
		"empty secret":                 {sign(hs256, good, sha256.New, nil), auth.ErrInvalid},
		"other payload":                {parts[0] + "." + base64.RawURLEncoding.EncodeToString([]byte(strings.Replace(good, "u1", "u2", 1))) + "." + parts[2], auth.ErrInvalid},
		"alg none":                     {none, auth.ErrInvalid},
		"alg none with a signature":    {none + parts[2], auth.ErrInvalid},
		"alg None":                     {sign(`{"alg":"None"}`, good, sha256.New, secret), auth.ErrInvalid},
		"alg hs256":                    {sign(`{"alg":"hs256"}`, good, sha256.New, secret), auth.ErrInvalid},
		"alg HS384":                    {sign(`{"alg":"HS384"}`, good, sha512.New384, secret), auth.ErrInvalid},
		"alg HS512":                    {sign(`{"alg":"HS512"}`, good, sha512.New, secret), auth.ErrInvalid},
		"alg RS256":                    {sign(`{"alg":"RS256"}`, good, sha256.New, secret), auth.ErrInvalid},
		"no alg":                       {sign(`{"typ":"JWT"}`, good, sha256.New, secret), auth.ErrInvalid},
		"critical extension":           {sign(`{"alg":"HS256","crit":["b64"],"b64":false}`, good, sha256.New, secret), auth.ErrInvalid},
		"no exp":                       {claims(`{"sub":"u1","iss":"me","aud":"app"}`), auth.ErrInvalid},
		"exp null":                     {with(`"exp":null`), auth.ErrInvalid},
		"exp 0":                        {with(`"exp":0`), auth.ErrInvalid},
		"exp negative":                 {with(`"exp":-1`), auth.ErrInvalid},
		"exp 1e300":                    {with(`"exp":1e300`), auth.ErrInvalid},
		"exp 1e400":                    {with(`"exp":1e400`), auth.ErrInvalid},
		"exp string":                   {with(fmt.Sprintf(`"exp":"%d"`, now+60)), auth.ErrInvalid},
		"exp object":                   {with(`"exp":{}`), auth.ErrInvalid},
		"nbf in the future":            {both(fmt.Sprintf(`"nbf":%d`, now+60)), auth.ErrInvalid},
		"nbf string":                   {both(`"nbf":"x"`), auth.ErrInvalid},
		"iat in the future":            {both(fmt.Sprintf(`"iat":%d`, now+60)), auth.ErrInvalid},
		"claims in another case":       {claims(`{"sub":"u1","SUB":"u2","iss":"me","aud":"app","exp":%d,"EXP":1}`, now+60), nil},
		"zip":                          {sign(`{"alg":"HS256","zip":"DEF"}`, good, sha256.New, secret), auth.ErrInvalid},
		"expired, critical extension":  {sign(`{"alg":"HS256","crit":["b64"]}`, fmt.Sprintf(`{"sub":"u1","iss":"me","aud":"app","exp":%d}`, now-60), sha256.New, secret), auth.ErrInvalid},
		"no sub":                       {claims(`{"iss":"me","aud":"app","exp":%d}`, now+60), auth.ErrInvalid},
		"sub empty":                    {claims(`{"sub":"","iss":"me","aud":"app","exp":%d}`, now+60), auth.ErrInvalid},
		"sub a number":                 {claims(`{"sub":5,"iss":"me","aud":"app","exp":%d}`, now+60), auth.ErrInvalid},
		"sub null":                     {claims(`{"sub":null,"iss":"me","aud":"app","exp":%d}`, now+60), auth.ErrInvalid},
		"sub of 129 characters":        {claims(`{"sub":%q,"iss":"me","aud":"app","exp":%d}`, strings.Repeat("x", 129), now+60), auth.ErrInvalid},
		"sub with a NUL":               {claims(`{"sub":"u\u00001","iss":"me","aud":"app","exp":%d}`, now+60), auth.ErrInvalid},
		"other issuer":                 {claims(`{"sub":"u1","iss":"you","aud":"app","exp":%d}`, now+60), auth.ErrInvalid},
		"no issuer":                    {claims(`{"sub":"u1","aud":"app","exp":%d}`, now+60), auth.ErrInvalid},
		"other audience":               {claims(`{"sub":"u1","iss":"me","aud":"api","exp":%d}`, now+60), auth.ErrInvalid},
		"no audience":                  {claims(`{"sub":"u1","iss":"me","exp":%d}`, now+60), auth.ErrInvalid},
		"payload no JSON":              {sign(hs256, `{"sub":`, sha256.New, secret), auth.ErrInvalid},
		"payload an array":             {sign(hs256, `[]`, sha256.New, secret), auth.ErrInvalid},
		"longer than anything is read": {sign(hs256, strings.Replace(good, `"me"`, `"me","pad":"`+strings.Repeat("x", 17<<10)+`"`, 1), sha256.New, secret), auth.ErrInvalid},
	} {
		t.Run(name, func(t *testing.T) { // not in parallel: while it waited for its turn the tokens would grow old
			v, err := auth.NewVerifier(auth.Config{Secret: secret, Issuer: "me", Audience: "app", Leeway: 10 * time.Second})
			if err != nil {
				t.Fatal(err)
			}
			id, err := v.Verify(t.Context(), c.token)
			if !errors.Is(err, c.want) || (c.want == nil) != (id.UserID != "" && id.UserID != "u2") {
				t.Errorf("Verify: %+v, %v, want %v", id, err, c.want)
			}
			if c.want == nil && id.Until.Sub(id.ExpiresAt) != 10*time.Second {
				t.Errorf("until %v, expires %v", id.Until, id.ExpiresAt)
			}
			if err != nil && len(c.token) > 20 && strings.Contains(err.Error(), parts[1][:10]) {
				t.Errorf("the error quotes the token: %v", err)
			}
		})
	}
}

func TestMintedTokenIsGood(t *testing.T) {
	t.Parallel()
	for _, c := range []auth.Config{{Secret: secret}, {Secret: secret, Issuer: "me", Audience: "app"}} {
		token, err := c.Mint("u1", time.Minute)
		if err != nil {
			t.Fatal(err)
		}
		v, err := auth.NewVerifier(c)
		if err != nil {
			t.Fatal(err)
		}
		if id, err := v.Verify(t.Context(), token); err != nil || id.UserID != "u1" || time.Until(id.ExpiresAt) < 58*time.Second {
			t.Errorf("%+v, %v", id, err)
		}
	}
	if _, err := auth.Mint(secret, "", time.Minute); err == nil {
		t.Error("a token for nobody")
	}
}

func TestBadConfig(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]auth.Config{
		"no key":          {},
		"two keys":        {Secret: secret, JWKSURL: "https://issuer.example/jwks"},
		"short":           {Secret: secret[:31]},
		"one byte":        {Secret: []byte(strings.Repeat("x", 64))},
		"a short pattern": {Secret: []byte(strings.Repeat("passw0rd", 8))},
		"placeholder":     {Secret: []byte("please-ChangeMe-0123456789-abcdefgh")},
		"from the docs":   {Secret: []byte("your-256-bit-secret-0123456789abcdef")},
		"leeway":          {Secret: secret, Leeway: 31 * time.Second},
		"negative leeway": {Secret: secret, Leeway: -time.Second},
	} {
		if _, err := auth.NewVerifier(c); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

// FuzzVerify: no text but a token that was signed is good, and nothing of it comes back in the error.
func FuzzVerify(f *testing.F) {
	v, err := auth.NewVerifier(auth.Config{Secret: secret})
	if err != nil {
		f.Fatal(err)
	}
	several, err := auth.NewVerifier(auth.Config{Secret: secret, Issuer: "a"}, auth.Config{Secret: []byte("Wq8sd7FhQ2mZx0PvLr5TnYw3BcEu6AgD"), Issuer: "b"})
	if err != nil {
		f.Fatal(err)
	}
	good := sign(hs256, `{"sub":"u1","iss":"a","exp":4102444800}`, sha256.New, secret)
	for _, seed := range []string{
		"", ".", "..", "...", "....", good, good + "=", good[1:], strings.Replace(good, ".", "..", 1), "e30.e30.", "bnVsbA.bnVsbA.bnVsbA",
		sign(`{"alg":"none"}`, `{"sub":"u1","exp":4102444800}`, sha256.New, secret), sign(`null`, `null`, sha256.New, secret),
		sign(`{"alg":"HS256","kid":{}}`, `{"sub":["u1"],"exp":1e300,"iss":7}`, sha256.New, secret),
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, token string) {
		for _, v := range []*auth.Verifier{v, several} {
			id, err := v.Verify(t.Context(), token)
			if err == nil && (token != good && !signed(token) || id.UserID == "") {
				t.Fatalf("%q is good: %+v", token, id)
			}
			if err != nil && !errors.Is(err, auth.ErrInvalid) && !errors.Is(err, auth.ErrExpired) {
				t.Fatalf("%q: %v", token, err)
			}
		}
	})
}

// signed reports whether the last part of a token is the HMAC of what stands before.
func signed(token string) bool {
	i := strings.LastIndexByte(token, '.')
	mac := hmac.New(sha256.New, secret)
	mac.Write([]byte(token[:max(i, 0)]))
	return i >= 0 && token[i+1:] == base64.RawURLEncoding.EncodeToString(mac.Sum(nil))
}
