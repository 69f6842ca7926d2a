package relay

import (
	"cmp"
	"context"
	_ "embed"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/outboxrelay/outboxrelay/outbox"
)

const (
	keyPrefix     = "socket:events:program:"
	userPrefix    = "socket:events:user:"
	headKey       = "socket:events:head"
	limitsKey     = "socket:events:limits"
	skewAllowance = 60 * time.Second // a key lives this much longer than its newest entry's window
)

//go:embed append.lua
var appendSource string

//go:embed head.lua
var headSource string

var (
	appendScript = redis.NewScript(appendSource)
	headScript   = redis.NewScript(headSource)
)

// errLate says that the log holds something that this relay's history doesn't explain: another relay writes to the same Redis. The
// session ends; the next one starts from what the database says.
var errLate = errors.New("another relay writes to this Redis: two primaries, or two databases that share one Redis")

// errLimits says that the limits of the logs aren't those that this session has set: what the logs hold isn't known.
var errLimits = errors.New("something has changed or deleted " + limitsKey)

// errNewer says that a relay on a newer timeline of the same cluster has taken over. This one's primary is the old one.
var errNewer = errors.New("a relay on a newer timeline has taken over: this relay's Postgres is an old primary")

// logWriter appends to the programs' logs. It belongs to the session that leads: predecessors are what this session has seen.
type logWriter struct {
	limits
	redis redis.UniversalClient
	now   func() int64 // the database's clock, as a position

	newest map[string]int64 // the predecessor: each program's newest position within the window
	head   string           // what the head key is believed to hold

	sharded bool // pub/sub of the Cluster: a message goes to the subscribers of its slot's master only
}

func newLogWriter(c Config) *logWriter {
	return &logWriter{limits: limits{c.RecentTTL, c.LogLimit}, redis: c.Redis, newest: map[string]int64{}}
}

// limits are what the logs are trimmed by. They stand in Redis beside the head, for what a log lacks was trimmed by those of then.
type limits struct {
	window time.Duration // age up to which entries are kept, measured from the newest
	most   int           // entries per program
}

func (l limits) String() string { return fmt.Sprintf("%d:%d", l.window.Microseconds(), l.most) }

// parseLimits returns zero, of which no log holds anything, for what can't be read.
func parseLimits(text string) limits {
	window, most, _ := strings.Cut(text, ":")
	micros, err1 := strconv.ParseInt(window, 10, 64)
	n, err2 := strconv.Atoi(most)
	if err1 != nil || err2 != nil || micros <= 0 || n <= 0 {
		return limits{}
	}
	return limits{time.Duration(micros) * time.Microsecond, n}
}

// least is what holds for both.
func (l limits) least(o limits) limits { return limits{min(l.window, o.window), min(l.most, o.most)} }

// part is what one program gets of a batch, ascending.
type part struct {
	program   string
	positions []int64
	frames    [][]byte
	foreign   bool // what lies at its key isn't a log
}

// reply is what a script says.
type reply struct {
	status string // of append.lua: ok, behind, late; of head.lua: ok, changed, newer
	value  string // a position, a number of entries or a head, as the script has it
}

// append sends the parts in one pipeline, one script call per program, and returns the programs whose log has lost its end, or isn't one. An error means
// that some appends may have happened: the same call can be repeated.
func (l *logWriter) append(ctx context.Context, parts []part) (behind []part, err error) {
	pipe := l.redis.Pipeline()
	cmds := make([]*redis.Cmd, len(parts))
	for i, p := range parts {
		args := make([]any, 0, 5+2*len(p.positions))
		args = append(args, l.newest[p.program], l.window.Microseconds(), l.most, int64(l.life(p)/time.Second), l.publishCommand())
		for k, position := range p.positions {
			args = append(args, position, p.frames[k])
		}
		cmds[i] = appendScript.EvalSha(ctx, pipe, []string{keyPrefix + p.program}, args...)
	}
	_, _ = pipe.Exec(ctx) // each command has its own error
	for i, cmd := range cmds {
		r, err := parseReply(cmd)
		switch {
		case isWrongType(err):
			parts[i].foreign = true
			behind = append(behind, parts[i])
		case err != nil:
			return nil, fmt.Errorf("append to %s: %w", keyPrefix+parts[i].program, err)
		case r.status == "late":
			return nil, fmt.Errorf("%w (%s at %s)", errLate, keyPrefix+parts[i].program, r.value)
		case r.status == "behind":
			behind = append(behind, parts[i])
		default:
			l.newest[parts[i].program] = parts[i].positions[len(parts[i].positions)-1]
		}
	}
	return behind, nil
}

// life is how long a log must be kept after p has been appended: until p's last entry leaves the window by the database's clock. Positions
// may be ahead of that clock, after it was set back or after a rebase.
func (l *logWriter) life(p part) time.Duration {
	ahead := max(0, p.positions[len(p.positions)-1]-l.now())
	return l.window + skewAllowance + time.Duration(ahead)*time.Microsecond
}

func parseReply(cmd *redis.Cmd) (reply, error) {
	fields, err := cmd.StringSlice()
	if err != nil {
		return reply{}, err
	}
	if len(fields) != 2 {
		return reply{}, fmt.Errorf("script returned %d fields, want 2", len(fields))
	}
	return reply{fields[0], fields[1]}, nil
}

func (l *logWriter) publishCommand() string { return publishCommand(l.sharded) }

// publishCommand is the one of the two kinds of pub/sub that the nodes subscribe by: what is sent by the other reaches nobody.
func publishCommand(sharded bool) string {
	if sharded {
		return "SPUBLISH"
	}
	return "PUBLISH"
}

// tellNodes makes every node forget what it has buffered and read all memberships again, as of position at least.
func tellNodes(ctx context.Context, client redis.UniversalClient, position int64) error {
	found, err := inspect(ctx, client)
	if err != nil {
		return err
	}
	return client.Do(ctx, publishCommand(found.sharded), channelPrefix+nodesTopic, position).Err()
}

// load makes the scripts known to the server; on a cluster to each master.
func (l *logWriter) load(ctx context.Context) error {
	found, err := inspect(ctx, l.redis)
	if err != nil {
		return err
	}
	l.sharded = found.sharded
	return eachMaster(ctx, l.redis, func(ctx context.Context, node redis.UniversalClient) error {
		for _, s := range []*redis.Script{appendScript, headScript} {
			if err := s.Load(ctx, node).Err(); err != nil {
				return fmt.Errorf("load scripts into Redis: %w", err)
			}
		}
		return nil
	})
}

// publishHead says that everything through position is in the logs. changed: the head was not what this session left there, so Redis
// has lost something or somebody has written: the logs must be compared before the head is set again.
func (l *logWriter) publishHead(ctx context.Context, cluster outbox.Cluster, position int64) (changed bool, err error) {
	cmd := headScript.EvalSha(ctx, l.redis, []string{headKey}, l.head, cluster.SystemID, cluster.Timeline, position)
	r, err := parseReply(cmd)
	switch {
	case err != nil:
		return false, fmt.Errorf("set %s: %w", headKey, err)
	case r.status == "newer":
		return false, fmt.Errorf("%w (%s)", errNewer, r.value)
	}
	l.head = r.value
	return r.status == "changed", nil
}

// readHead returns the head, and its position; zero if there is none.
func readHead(ctx context.Context, db redis.Cmdable) (text string, position int64, err error) {
	text, err = db.Get(ctx, headKey).Result()
	if errors.Is(err, redis.Nil) {
		return "", 0, nil
	}
	if err != nil {
		return "", 0, fmt.Errorf("read %s: %w", headKey, err)
	}
	return text, headPosition(text), nil
}

// readLimits returns what the logs are trimmed by; zero if nothing says so.
func readLimits(ctx context.Context, db redis.Cmdable) (limits, error) {
	text, err := db.Get(ctx, limitsKey).Result()
	if err != nil && !errors.Is(err, redis.Nil) {
		return limits{}, fmt.Errorf("read %s: %w", limitsKey, err)
	}
	return parseLimits(text), nil
}

// headCluster reads whose history a head belongs to; zero if it can't be read.
func headCluster(text string) (c outbox.Cluster) {
	system, rest, _ := strings.Cut(text, ":")
	timeline, _, _ := strings.Cut(rest, ":")
	c.SystemID, _ = strconv.ParseInt(system, 10, 64)
	c.Timeline, _ = strconv.ParseInt(timeline, 10, 64)
	return c
}

func headPosition(text string) int64 {
	position, err := strconv.ParseInt(text[strings.LastIndexByte(text, ':')+1:], 10, 64)
	if err != nil {
		return 0
	}
	return position
}

// checkLimits makes sure that the logs are trimmed by what they say they are. Where all is lost it says it again.
func (l *logWriter) checkLimits(ctx context.Context) error {
	pipe := l.redis.Pipeline()
	held, head := pipe.Get(ctx, limitsKey), pipe.Get(ctx, headKey)
	_, _ = pipe.Exec(ctx) // each command has its own error
	for _, cmd := range []*redis.StringCmd{held, head} {
		if err := cmd.Err(); err != nil && !errors.Is(err, redis.Nil) {
			return fmt.Errorf("read %s and %s: %w", limitsKey, headKey, err)
		}
	}
	switch {
	case held.Val() == l.limits.String():
		return nil
	case held.Val() == "" && head.Val() == "": // a successor's stay
		if err := l.redis.SetArgs(ctx, limitsKey, l.limits.String(), redis.SetArgs{Mode: "NX"}).Err(); err != nil {
			return fmt.Errorf("set %s: %w", limitsKey, err)
		}
		return nil
	default:
		return fmt.Errorf("%w (%q)", errLimits, held.Val())
	}
}

// inWindow returns the programs whose log must be there, and forgets the others.
func (l *logWriter) inWindow(now int64) []string {
	programs := make([]string, 0, len(l.newest))
	for program, position := range l.newest {
		if position < now-l.window.Microseconds() {
			delete(l.newest, program)
			continue
		}
		programs = append(programs, program)
	}
	return programs
}

// compare asks for the newest entry of the programs' logs, and returns the programs whose log has lost its end, and those whose log holds something
// newer than this session has appended. It doesn't fetch the entries, which may be large.
func (l *logWriter) compare(ctx context.Context, programs []string) (lost, foreign []string, err error) {
	pipe := l.redis.Pipeline()
	type counts struct{ newest, newer *redis.IntCmd }
	cmds := make([]counts, len(programs))
	for i, program := range programs {
		at := strconv.FormatInt(l.newest[program], 10)
		cmds[i] = counts{pipe.ZCount(ctx, keyPrefix+program, at, at), pipe.ZCount(ctx, keyPrefix+program, "("+at, "+inf")}
	}
	_, _ = pipe.Exec(ctx) // each command has its own error
	for i, cmd := range cmds {
		newest, err := cmd.newest.Result()
		newer, err2 := cmd.newer.Result()
		err = cmp.Or(err, err2)
		switch {
		case isWrongType(err):
			foreign = append(foreign, programs[i])
		case err != nil:
			return nil, nil, fmt.Errorf("read %s: %w", keyPrefix+programs[i], err)
		case newer > 0:
			foreign = append(foreign, programs[i])
		case newest == 0:
			lost = append(lost, programs[i])
		}
	}
	return lost, foreign, nil
}

func isWrongType(err error) bool { return err != nil && strings.Contains(err.Error(), "WRONGTYPE") }

func isNoScript(err error) bool { return err != nil && strings.Contains(err.Error(), "NOSCRIPT") }
