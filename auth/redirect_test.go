package auth

import (
	"net/http"
	"testing"
)

// Keys that are asked for by https come by https, also where a redirect leads to this machine itself.
func TestAFetchIsNotRedirectedToHTTP(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		from, to string
		allowed  bool
	}{
		{"https://issuer.example/keys", "https://keys.example/", true},
		{"https://issuer.example/keys", "http://127.0.0.1/", false},
		{"https://issuer.example/keys", "http://keys.example/", false},
		{"http://localhost:1/keys", "http://127.0.0.1:2/", true},
		{"http://localhost:1/keys", "http://keys.example/", false},
	} {
		request := func(url string) *http.Request {
			r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, http.NoBody)
			if err != nil {
				t.Fatal(err)
			}
			return r
		}
		err := newFetcher().CheckRedirect(request(test.to), []*http.Request{request(test.from)})
		if (err == nil) != test.allowed {
			t.Errorf("from %s to %s: %v, want allowed %v", test.from, test.to, err, test.allowed)
		}
	}
}
