package devstack

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/alicebob/miniredis/v2"
)

// redisNames are the servers that speak the protocol, in order of preference.
var redisNames = []string{"redis-server", "valkey-server"}

// RedisConfig says which Redis to start and how. The zero value is a server without persistence from the first rung that works.
type RedisConfig struct {
	// URL is an existing server for the rung "url". If set and Rung is empty, it is the only rung.
	URL string
	// Rung forces one rung: "url", "local", "miniredis" or "apt". Empty: the first that works, in that order.
	Rung string
	// RequireReal leaves miniredis out, so that the apt rung is tried after "local".
	RequireReal bool
	// NoInstall keeps the apt rung from installing the package when this process is root; it is unpacked into CacheDir instead.
	NoInstall bool
	// CacheDir holds downloads. Empty: DefaultCacheDir(os.Getenv).
	CacheDir string
	// Args are further arguments of redis-server, such as "--appendonly", "yes"; they win over the defaults. The server's working
	// folder is a temporary one.
	Args []string
	// Password of the default user, and for its primary, if it is a replica. Empty: none.
	Password string
	// Sentinel makes it a Sentinel with this configuration, which may span lines.
	Sentinel string
	// Log gets one line per state change. Nil: discarded.
	Log *slog.Logger
}

// RedisFromEnv returns a configuration with REDIS_URL, OUTBOX_RELAY_REDIS and the default cache folder filled in.
func RedisFromEnv(getenv func(string) string) RedisConfig {
	return RedisConfig{URL: getenv("REDIS_URL"), Rung: getenv("OUTBOX_RELAY_REDIS"), CacheDir: DefaultCacheDir(getenv)}
}

// Redis is a running server, or a stopped one that can be started again. Its methods must not be called concurrently.
type Redis struct {
	// Immutable after StartRedis.
	Rung string // "url", "local", "miniredis" or "apt"
	Addr string // host:port on 127.0.0.1; empty for the rung "url"
	Dir  string // the server's working folder, deleted by Close; empty for "url" and "miniredis"

	Password string

	cfg RedisConfig
	bin redisBinary

	child *child // nil while stopped
	mini  *miniredis.Miniredis
}

type redisBinary struct {
	rung    string
	path    string
	libDirs []string
}

// errNotOurs is returned for what can't be done to a server that is not a child process.
var errNotOurs = errors.New("the server isn't a process of ours")

// StartRedis starts a server and returns when it answers PING. It lives until Stop, Kill or Close, not until ctx ends.
func StartRedis(ctx context.Context, cfg RedisConfig) (*Redis, error) {
	cfg.Log = logger(cfg.Log)
	cfg.CacheDir = cmp.Or(cfg.CacheDir, DefaultCacheDir(os.Getenv))
	if cfg.Rung == "" && cfg.URL != "" {
		cfg.Rung = "url"
	}
	if cfg.Rung == "url" {
		if cfg.URL == "" {
			return nil, errors.New("OUTBOX_RELAY_REDIS=url: REDIS_URL is not set")
		}
		return &Redis{Rung: "url", cfg: cfg}, nil
	}
	bin, err := findRedis(ctx, cfg)
	if err != nil {
		return nil, err
	}
	r := &Redis{Rung: bin.rung, Password: cfg.Password, cfg: cfg, bin: bin}
	if r.Rung == "miniredis" {
		return r, r.startMini()
	}
	if r.Dir, err = tempDir("redis", nil); err != nil {
		return nil, err
	}
	if err := r.Start(ctx); err != nil {
		return nil, errors.Join(err, os.RemoveAll(r.Dir))
	}
	return r, nil
}

// PrepareRedis climbs the ladder without starting anything, so that a later StartRedis needs no download.
func PrepareRedis(ctx context.Context, cfg RedisConfig) error {
	cfg.Log = logger(cfg.Log)
	cfg.CacheDir = cmp.Or(cfg.CacheDir, DefaultCacheDir(os.Getenv))
	_, err := findRedis(ctx, cfg)
	return err
}

func findRedis(ctx context.Context, cfg RedisConfig) (redisBinary, error) {
	order := []string{"local", "miniredis"}
	if cfg.RequireReal {
		order = []string{"local", "apt"}
	}
	if cfg.Rung != "" {
		order = []string{cfg.Rung}
	}
	var reasons []string
	for _, rung := range order {
		b, err := redisRung(ctx, cfg, rung)
		if err == nil {
			err = b.verify(ctx)
		}
		if err == nil {
			return b, nil
		}
		if ctx.Err() != nil {
			return redisBinary{}, err
		}
		reasons = append(reasons, rung+": "+err.Error())
	}
	return redisBinary{}, fmt.Errorf("no Redis here: install one (%s) or set REDIS_URL (tried %s)", installHint("redis-server"), strings.Join(reasons, "; "))
}

func redisRung(ctx context.Context, cfg RedisConfig, rung string) (redisBinary, error) {
	switch rung {
	case "local":
		return localRedis()
	case "miniredis":
		if cfg.RequireReal {
			return redisBinary{}, errors.New("a real Redis is required")
		}
		return redisBinary{rung: "miniredis"}, nil
	case "apt":
		if os.Geteuid() == 0 && !cfg.NoInstall && aptInstall(ctx, cfg.Log) == nil {
			if b, err := localRedis(); err == nil {
				b.rung = "apt"
				return b, nil
			}
		}
		return aptRedis(ctx, cfg.CacheDir, cfg.Log)
	default:
		return redisBinary{}, fmt.Errorf("OUTBOX_RELAY_REDIS=%s: must be url, local, miniredis or apt", rung)
	}
}

func localRedis() (redisBinary, error) {
	for _, name := range redisNames {
		if path, err := exec.LookPath(name); err == nil {
			return redisBinary{rung: "local", path: path}, nil
		}
	}
	return redisBinary{}, errors.New("neither redis-server nor valkey-server on PATH")
}

// verify runs the binary: one whose libraries are missing is no rung.
func (b redisBinary) verify(ctx context.Context) error {
	if b.path == "" {
		return nil
	}
	return run(ctx, b.path, b.command("--version"))
}

func (b redisBinary) command(args ...string) *exec.Cmd {
	cmd := exec.Command(b.path, args...)
	cmd.Env = []string{"PATH=/usr/local/bin:/usr/bin:/bin", "LC_ALL=C", "TZ=UTC"}
	if len(b.libDirs) > 0 {
		cmd.Env = append(cmd.Env, libraryVariable()+"="+strings.Join(b.libDirs, ":"))
	}
	return cmd
}

func (r *Redis) startMini() error {
	m := miniredis.NewMiniRedis()
	if err := m.StartAddr("127.0.0.1:0"); err != nil {
		return fmt.Errorf("start miniredis: %w", err)
	}
	m.ClockTTL(true) // else nothing ever expires
	r.mini, r.Addr = m, m.Addr()
	r.cfg.Log.Info("no Redis on PATH: using a small one inside this process (for a first try only)", "address", r.Addr)
	return nil
}

// URL returns the connection string, "redis://127.0.0.1:PORT/0", with the password if there is one (for the rung "url": REDIS_URL itself).
func (r *Redis) URL() string {
	if r.Rung == "url" {
		return r.cfg.URL
	}
	u := url.URL{Scheme: "redis", Host: r.Addr, Path: "/0"}
	if r.Password != "" {
		u.User = url.UserPassword("", r.Password)
	}
	return u.String()
}

// Pid returns the server's process id, 0 while it doesn't run or isn't ours.
func (r *Redis) Pid() int {
	if r.child == nil {
		return 0
	}
	return r.child.pid()
}

// Start starts the server again after Stop or Kill, on the same port. Without persistence (the default) it comes back empty. Further arguments are added to
// those of the configuration, for this start only.
func (r *Redis) Start(ctx context.Context, args ...string) error {
	if r.Dir == "" || r.child != nil {
		return fmt.Errorf("start Redis: it runs already, or %w", errNotOurs)
	}
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	for try := 1; ; try++ {
		chosen := r.Addr == ""
		port, err := r.port()
		if err != nil {
			return err
		}
		if err = r.launch(ctx, port, args); err == nil {
			r.cfg.Log.Info("Redis accepts connections", "address", r.Addr, "rung", r.Rung)
			return nil
		}
		if !chosen || try == 3 {
			r.cfg.Log.Debug("start Redis", "error", err)
			return err
		}
	}
}

// Restart is Stop and Start.
func (r *Redis) Restart(ctx context.Context, args ...string) error {
	if err := r.Stop(ctx); err != nil {
		return err
	}
	return r.Start(ctx, args...)
}

func (r *Redis) port() (int, error) {
	if r.Addr != "" {
		_, port, _ := net.SplitHostPort(r.Addr)
		return strconv.Atoi(port)
	}
	return FreePort()
}

func (r *Redis) launch(ctx context.Context, port int, more []string) error {
	logPath := filepath.Join(r.Dir, "redis.log")
	out, err := os.OpenFile(logPath, os.O_CREATE|os.O_TRUNC|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return fmt.Errorf("open server log: %w", err)
	}
	defer out.Close()
	args := []string{
		"--port", strconv.Itoa(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir", r.Dir, "--daemonize", "no",
		"--repl-diskless-sync-delay", "0", // a replica needn't wait 5 s for others to come
	}
	if r.cfg.Sentinel != "" {
		path := filepath.Join(r.Dir, "sentinel.conf") // it writes what it learns into it
		if _, err := os.Stat(path); err != nil {
			if err := os.WriteFile(path, []byte(r.cfg.Sentinel+"\n"), 0o600); err != nil {
				return fmt.Errorf("write the Sentinel's configuration: %w", err)
			}
		}
		args = []string{path, "--sentinel", "--port", strconv.Itoa(port), "--bind", "127.0.0.1", "--dir", r.Dir, "--daemonize", "no"}
	}
	if r.Password != "" {
		args = append(args, "--requirepass", r.Password)
	}
	if r.Password != "" && r.cfg.Sentinel == "" {
		args = append(args, "--masterauth", r.Password)
	}
	cmd := r.bin.command(append(append(args, r.cfg.Args...), more...)...)
	cmd.Stdout, cmd.Stderr = out, out
	c, err := startChild(cmd, nil, syscall.SIGKILL)
	if err != nil {
		return err
	}
	addr := net.JoinHostPort("127.0.0.1", strconv.Itoa(port))
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for {
		if answers(addr, r.Password, c.pid()) {
			r.child, r.Addr = c, addr
			return nil
		}
		select {
		case <-c.done:
			return fmt.Errorf("start Redis on %s: %w: %s", addr, c.err, lastLines(logPath))
		case <-ctx.Done():
			_ = c.signal(os.Kill)
			<-c.done
			return fmt.Errorf("start Redis on %s: %w: %s", addr, ctx.Err(), lastLines(logPath))
		case <-tick.C:
		}
	}
}

// answers reports whether the server at addr is the process pid and ready (a server that loads its data isn't).
func answers(addr, password string, pid int) bool {
	conn, err := net.DialTimeout("tcp", addr, time.Second)
	if err != nil {
		return false
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(time.Second))
	commands := "PING\r\nINFO server\r\nQUIT\r\n"
	if password != "" {
		commands = "AUTH " + password + "\r\n" + commands
	}
	if _, err := conn.Write([]byte(commands)); err != nil {
		return false
	}
	pong, ours := false, false
	lines := bufio.NewScanner(conn)
	for lines.Scan() {
		pong = pong || lines.Text() == "+PONG"
		ours = ours || lines.Text() == "process_id:"+strconv.Itoa(pid)
	}
	return pong && ours
}

// Stop shuts the server down (SIGTERM) and waits for its end. Stopping a stopped server, or one that isn't ours, does nothing; miniredis ends for good.
func (r *Redis) Stop(ctx context.Context) error {
	if r.mini != nil {
		r.mini.Close()
		r.mini = nil
		return nil
	}
	return r.stop(ctx, syscall.SIGTERM)
}

// Kill ends the server with SIGKILL and waits for its end.
func (r *Redis) Kill(ctx context.Context) error {
	return r.stop(ctx, syscall.SIGKILL)
}

func (r *Redis) stop(ctx context.Context, sig syscall.Signal) error {
	if r.child == nil {
		return nil
	}
	c := r.child
	r.child = nil
	if err := c.stop(ctx, sig, os.Kill); err != nil {
		return fmt.Errorf("stop Redis: %w", err)
	}
	r.cfg.Log.Info("Redis stopped", "address", r.Addr)
	return nil
}

// Close ends the server and deletes its working folder.
func (r *Redis) Close(ctx context.Context) error {
	if r.Dir == "" {
		return r.Stop(ctx)
	}
	// What would be saved is deleted anyway; and a paused process takes no SIGTERM.
	return errors.Join(r.Kill(ctx), os.RemoveAll(r.Dir))
}

// Pause stops the process (SIGSTOP): connections stay open, nothing is answered.
func (r *Redis) Pause() error {
	if r.child == nil {
		return fmt.Errorf("pause Redis: %w", errNotOurs)
	}
	return pause(r.child)
}

// Continue ends Pause.
func (r *Redis) Continue() error {
	if r.child == nil {
		return fmt.Errorf("continue Redis: %w", errNotOurs)
	}
	return resume(r.child)
}
