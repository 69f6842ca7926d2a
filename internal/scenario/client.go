package scenario

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/coder/websocket"
)

// Client is a browser as the protocol describes one: it keeps the last position of each program and resumes with it.
type Client struct {
	User     string
	Programs []string                 // what its user is a member of; nil: every program. Set before Run
	Sign     func(user string) string // makes access tokens; nil: Token. Set before Run
	Since    int64                    // where it begins in all programs; 0: live. Set before Run
	Patience time.Duration            // silence after which it connects anew, as the SDK's watchdog does; 0: for ever. Set before Run

	mu        sync.Mutex
	urls      []string
	turn      int // which of them is tried next; owned by Run. Not drawn: a node that stands still would be tried again and again, for 10 s each
	cursor    map[string]int64
	all       int64 // the newest checkpoint: stands for programs without a cursor of their own
	received  []event
	keys      map[string]bool // of received
	again     []event         // frames at or below the cursor
	gaps      []gap
	lives     int  // `live` frames
	live      bool // the present connection has said `live`
	closed    websocket.StatusCode
	closures  []Closure
	ends      []time.Time // of connections, and of attempts
	reasons   []error     // of the ends
	begins    []time.Time // of connections: when `live` came
	lefts     []place
	unordered []string
	drop      context.CancelFunc // cuts the present connection
	changed   chan struct{}      // closed and replaced at every change
}

// Closure is the end of a connection by the server.
type Closure struct {
	Code websocket.StatusCode
	At   time.Time
}

type event struct {
	program, id, timestamp, key, body string
	position                          int64
	at                                time.Time
}

type place struct {
	program string
	at      time.Time
}

type gap struct {
	program, reason string
	after, before   int64
}

// frame is what a client reads of a frame.
type frame struct {
	Type      string `json:"type"`
	ID        string `json:"id"`
	Position  string `json:"position"`
	ProgramID string `json:"programId"`
	Timestamp string `json:"timestamp"`
	After     string `json:"after"`
	Before    string `json:"before"`
	Reason    string `json:"reason"`
	Code      string `json:"code"`
	Data      struct {
		Key string `json:"key"`
	} `json:"data"`
}

// NewClient returns a client that connects to any of the nodes.
func NewClient(user string, nodes ...*Node) *Client {
	c := &Client{User: user, turn: rand.IntN(1000), cursor: map[string]int64{}, keys: map[string]bool{}, changed: make(chan struct{})}
	for _, n := range nodes {
		c.urls = append(c.urls, n.URL())
	}
	return c
}

// NewClientAt returns a client that connects to any of the addresses, such as ws://host:port/ws.
func NewClientAt(user string, urls ...string) *Client {
	c := NewClient(user)
	c.urls = urls
	return c
}

// Run connects again and again until ctx ends.
func (c *Client) Run(ctx context.Context) {
	for ctx.Err() == nil {
		_ = c.connect(ctx)
		pause := 5*time.Millisecond + rand.N(20*time.Millisecond)
		if c.refused() {
			pause *= 20
		}
		if !wait(ctx, pause) {
			return
		}
	}
}

// refused tells whether the last connection ended because the user is inactive.
func (c *Client) refused() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.closed == 4503
}

// connect is the life of one connection.
func (c *Client) connect(ctx context.Context) (err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer func() {
		cancel()
		c.note(func() { c.live, c.ends, c.reasons = false, append(c.ends, time.Now()), append(c.reasons, err) })
	}()
	dial, cancelDial := context.WithTimeout(ctx, 10*time.Second)
	defer cancelDial()
	c.turn++
	conn, _, err := websocket.Dial(dial, c.urls[c.turn%len(c.urls)], nil)
	if err != nil {
		return err
	}
	defer conn.CloseNow() //nolint:errcheck // it is over
	conn.SetReadLimit(1 << 20)
	c.mu.Lock()
	since := map[string]string{}
	for program, position := range c.cursor {
		since[program] = strconv.FormatInt(position, 10)
	}
	if c.all = max(c.all, c.Since); c.all > 0 {
		since["*"] = strconv.FormatInt(c.all, 10)
	}
	c.drop, c.closed = cancel, 0
	c.mu.Unlock()
	sign := Token
	if c.Sign != nil {
		sign = c.Sign
	}
	auth, err := json.Marshal(map[string]any{"type": "auth", "token": sign(c.User), "since": since})
	if err != nil {
		return err
	}
	if err := conn.Write(dial, websocket.MessageText, auth); err != nil {
		return err
	}
	for {
		message, err := c.read(ctx, conn)
		if err != nil {
			c.note(func() {
				if c.closed = websocket.CloseStatus(err); c.closed >= 0 {
					c.closures = append(c.closures, Closure{c.closed, time.Now()})
				}
			})
			return err
		}
		if err := c.handle(message); err != nil {
			return err
		}
	}
}

func (c *Client) read(ctx context.Context, conn *websocket.Conn) (message []byte, err error) {
	if c.Patience > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, c.Patience)
		defer cancel()
	}
	_, message, err = conn.Read(ctx)
	return message, err
}

func (c *Client) note(change func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	change()
	close(c.changed)
	c.changed = make(chan struct{})
}

func (c *Client) handle(message []byte) error {
	var f frame
	if err := json.Unmarshal(message, &f); err != nil {
		c.note(func() { c.unordered = append(c.unordered, fmt.Sprintf("unreadable frame %.200q: %v", message, err)) })
		return err
	}
	number := func(s string) int64 {
		n, err := strconv.ParseInt(s, 10, 64)
		if err != nil && s != "" {
			c.unordered = append(c.unordered, fmt.Sprintf("position %q: %v", s, err))
		}
		return n
	}
	c.note(func() {
		switch f.Type {
		case "event":
			c.event(event{
				program: f.ProgramID, id: f.ID, timestamp: f.Timestamp, key: f.Data.Key, body: string(message), position: number(f.Position), at: time.Now(),
			})
		case "gap":
			g := gap{program: f.ProgramID, reason: f.Reason, after: number(f.After), before: number(f.Before)}
			c.gaps = append(c.gaps, g)
			c.cursor[g.program] = g.before - 1
		case "live":
			c.lives++
			c.live, c.begins = true, append(c.begins, time.Now())
			c.all = max(c.all, number(f.Position))
		case "position":
			c.all = max(c.all, number(f.Position))
		case "left":
			c.lefts = append(c.lefts, place{f.ProgramID, time.Now()})
			delete(c.cursor, f.ProgramID)
		}
	})
	return nil // also of an error frame: what follows is the close code
}

func (c *Client) event(e event) {
	if cursor, ok := c.cursor[e.program]; ok && e.position <= cursor {
		c.again = append(c.again, e)
		return
	}
	c.cursor[e.program] = e.position
	c.received = append(c.received, e)
	c.keys[e.key] = true
}

// Drop cuts the present connection, without a word to the server.
func (c *Client) Drop() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.live = false
	if c.drop != nil {
		c.drop()
	}
}

// Until waits until done says so, which is asked after every change.
func (c *Client) Until(ctx context.Context, done func(*Client) bool) error {
	for {
		c.mu.Lock()
		changed, ok := c.changed, done(c)
		c.mu.Unlock()
		if ok {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			c.mu.Lock()
			defer c.mu.Unlock()
			return fmt.Errorf("client of %s has %d events, %d gaps, was closed with %d: %w", c.User, len(c.received), len(c.gaps), c.closed, ctx.Err())
		}
	}
}

// Live waits for the n-th `live` frame.
func (c *Client) Live(ctx context.Context, n int) error {
	return c.Until(ctx, func(c *Client) bool { return c.lives >= n })
}

// Positions returns the last position of each program.
func (c *Client) Positions() map[string]int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return maps.Clone(c.cursor)
}

// Received returns how many events the client has.
func (c *Client) Received() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.Count()
}

// Count is Received for use inside of Until.
func (c *Client) Count() int { return len(c.received) }

// Connected tells, inside of Until, whether the present connection has said `live`.
func (c *Client) Connected() bool { return c.live }

// Has tells, inside of Until, whether the client has the event with this key.
func (c *Client) Has(key string) bool { return c.keys[key] }

// Member tells whether the client's user is a member of the program.
func (c *Client) Member(program string) bool {
	return c.Programs == nil || slices.Contains(c.Programs, program)
}

// Closures returns the connections that the server has closed with a close frame, in their order.
func (c *Client) Closures() []Closure {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.closures)
}

// Ends returns why the connections, and the attempts at one, ended after the first n: the close code with its reason, or the HTTP status.
func (c *Client) Ends(n int) []error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.reasons[n:])
}

// Told returns, inside of Until, of how many gaps the client was told for that reason.
func (c *Client) Told(reason string) (n int) {
	for _, g := range c.gaps {
		if g.reason == reason {
			n++
		}
	}
	return n
}

// Resumable tells, inside of Until, whether the client has been given a checkpoint: without one, a program of which it hasn't seen an event
// yet would start anew after a reconnect.
func (c *Client) Resumable() bool { return c.all > 0 }

// SharedIDs counts the ids that the client has seen on two different events, as a failover that lost data hands them out again: of
// those that it could tell apart by timestamp and position, and of others.
func (c *Client) SharedIDs() (apart, alike int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	last := map[string]event{}
	for _, e := range c.received {
		before, ok := last[e.id]
		last[e.id] = e
		switch {
		case !ok || before.key == e.key:
		case before.timestamp != e.timestamp && before.position < e.position:
			apart++
		default:
			alike++
		}
	}
	return apart, alike
}
