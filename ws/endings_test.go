package ws

import (
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestCloseCodesAreDocumented compares the table of close codes in docs/PROTOCOL.md with the endings in protocol.go, both ways.
func TestCloseCodesAreDocumented(t *testing.T) {
	t.Parallel()
	endings := []*ending{
		endAuthRequired, endAuthTimeout, endInvalidToken, endTokenExpired, endUserInactive, endConnectionLimit, endNoPong, endSlowConsumer, endRateLimited,
		endBadFrame, endBinary, endTooBig, endProtocolError, endRestart, endTryLater,
	}
	source, err := os.ReadFile("protocol.go")
	if err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(string(source), "= &ending{"); n != len(endings)+1 { // endGone sends nothing
		t.Errorf("protocol.go has %d endings, this test knows %d: add the new ones here and to docs/PROTOCOL.md", n, len(endings)+1)
	}
	want := map[string]bool{}
	for _, e := range endings {
		want[fmt.Sprint(int(e.status), " ", e.code)] = true
	}
	document, err := os.ReadFile("../docs/PROTOCOL.md")
	if err != nil {
		t.Fatal(err)
	}
	_, table, _ := strings.Cut(string(document), "### Close codes")
	table, _, _ = strings.Cut(table, "\n#")
	got := map[string]bool{}
	number := regexp.MustCompile(`\d{4}`)
	for line := range strings.Lines(table) {
		cells := strings.Split(line, "|")
		if len(cells) != 6 || !number.MatchString(cells[3]) {
			continue
		}
		code := strings.Trim(strings.Fields(cells[2])[0], "`–")
		for _, status := range number.FindAllString(cells[3], -1) {
			frame := code
			if status == "1002" { // "where it can be sent": after a protocol error nothing can
				frame = ""
			}
			got[status+" "+frame] = true
			final := status >= "4500" || slices.Contains([]string{"1002", "1003", "1007", "1009"}, status)
			if final != strings.HasPrefix(strings.TrimSpace(cells[4]), "not retry") {
				t.Errorf("%s: a client should %s", status, strings.TrimSpace(cells[4]))
			}
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("docs/PROTOCOL.md isn't what the code says (-code +document):\n%s", diff)
	}
}
