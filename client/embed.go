// Package client holds the browser client as one file, so that a Go server can serve it beside the page that uses it. The package for
// npm, from whose sources it is built, lies in the same folder.
package client

import (
	"bytes"
	_ "embed"
	"net/http"
	"time"
)

// Path is where the file is served by convention: a page of the same host says import { connect } from "/outbox-relay.js".
const Path = "/outbox-relay.js"

//go:embed bundle/outbox-relay.js
var script []byte

// Handler serves the file, an ES module. It allows what a Content-Security-Policy of script-src 'self' asks for.
func Handler() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Content-Type", "text/javascript; charset=utf-8")
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Cache-Control", "no-cache")
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(script))
	})
}
