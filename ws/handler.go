package ws

import (
	"errors"
	"net/http"
	"strings"
	"time"

	"github.com/coder/websocket"
	"golang.org/x/time/rate"
)

// ServeHTTP upgrades a request to a connection and returns; the connection belongs to Run. What is refused before the upgrade
// gets an HTTP status: 426 for a plain GET, 403 for a foreign Origin or an inactive user, 401 for a bad token in the header, 503
// when this process takes no connections.
func (h *Hub) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch {
	case r.Method != http.MethodGet:
		w.Header().Set("Allow", http.MethodGet)
		http.Error(w, "Method not allowed", http.StatusMethodNotAllowed)
	case !isUpgrade(r):
		w.Header().Set("Connection", "Upgrade")
		w.Header().Set("Upgrade", "websocket")
		http.Error(w, "This is a WebSocket endpoint", http.StatusUpgradeRequired)
	case !originAllowed(r, h.origins):
		http.Error(w, "Origin not allowed", http.StatusForbidden)
	case !h.accepting():
		unavailable(w)
	default:
		if a, ok := h.admitHeader(w, r); ok {
			h.upgrade(w, r, a)
		}
	}
}

func isUpgrade(r *http.Request) bool {
	return hasToken(r.Header.Values("Connection"), "upgrade") && hasToken(r.Header.Values("Upgrade"), "websocket")
}

func hasToken(values []string, want string) bool {
	for _, v := range values {
		for part := range strings.SplitSeq(v, ",") {
			if strings.EqualFold(strings.TrimSpace(part), want) {
				return true
			}
		}
	}
	return false
}

func unavailable(w http.ResponseWriter) {
	w.Header().Set("Retry-After", "2")
	http.Error(w, "Try again later", http.StatusServiceUnavailable)
}

// admitHeader looks at the token in the Authorization header. Without one there is nothing to look at yet: nil. ok is false if the
// request has been answered.
func (h *Hub) admitHeader(w http.ResponseWriter, r *http.Request) (a *admission, ok bool) {
	scheme, token, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	if !strings.EqualFold(scheme, "Bearer") {
		return nil, true
	}
	identity, err := h.verify(strings.TrimSpace(token))
	if err != nil {
		w.Header().Set("WWW-Authenticate", "Bearer")
		refuse(w, http.StatusUnauthorized, err)
		return nil, false
	}
	m, err := h.membership(r.Context(), identity.UserID)
	switch {
	case err != nil:
		unavailable(w)
		return nil, false
	case !m.Found, !m.Active:
		refuse(w, http.StatusForbidden, endUserInactive)
		return nil, false
	}
	return &admission{identity: identity, member: m}, true
}

// refuse answers with the error frame that a connection would have been sent.
func refuse(w http.ResponseWriter, status int, err error) {
	end := endInvalidToken
	errors.As(err, &end)
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = w.Write(marshal(errorFrame{"error", end.code, end.message}))
}

func (h *Hub) upgrade(w http.ResponseWriter, r *http.Request, a *admission) {
	s := &socket{
		hub: h, admission: a, done: make(chan struct{}), authBy: time.Now().Add(h.config.AuthTimeout),
		limiter: rate.NewLimiter(rate.Limit(h.config.MessageRate), h.config.MessageBurst),
	}
	if a != nil {
		var err error
		if a.ask, err = parseQuery(r.URL.Query()); err != nil {
			s.pending.end = endBadFrame
		}
	}
	s.hear()
	s.wire = &wire{timeout: h.config.WriteTimeout}
	conn, err := websocket.Accept(&limitedWriter{w, s.wire}, r, s.acceptOptions())
	if err != nil {
		return // Accept has answered
	}
	conn.SetReadLimit(-1) // read bounds messages itself
	s.conn = conn
	if !h.add(s) {
		_ = conn.Close(websocket.StatusTryAgainLater, "")
	}
}

// add registers a socket and starts it, to be closed at once if there are too many. It reports false if Run is ending.
func (h *Hub) add(s *socket) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.spawn.Load() == nil || h.closing {
		return false
	}
	if h.config.MaxConnections > 0 && len(h.sockets) >= h.config.MaxConnections {
		s.pending.end = endConnectionLimit
	}
	h.sockets[s] = struct{}{}
	if s.admission == nil {
		h.waiting = append(h.waiting, s)
		if len(h.waiting) > h.config.MaxUnauthenticated {
			h.waiting[0].stop(endAuthTimeout)
			h.waiting = h.waiting[1:]
		}
	}
	h.start(s.run)
	return true
}

// admit gives a socket to its user and reports false if the user has too many.
func (h *Hub) admit(s *socket, user string) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.config.MaxPerUser > 0 && len(h.users[user]) >= h.config.MaxPerUser {
		return false
	}
	h.unwait(s)
	if h.users[user] == nil {
		h.users[user] = map[*socket]struct{}{}
		h.topics.want(UserTopic(user), true)
	}
	h.users[user][s] = struct{}{}
	s.admitted = user
	return true
}

// remove forgets a socket whose pump has ended.
func (h *Hub) remove(s *socket) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.unwait(s)
	delete(h.sockets, s)
	if user := s.admitted; user != "" {
		delete(h.users[user], s)
		if len(h.users[user]) == 0 {
			delete(h.users, user)
			h.topics.want(UserTopic(user), false)
		}
	}
	if len(h.sockets) == 0 {
		token(h.gone)
	}
}

// unwait takes a socket from the list of those without a token. The caller holds mu.
func (h *Hub) unwait(s *socket) {
	for i, other := range h.waiting {
		if other == s {
			h.waiting = append(h.waiting[:i], h.waiting[i+1:]...)
			return
		}
	}
}

func (s *socket) acceptOptions() *websocket.AcceptOptions {
	return &websocket.AcceptOptions{
		InsecureSkipVerify: true, // the Origin has been checked
		CompressionMode:    websocket.CompressionDisabled,
		OnPingReceived:     s.pinged,
		OnPongReceived:     s.ponged,
	}
}
