package auth_test

import (
	"testing"
	"time"

	"github.com/outboxrelay/outboxrelay/auth"
)

// verification returns what a handshake does with a token.
func verification(t testing.TB) func() {
	t.Helper()
	c := auth.Config{Secret: []byte("kJ8sd7FhQ2mZx0PvLr5TnYw3BcEu6AgD")}
	v, err := auth.NewVerifier(c)
	if err != nil {
		t.Fatal(err)
	}
	token, err := c.Mint("u1", time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	return func() {
		if _, err := v.Verify(t.Context(), token); err != nil {
			t.Fatal(err)
		}
	}
}

func BenchmarkVerify(b *testing.B) {
	verify := verification(b)
	b.ReportAllocs()
	for b.Loop() {
		verify()
	}
}

// TestVerifyAllocations fails when a handshake's token costs more allocations than it did when the bound was set.
func TestVerifyAllocations(t *testing.T) {
	const most = 59
	if got := testing.AllocsPerRun(100, verification(t)); got > most {
		t.Errorf("one token: %.0f allocations, at most %d before", got, most)
	}
}
