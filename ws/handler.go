package ws

import (
	"context"
	"encoding/base64"
	"errors"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/coder/websocket"
	"golang.org/x/time/rate"
)

// ServeHTTP upgrades a request to a connection and returns; the connection belongs to Run. What is refused before the upgrade
// gets an HTTP status: 426 for a plain GET, 400 for a bad handshake, 403 for a foreign Origin or an inactive user, 401 for a bad
// token in the header, 503 when this process takes no connections. The client's address is the request's RemoteAddr: behind a
// proxy, put it there first.
func (h *Hub) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch {
	case r.Method != http.MethodGet:
		w.Header().Set("Allow", http.MethodGet)
		http.Error(w, "Method not allowed", http.StatusMethodNotAllowed)
	case !isUpgrade(r) || !r.ProtoAtLeast(1, 1):
		w.Header().Set("Connection", "Upgrade")
		w.Header().Set("Upgrade", "websocket")
		http.Error(w, "This is a WebSocket endpoint", http.StatusUpgradeRequired)
	case !validHandshake(r.Header):
		w.Header().Set("Sec-WebSocket-Version", "13")
		http.Error(w, "Bad WebSocket handshake", http.StatusBadRequest)
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

// validHandshake checks what the library would refuse with a message that quotes the request.
func validHandshake(h http.Header) bool {
	keys := h.Values("Sec-WebSocket-Key")
	if h.Get("Sec-WebSocket-Version") != "13" || len(keys) != 1 {
		return false
	}
	key, err := base64.StdEncoding.DecodeString(strings.TrimSpace(keys[0]))
	return err == nil && len(key) == 16
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
	identity, err := h.verify(r.Context(), strings.TrimSpace(token))
	switch {
	case errors.Is(err, endTryLater):
		unavailable(w)
		return nil, false
	case err != nil:
		w.Header().Set("WWW-Authenticate", "Bearer")
		refuse(w, http.StatusUnauthorized, err)
		return nil, false
	}
	m, err := h.membership(context.WithoutCancel(r.Context()), identity.UserID) // see await: cut off, it would cost a connection to Postgres
	switch {
	case err != nil:
		unavailable(w)
		return nil, false
	case !m.Found, !m.Active:
		refuse(w, http.StatusForbidden, endUserInactive)
		return nil, false
	}
	return &admission{identity: identity}, true
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
		hub: h, addr: r.RemoteAddr, admission: a, done: make(chan struct{}), authBy: time.Now().Add(h.config.AuthTimeout),
		limiter: rate.NewLimiter(rate.Limit(h.config.MessageRate), h.config.MessageBurst),
	}
	if a != nil {
		var err error
		if a.ask, err = parseQuery(r.URL.RawQuery); err != nil {
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
		s.wire.block()
		_ = s.wire.SetReadDeadline(time.Now().Add(shortGoodbye))
		_ = conn.Close(websocket.StatusTryAgainLater, "")
	}
}

// add registers a socket and starts it. Where the process is full one that hasn't sent a token gives way to it; if all have sent one it is closed at once.
// add reports false if Run is ending.
func (h *Hub) add(s *socket) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.spawn.Load() == nil || h.closing {
		return false
	}
	now := time.Now()
	if s.pending.end == nil && h.config.MaxConnections > 0 && h.placed >= h.config.MaxConnections {
		switch gone := h.waiting.giveWay(s.addr, now); {
		case gone != nil:
			h.vacate(gone)
			gone.stop(endTryLater)
		case h.waiting.all.Len() > 0: // one of which will give way soon
			s.pending.end = endTryLater
		default:
			s.pending.end = endConnectionLimit
		}
	}
	h.sockets[s] = struct{}{}
	if s.pending.end == nil {
		s.placed = true
		h.placed++
		if s.admission == nil {
			h.waiting.add(s, now)
			h.expelSurplus()
		}
	}
	h.start(s.run)
	return true
}

// vacate gives a socket's place away, if it has one. The caller holds mu.
func (h *Hub) vacate(s *socket) {
	if s.placed {
		s.placed = false
		h.placed--
	}
}

// end counts a socket among those that end, and returns how many these are.
func (h *Hub) end(s *socket) int {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.waiting.remove(s)
	h.vacate(s)
	return len(h.sockets) - h.placed
}

// expelSurplus ends the sockets without a token that are too many, now or as soon as they have had their time. The caller holds mu.
func (h *Hub) expelSurplus() {
	gone, left := h.waiting.surplus(time.Now())
	for gone != nil {
		gone.stop(endAuthTimeout)
		gone, left = h.waiting.surplus(time.Now())
	}
	if left == 0 || h.timed {
		return
	}
	h.timed = true
	time.AfterFunc(left, func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		h.timed = false
		h.expelSurplus()
	})
}

// sent frees a socket's place among those that haven't sent a token. Whether it is a good one is known in a moment.
func (h *Hub) sent(s *socket) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.waiting.remove(s)
}

// admit gives a socket to its user and reports false if the user has too many.
func (h *Hub) admit(s *socket, user string) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.config.MaxPerUser > 0 && len(h.users[user]) >= h.config.MaxPerUser {
		return false
	}
	if h.users[user] == nil {
		h.topics.want(UserTopic(user), true)
	}
	h.users[user] = append(h.users[user], s)
	s.admitted = user
	return true
}

// remove forgets a socket whose pump has ended, and so has called end.
func (h *Hub) remove(s *socket) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.sockets, s)
	if user := s.admitted; user != "" {
		h.users[user] = slices.DeleteFunc(h.users[user], func(other *socket) bool { return other == s })
		if len(h.users[user]) == 0 {
			delete(h.users, user)
			h.topics.want(UserTopic(user), false)
		}
	}
	if len(h.sockets) == 0 {
		token(h.gone)
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
