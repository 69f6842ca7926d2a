package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/coder/websocket"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/redis/go-redis/v9"
	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"
)

// tailer is a client that prints events and resumes where it was.
type tailer struct {
	*program
	url, only, user string
	token           string // the one that was given; empty: each connection gets a new one, for user
	mint            func(user string, ttl time.Duration) (string, error)
	since           map[string]string // last position of each program; "*": the checkpoint
}

func (p *program) tailCommand() *cobra.Command {
	t := &tailer{program: p, since: map[string]string{}}
	var tokenFile, since string
	cmd := &cobra.Command{
		Use:   "tail",
		Short: "print events as they arrive, one JSON object a line",
		Long: "Prints events as they arrive, one JSON object a line. A lost connection is resumed where it was; what couldn't be resumed\n" +
			"is told on stderr. The token comes from --token-file or --token, or is minted for --user with JWT_ACCESS_SECRET.\n" +
			"With --program alone the events come from DATABASE_URL and REDIS_URL, without a server: all of them, whoever may see them.",
		Example: "  outbox-relay tail --program p1\n  outbox-relay tail --user u1 --program p1",
		Args:    noArgs,
	}
	cmd.Flags().StringVar(&t.url, "url", "ws://127.0.0.1:8080/ws", "where the server is")
	cmd.Flags().StringVar(&t.only, "program", "", "only this program; without it all of the user's")
	cmd.Flags().StringVar(&t.user, "user", "", "whose events to see")
	cmd.Flags().StringVar(&t.token, "token", "", "an access token, instead of --user; who lists this machine's processes sees it")
	cmd.Flags().StringVar(&tokenFile, "token-file", "", "file that holds the access token")
	cmd.Flags().StringVar(&since, "since", "", "begin after this position")
	wanted := some(slices.Concat(tokenSettings, serviceSettings)...)
	bind(cmd.Flags(), wanted)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		c, bad := load(cmd.Flags(), p.getenv, wanted)
		serverless := t.only != "" && t.user == "" && t.token == "" && tokenFile == ""
		if serverless {
			bad.require(&c, map[string]string{"DATABASE_URL": wantDatabase, "REDIS_URL": wantRedis + "; or --user"})
		} else {
			t.identify(&c, bad, tokenFile)
		}
		if _, err := strconv.ParseUint(since, 10, 63); since != "" && err != nil {
			bad.lines = append(bad.lines, fmt.Sprintf("--since: %q is no position: want digits only, as in an event's position", since))
		}
		if err := t.parseURL(); err != nil {
			bad.lines = append(bad.lines, err.Error())
		}
		if err := bad.err(); err != nil {
			return err
		}
		if since != "" {
			t.since["*"] = since
		}
		if serverless {
			return withServices(cmd.Context(), &c, func(pool *pgxpool.Pool, client redis.UniversalClient) error {
				return t.follow(cmd.Context(), pool, client)
			})
		}
		return t.run(cmd.Context())
	}
	return cmd
}

// identify notes the token, or what one is minted with, and adds to bad what is missing.
func (t *tailer) identify(c *config, bad *usageError, tokenFile string) {
	t.mint = c.auth.Mint
	switch {
	case tokenFile != "":
		text, err := os.ReadFile(tokenFile)
		if t.token = strings.TrimSpace(string(text)); err != nil || t.token == "" {
			bad.lines = append(bad.lines, fmt.Sprintf("--token-file: no token in %q (%v)", tokenFile, err))
		}
	case t.token == "":
		if t.user == "" {
			bad.lines = append(bad.lines, "--user, --token, --token-file or --program: not set: want whose events to see, or which program's")
		}
		bad.require(c, map[string]string{"JWT_ACCESS_SECRET": wantSecret + "; or --token-file (" + wantMint + ")"})
	}
}

// parseURL makes a WebSocket address of --url, which may also be an http one.
func (t *tailer) parseURL() error {
	u, err := url.Parse(t.url)
	if err != nil || u.Host == "" || !slices.Contains([]string{"ws", "wss", "http", "https"}, u.Scheme) {
		return errors.New("--url: want ws://host:port/ws or wss://host/ws")
	}
	u.Scheme = strings.Replace(u.Scheme, "http", "ws", 1)
	if u.Path == "" || u.Path == "/" {
		u.Path = "/ws"
	}
	t.url = u.String()
	return nil
}

const (
	firstRetry = 200 * time.Millisecond
	lastRetry  = 10 * time.Second
	aliveEvery = 25 * time.Second // a ping, which must be answered before the next one is due
	maxMessage = 4 << 20          // bytes; an event has at most 256 KiB of data
)

// errFinal wraps what trying again can't mend.
var errFinal = errors.New("not tried again")

// run reconnects until ctx ends or the server says that it's no use.
func (t *tailer) run(ctx context.Context) error {
	for delay := firstRetry; ; delay = min(2*delay, lastRetry) {
		live, err := t.connect(ctx)
		switch {
		case ctx.Err() != nil:
			return nil //nolint:nilerr // interrupted: that is how tail ends
		case errors.Is(err, errFinal):
			return err
		case live:
			delay = firstRetry
		}
		fmt.Fprintf(t.stderr, "tail: %s; trying again\n", oneLine(err.Error()))
		if !pause(ctx, delay/2+rand.N(delay)) {
			return nil
		}
	}
}

// pause waits and reports whether ctx is still alive.
func pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}

// connect is the life of one connection. live tells whether it got as far as its first frame.
func (t *tailer) connect(ctx context.Context) (live bool, err error) {
	conn, err := t.open(ctx)
	if err != nil {
		return false, err
	}
	defer conn.CloseNow() //nolint:errcheck // it is over
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error {
		for {
			_, message, err := conn.Read(ctx)
			if err != nil {
				return t.closed(err)
			}
			live = true
			if err := t.frame(message); err != nil {
				return err
			}
		}
	})
	group.Go(func() error {
		for pause(ctx, aliveEvery) {
			ping, cancel := context.WithTimeout(ctx, aliveEvery)
			err := conn.Ping(ping)
			cancel()
			if err != nil {
				return fmt.Errorf("ping %s: %w", t.url, err)
			}
		}
		return nil
	})
	err = group.Wait() // live is the reader's until then
	return live, err
}

// open dials and sends the token and what is known so far.
func (t *tailer) open(ctx context.Context) (*websocket.Conn, error) {
	token := t.token
	if token == "" {
		var err error
		if token, err = t.mint(t.user, 15*time.Minute); err != nil {
			return nil, fmt.Errorf("%w: %w", errFinal, err)
		}
	}
	ctx, cancel := context.WithTimeout(ctx, lastRetry)
	defer cancel()
	conn, response, err := websocket.Dial(ctx, t.url, nil) //nolint:bodyclose // the library closes it
	if err != nil {
		switch {
		case response != nil && response.StatusCode >= 400 && response.StatusCode < 500:
			return nil, fmt.Errorf("connect to %s: the server answered %s: is --url right? (%w)", t.url, response.Status, errFinal)
		case response != nil:
			return nil, fmt.Errorf("connect to %s: the server answered %s", t.url, response.Status)
		}
		return nil, fmt.Errorf("connect to %s: %w: is --url right?", t.url, withoutOp(err))
	}
	conn.SetReadLimit(maxMessage)
	auth := map[string]any{"type": "auth", "token": token}
	if len(t.since) > 0 {
		auth["since"] = t.since
	}
	if t.only != "" {
		auth["programs"] = []string{t.only}
	}
	first, err := json.Marshal(auth)
	if err == nil {
		err = conn.Write(ctx, websocket.MessageText, first)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("send the token: %w", err), conn.CloseNow())
	}
	return conn, nil
}

// misunderstood are the codes of a server that can't make sense of what was sent.
var misunderstood = []websocket.StatusCode{
	websocket.StatusProtocolError, websocket.StatusUnsupportedData, websocket.StatusInvalidFramePayloadData, websocket.StatusMessageTooBig,
}

// closed says what an ended connection means: 4000 to 4499 and everything temporary may be tried again.
func (t *tailer) closed(err error) error {
	code := websocket.CloseStatus(err)
	if code >= 4500 && code < 5000 || code == 4001 && t.token != "" || slices.Contains(misunderstood, code) {
		return fmt.Errorf("%s closed the connection with %d (%s): %w", t.url, code, closeMeaning(code), errFinal)
	}
	return fmt.Errorf("the connection to %s is lost: %w", t.url, err)
}

func closeMeaning(code websocket.StatusCode) string {
	switch code {
	case 4001:
		return "the token has expired: get a new one"
	case 4500:
		return "the token is invalid: was it signed with the server's JWT_ACCESS_SECRET?"
	case 4501:
		return "a token is required"
	case 4502:
		return "authentication took too long"
	case 4503:
		return "the user doesn't exist or is inactive"
	case 4504:
		return "too many connections"
	}
	return "the server didn't understand"
}

// frame prints an event to stdout and what else concerns people to stderr, and keeps the positions to resume from.
func (t *tailer) frame(message []byte) error {
	var f struct {
		Type, ProgramID, Position, After, Before, Reason, Code, Message string
		Programs                                                        []string
	}
	if err := json.Unmarshal(message, &f); err != nil {
		return fmt.Errorf("read a frame: %w", err)
	}
	position, _ := strconv.ParseInt(f.Position, 10, 64) // 0: none
	switch f.Type {
	case "event":
		if last, ok := t.since[f.ProgramID]; ok && position <= digits(last) {
			return nil
		}
		t.since[f.ProgramID] = f.Position
		return t.line(message)
	case "live", "position":
		t.checkpoint(f.Position, position)
	case "ready":
		t.ready(f.Programs)
	case "gap", "joined", "left", "error":
		fmt.Fprintf(t.stderr, "tail: %s\n", message)
		t.moved(f.Type, f.ProgramID, f.Position, f.Before)
	}
	return nil
}

// line prints a frame.
func (t *tailer) line(frame []byte) error {
	var line bytes.Buffer // the data keeps its bytes all the way, line breaks included
	if err := json.Compact(&line, frame); err != nil {
		return fmt.Errorf("read a frame: %w", err)
	}
	line.WriteByte('\n')
	_, err := t.stdout.Write(line.Bytes())
	return err
}

// digits reads a position that was one when it was kept.
func digits(position string) int64 {
	n, _ := strconv.ParseInt(position, 10, 64)
	return n
}

// checkpoint notes a position at or below which everything has been received, in all programs.
func (t *tailer) checkpoint(text string, position int64) {
	if text == "" {
		return
	}
	t.since["*"] = text
	for program, last := range t.since {
		if digits(last) < position {
			t.since[program] = text
		}
	}
}

func (t *tailer) ready(programs []string) {
	fmt.Fprintf(t.stderr, "tail: connected, programs %v\n", programs)
	if len(programs) == 0 {
		fmt.Fprintln(t.stderr, "tail: the user is a member of no such program: nothing will arrive until that changes")
	}
}

// moved notes where a program goes on after a gap or a change of membership.
func (t *tailer) moved(frame, program, position, before string) {
	switch frame {
	case "gap":
		t.since[program] = strconv.FormatInt(max(digits(before)-1, 0), 10)
		if last, ok := t.since["*"]; ok && digits(last) >= digits(before) {
			delete(t.since, "*") // of a history that is no more
		}
	case "joined":
		t.since[program] = position
	case "left":
		delete(t.since, program)
	}
}
