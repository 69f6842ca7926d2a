package ws

import (
	"fmt"
	"net/http"
	"net/url"
	"strings"
)

// origin is one allowed browser origin: scheme, host and port, all lower case.
type origin struct {
	scheme, host string
	sub          bool // host is what follows the one leading "*." label
}

// parseOrigins reads a list of origins such as https://app.example.com or https://*.example.com:8443.
func parseOrigins(list []string) ([]origin, error) {
	var origins []origin
	for _, s := range list {
		u, err := url.Parse(strings.ToLower(strings.TrimSpace(s)))
		if err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Host == "" || u.User != nil ||
			strings.Trim(u.Path, "/") != "" || u.RawQuery != "" || u.Fragment != "" {
			return nil, fmt.Errorf("allowed origin %q is not scheme://host[:port]", s)
		}
		o := origin{scheme: u.Scheme, host: withPort(u)}
		o.host, o.sub = strings.CutPrefix(o.host, "*.")
		if strings.Contains(o.host, "*") || (o.sub && !strings.Contains(o.host, ".")) {
			return nil, fmt.Errorf("allowed origin %q: only one leading label may be *", s)
		}
		origins = append(origins, o)
	}
	return origins, nil
}

// withPort returns host:port with the scheme's default port filled in.
func withPort(u *url.URL) string {
	port := u.Port()
	switch {
	case port != "":
	case u.Scheme == "https" || u.Scheme == "wss":
		port = "443"
	default:
		port = "80"
	}
	return strings.ToLower(u.Hostname()) + ":" + port
}

// originAllowed reports whether a request may connect: a browser always sends the Origin of the page, and no page can forge it.
// With no list, the page must come from the request's own host and port.
func originAllowed(r *http.Request, allowed []origin) bool {
	values := r.Header.Values("Origin")
	if len(values) == 0 {
		return true // not a browser
	}
	u, err := url.Parse(values[0])
	if err != nil || len(values) > 1 || u.Host == "" || (u.Scheme != "http" && u.Scheme != "https") {
		return false
	}
	if len(allowed) == 0 {
		// The request's scheme isn't known behind a proxy that ends TLS; its port, if it has none, is that of the page's scheme.
		own := &url.URL{Scheme: u.Scheme, Host: r.Host}
		return withPort(u) == withPort(own)
	}
	host := withPort(u)
	for _, o := range allowed {
		if u.Scheme != o.scheme {
			continue
		}
		if host == o.host {
			if !o.sub {
				return true
			}
			continue
		}
		if label, ok := strings.CutSuffix(host, "."+o.host); o.sub && ok && label != "" && !strings.Contains(label, ".") {
			return true
		}
	}
	return false
}
