package main

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/pflag"
)

const goodSecret = "Zm9xq2LkT8vYw1HnR4cJ7sB0dUe6GpAi3KtM5xWz"

// environment is a getenv over a map.
func environment(vars map[string]string) func(string) string {
	return func(name string) string { return vars[name] }
}

// parse reads settings for a server, from flags and variables.
func parse(t *testing.T, vars map[string]string, args ...string) (config, []string) {
	t.Helper()
	flags := pflag.NewFlagSet("test", pflag.ContinueOnError)
	bind(flags, settings())
	if err := flags.Parse(args); err != nil {
		t.Fatal(err)
	}
	c, bad := load(flags, environment(vars), settings())
	bad.check(&c)
	return c, bad.lines
}

// with is a good environment with changes; an empty value takes a variable away.
func with(changes map[string]string) map[string]string {
	vars := map[string]string{
		"DATABASE_URL": "postgres://u@h/d", "REDIS_URL": "redis://h:6379", "JWT_ACCESS_SECRET": goodSecret,
	}
	for name, value := range changes {
		vars[name] = value
	}
	return vars
}

func TestDefaults(t *testing.T) {
	t.Parallel()
	c, lines := parse(t, with(nil))
	if len(lines) > 0 {
		t.Fatalf("good settings are refused: %q", lines)
	}
	if c.role != "all" || c.listenAddr != ":8080" || c.adminAddr != "127.0.0.1:9090" || c.recentTTL != 300*time.Second ||
		c.retention != 24*time.Hour || c.maxCatchup != 50 || c.perUser != 20 || c.connections != 0 || c.shutdownGrace != 20*time.Second ||
		c.auth.Leeway != 10*time.Second || c.logLimit != 10_000 || c.writeTimeout != 10*time.Second || c.pollOnly {
		t.Errorf("defaults are not those of the documentation: %+v", c)
	}
}

func TestEveryBadSettingIsNamedAtOnce(t *testing.T) {
	t.Parallel()
	bad := map[string]string{
		"DATABASE_URL": "postgres://u:topsecret@h:port/d", "REDIS_URL": "http://x:topsecret@h", "LISTEN_ADDR": "8080", "ADMIN_ADDR": "h:70000", "ROLE": "both",
		"JWT_ACCESS_SECRET": "short", "JWT_LEEWAY": "31s", "CLIENT_URL": "https://ok.example, example.com", "RECENT_EVENTS_TTL": "300",
		"MAX_CATCHUP_EVENTS": "0", "OUTBOX_RETENTION": "-1h", "LOG_LIMIT": "many", "RELAY_POLL_ONLY": "maybe", "PING_INTERVAL": "0s",
		"PING_TIMEOUT": "soon", "AUTH_TIMEOUT": "1h", "WRITE_TIMEOUT": "0", "MAX_CONNECTIONS": "-1", "MAX_CONNECTIONS_PER_USER": "1.5",
		"SHUTDOWN_GRACE": "1d", "LOG_LEVEL": "loud", "LOG_FORMAT": "xml", "JWT_PUBLIC_KEY": "topsecret", "JWT_JWKS_URL": "http://x/jwks?topsecret", "JWT_ISSUERS_FILE": "/nonexistent", "ALLOWED_HOSTS": "https://h", "TRUSTED_PROXIES": "all",
		"MAX_UNAUTHENTICATED": "0", "MESSAGE_RATE": "0.1", "MESSAGE_BURST": "NaN",
	}
	_, lines := parse(t, bad)
	for name := range bad {
		if !strings.Contains("\n"+strings.Join(lines, "\n"), "\n"+name+": ") {
			t.Errorf("no line names %s", name)
		}
	}
	if len(lines) != len(bad) {
		t.Errorf("%d lines for %d bad settings:\n%s", len(lines), len(bad), strings.Join(lines, "\n"))
	}
	if strings.Contains(strings.Join(lines, "\n"), "topsecret") {
		t.Errorf("a password is in the message:\n%s", strings.Join(lines, "\n"))
	}
}

func TestSettingsThatContradictEachOther(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		vars map[string]string
		want []string // what the lines begin with
	}{
		"nothing set":             {map[string]string{"DATABASE_URL": "", "REDIS_URL": "", "JWT_ACCESS_SECRET": ""}, []string{"DATABASE_URL: not set", "REDIS_URL: not set", "JWT_ACCESS_SECRET: not set"}},
		"a relay needs no secret": {map[string]string{"ROLE": "relay", "JWT_ACCESS_SECRET": ""}, nil},
		"no key":                  {map[string]string{"JWT_ACCESS_SECRET": ""}, []string{"JWT_ACCESS_SECRET: not set: want the HS256 key of your tokens, at least 32 bytes; `openssl rand -base64 48` makes one; or set JWT_PUBLIC_KEY, JWT_JWKS_URL or JWT_ISSUERS_FILE"}},
		"two keys":                {map[string]string{"JWT_JWKS_URL": "https://issuer.example/jwks"}, []string{"JWT_JWKS_URL: JWT_ACCESS_SECRET is set too: keep one of them"}},
		"a JWKS alone":            {map[string]string{"JWT_ACCESS_SECRET": "", "JWT_JWKS_URL": "https://issuer.example/jwks"}, nil},
		"short retention":         {map[string]string{"OUTBOX_RETENTION": "359s"}, []string{"OUTBOX_RETENTION: 5m59s is too short"}},
		"least retention":         {map[string]string{"OUTBOX_RETENTION": "360s"}, nil},
		"ping":                    {map[string]string{"PING_INTERVAL": "60s"}, []string{"PING_TIMEOUT: 1m0s is not longer"}},
		"no host in the list":     {map[string]string{"ALLOWED_HOSTS": " , "}, []string{"ALLOWED_HOSTS: \" , \" names nothing"}}, // it allowed all hosts
		"no origin in the list":   {map[string]string{"CLIENT_URL": ","}, []string{"CLIENT_URL: \",\" names nothing"}},
		"no proxy in the list":    {map[string]string{"TRUSTED_PROXIES": " "}, []string{"TRUSTED_PROXIES: \" \" names nothing"}},
		"a password's slash":      {map[string]string{"DATABASE_URL": "postgres://u:to/psecret@h/d"}, []string{"DATABASE_URL: can't be read: want postgres://user:password@host:5432/database (in a password / is %2F and % is %25)"}},
		"an odd parameter":        {map[string]string{"DATABASE_URL": "postgres://u:topsecret@h/d?pool_max_conns=0"}, []string{"DATABASE_URL: can't be read: want postgres://user:password@host:5432/database (in a password / is %2F and % is %25), and behind a ? parameters that Postgres and the pool know"}},
		"one address":             {map[string]string{"ADMIN_ADDR": ":8080"}, []string{"ADMIN_ADDR: the same as LISTEN_ADDR"}},
	} {
		_, lines := parse(t, with(test.vars))
		if len(lines) != len(test.want) {
			t.Errorf("%s: got %q, want %q", name, lines, test.want)
			continue
		}
		for i := range lines {
			if !strings.HasPrefix(lines[i], test.want[i]) {
				t.Errorf("%s: got %q, want it to begin with %q", name, lines[i], test.want[i])
			}
		}
	}
}

func TestFlagWinsOverFileAndVariable(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(file, []byte(goodSecret+"-from-file\r\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	c, lines := parse(t, with(map[string]string{"PING_INTERVAL": "5s", "JWT_ACCESS_SECRET": "", "JWT_ACCESS_SECRET_FILE": file}), "--ping-interval", "7s")
	if len(lines) > 0 || c.pingInterval != 7*time.Second || string(c.auth.Secret) != goodSecret+"-from-file" {
		t.Errorf("interval %v, secret of %d bytes, refused: %q", c.pingInterval, len(c.auth.Secret), lines)
	}
	c, lines = parse(t, with(map[string]string{"JWT_ACCESS_SECRET": "short"}), "--jwt-access-secret-file", file)
	if len(lines) > 0 || string(c.auth.Secret) != goodSecret+"-from-file" {
		t.Errorf("a flag that names a file doesn't win over the variable: %q", lines)
	}
	_, lines = parse(t, with(map[string]string{"JWT_ACCESS_SECRET_FILE": file}))
	if len(lines) != 1 || !strings.Contains(lines[0], "both set") {
		t.Errorf("a variable and a file: refused: %q", lines)
	}
	if _, lines = parse(t, with(nil), "--jwt-access-secret", goodSecret, "--jwt-access-secret-file", file); len(lines) != 1 || !strings.Contains(lines[0], "both set") {
		t.Errorf("both as flags: refused: %q", lines)
	}
	if _, lines = parse(t, with(map[string]string{"REDIS_URL": "", "REDIS_URL_FILE": "/nonexistent"})); len(lines) != 1 || !strings.HasPrefix(lines[0], "REDIS_URL: read the file") {
		t.Errorf("a file that isn't there: %q", lines)
	}
}

// TestDocumentation compares docs/CONFIGURATION.md with the table of settings: names, order, defaults, and which can be given as a file.
func TestDocumentation(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("../../docs/CONFIGURATION.md")
	if err != nil {
		t.Fatal(err)
	}
	row := regexp.MustCompile("(?m)^\\| `([A-Z_]+)` \\| (none|`[^`]*`) \\| (\\*file\\*)? ?\\| .+ \\|$")
	var got, want []string
	for _, m := range row.FindAllStringSubmatch(string(text), -1) {
		got = append(got, m[1]+" "+strings.Trim(m[2], "`")+" "+m[3])
	}
	for _, s := range settings() {
		value, file := s.value, ""
		if value == "" {
			value = "none"
		}
		if s.secret {
			file = "*file*"
		}
		want = append(want, s.name+" "+value+" "+file)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("docs/CONFIGURATION.md isn't what the code says (-code +document):\n%s", diff)
	}
}
