package client

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

func TestHandler(t *testing.T) {
	t.Parallel()
	w := httptest.NewRecorder()
	Handler().ServeHTTP(w, httptest.NewRequest(http.MethodGet, Path, nil))
	if w.Code != http.StatusOK || w.Header().Get("Content-Type") != "text/javascript; charset=utf-8" || w.Header().Get("X-Content-Type-Options") != "nosniff" {
		t.Errorf("status %d, header %v", w.Code, w.Header())
	}
	body := w.Body.String()
	if !strings.HasPrefix(body, "// @outboxrelay/client ") || !strings.Contains(body, "as connect") {
		t.Errorf("not the client: %.100s", body)
	}
	w = httptest.NewRecorder()
	r := httptest.NewRequest(http.MethodGet, Path, nil)
	r.Header.Set("Range", "bytes=0-1")
	if Handler().ServeHTTP(w, r); w.Code != http.StatusPartialContent {
		t.Errorf("a part: status %d", w.Code)
	}
}
