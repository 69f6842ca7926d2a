package archtest

import (
	"encoding/json"
	"os/exec"
	"strconv"
	"strings"
	"testing"
)

// floors are the least versions to build with, those that the faults of older ones were looked for in: a downgrade, by hand or by a tool, must be a
// decision.
var floors = map[string]string{
	"github.com/MicahParks/keyfunc/v3":    "v3.9.0",
	"github.com/coder/websocket":          "v1.8.15",
	"github.com/golang-jwt/jwt/v5":        "v5.3.1",
	"github.com/jackc/pgx/v5":             "v5.12.0",
	"github.com/pressly/goose/v3":         "v3.29.0",
	"github.com/prometheus/client_golang": "v1.25.0",
	"github.com/redis/go-redis/v9":        "v9.23.0",
	"golang.org/x/sync":                   "v0.24.0",
	"golang.org/x/time":                   "v0.16.0",
	"github.com/spf13/cobra":              "v1.10.2",
}

func TestVersionFloors(t *testing.T) {
	t.Parallel()
	out, err := exec.Command("go", "mod", "edit", "-json", "../../go.mod").Output()
	if err != nil {
		t.Fatalf("go mod edit: %v", err)
	}
	var mod struct {
		Go      string
		Require []struct{ Path, Version string }
		Replace []struct{ Old struct{ Path string } }
	}
	if err := json.Unmarshal(out, &mod); err != nil {
		t.Fatal(err)
	}
	found := 0
	for _, r := range mod.Require {
		floor, ok := floors[r.Path]
		if !ok {
			continue
		}
		found++
		if below(t, r.Version, floor) {
			t.Errorf("%s %s: want at least %s", r.Path, r.Version, floor)
		}
	}
	if found != len(floors) {
		t.Errorf("go.mod requires %d of the %d modules that have a floor: this list is stale", found, len(floors))
	}
	if below(t, "v"+mod.Go, "v1.26.0") {
		t.Errorf("go %s: want at least 1.26.0", mod.Go)
	}
	for _, r := range mod.Replace { // what is replaced has no version that could be judged
		t.Errorf("go.mod replaces %s", r.Old.Path)
	}
}

// below compares versions such as v1.2.3; one with anything behind is below v1.2.3 itself.
func below(t *testing.T, version, floor string) bool {
	t.Helper()
	have, suffix, _ := strings.Cut(strings.TrimPrefix(version, "v"), "-")
	want := strings.Split(strings.TrimPrefix(floor, "v"), ".")
	for i, part := range strings.Split(have, ".") {
		if i == len(want) {
			t.Fatalf("version %s", version)
		}
		h, err := strconv.Atoi(part)
		w, errWant := strconv.Atoi(want[i])
		if err != nil || errWant != nil {
			t.Fatalf("versions %s, %s", version, floor)
		}
		if h != w {
			return h < w
		}
	}
	return suffix != ""
}

func TestVersionsAreCompared(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		version, floor string
		want           bool
	}{
		{"v5.12.0", "v5.12.0", false},
		{"v5.12.1", "v5.12.0", false},
		{"v5.9.9", "v5.12.0", true},
		{"v6.0.0", "v5.12.0", false},
		{"v4.99.0", "v5.12.0", true},
		{"v5.12.0-rc1", "v5.12.0", true},
		{"v5.13.0-rc1", "v5.12.0", false},
	} {
		if got := below(t, c.version, c.floor); got != c.want {
			t.Errorf("%s below %s: %v", c.version, c.floor, got)
		}
	}
}
