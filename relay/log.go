package relay

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"log/slog"
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

// errNewer says that a relay on a newer timeline of the same cluster has taken over. This one's primary is the old one.
var errNewer = errors.New("a relay on a newer timeline has taken over: this relay's Postgres is an old primary")

// Log appends to the programs' logs. It belongs to the session that leads: predecessors are what this session has seen.
type Log struct {
	redis  redis.UniversalClient
	window time.Duration // age up to which entries are kept, measured from the newest
	most   int           // entries per program
	log    *slog.Logger
	now    func() int64 // the database's clock, as a position

	newest map[string]int64 // the predecessor: each program's newest position within the window
	head   string           // what the head key is believed to hold

	sharded bool // pub/sub of the Cluster: a message goes to the subscribers of its slot's master only
}

// part is what one program gets of a batch, ascending.
type part struct {
	program   string
	positions []int64
	frames    [][]byte
	foreign   bool // what lies at its key isn't a log
}

// reply is what the append script says.
type reply struct {
	status   string // ok, behind, late
	position string
}

// append sends the parts in one pipeline, one script call per program, and returns the programs whose log has lost its end, or isn't one. An error means
// that some appends may have happened: the same call can be repeated.
func (l *Log) append(ctx context.Context, parts []part) (behind []part, err error) {
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
			return nil, fmt.Errorf("%w (%s at %s)", errLate, keyPrefix+parts[i].program, r.position)
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
func (l *Log) life(p part) time.Duration {
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

func (l *Log) publishCommand() string { return publishCommand(l.sharded) }

// publishCommand is the one of the two kinds of pub/sub that the nodes subscribe by: what is sent by the other reaches nobody.
func publishCommand(sharded bool) string {
	if sharded {
		return "SPUBLISH"
	}
	return "PUBLISH"
}

// tellNodes makes every node forget what it has buffered and read all memberships again.
func tellNodes(ctx context.Context, client redis.UniversalClient, position int64) error {
	found, err := inspect(ctx, client)
	if err != nil {
		return err
	}
	return client.Do(ctx, publishCommand(found.sharded), channelPrefix+nodesTopic, position).Err()
}

// load makes the scripts known to the server; on a cluster to each master.
func (l *Log) load(ctx context.Context) error {
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
func (l *Log) publishHead(ctx context.Context, cluster outbox.Cluster, position int64) (changed bool, err error) {
	cmd := headScript.EvalSha(ctx, l.redis, []string{headKey}, l.head, cluster.SystemID, cluster.Timeline, position)
	r, err := parseReply(cmd)
	switch {
	case err != nil:
		return false, fmt.Errorf("set %s: %w", headKey, err)
	case r.status == "newer":
		return false, fmt.Errorf("%w (%s)", errNewer, r.position)
	}
	l.head = r.position
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

// compare reads the newest score of every log in the window and returns the programs whose log has lost its end, and those whose log
// holds something newer than this session has appended.
func (l *Log) compare(ctx context.Context, now int64) (lost, foreign []string, err error) {
	programs := make([]string, 0, len(l.newest))
	pipe := l.redis.Pipeline()
	cmds := make([]*redis.ZSliceCmd, 0, len(l.newest))
	for program, position := range l.newest {
		if position < now-l.window.Microseconds() {
			delete(l.newest, program) // outside the window: its log may be gone
			continue
		}
		programs = append(programs, program)
		cmds = append(cmds, pipe.ZRevRangeWithScores(ctx, keyPrefix+program, 0, 0))
	}
	if len(cmds) == 0 {
		return nil, nil, nil
	}
	_, _ = pipe.Exec(ctx) // each command has its own error
	for i, cmd := range cmds {
		top, err := cmd.Result()
		switch {
		case isWrongType(err):
			foreign = append(foreign, programs[i])
		case err != nil:
			return nil, nil, fmt.Errorf("read %s: %w", keyPrefix+programs[i], err)
		case len(top) == 0 || int64(top[0].Score) < l.newest[programs[i]]:
			lost = append(lost, programs[i])
		case int64(top[0].Score) > l.newest[programs[i]]:
			foreign = append(foreign, programs[i])
		}
	}
	return lost, foreign, nil
}

func isWrongType(err error) bool { return err != nil && strings.HasPrefix(err.Error(), "WRONGTYPE") }

func isNoScript(err error) bool { return err != nil && strings.Contains(err.Error(), "NOSCRIPT") }
