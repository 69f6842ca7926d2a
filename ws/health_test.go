package ws

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/outboxrelay/outboxrelay/auth"
)

// Reads that fail are the node's state unless it is a single user's, as far as can be told.
func TestReadsOfSingleUsersFail(t *testing.T) {
	t.Parallel()
	refused := func(user string) error { return &auth.ReadError{UserID: user, OfRows: true} }
	late := func(user string) error {
		return fmt.Errorf("%w: %w", &auth.ReadError{UserID: user}, context.DeadlineExceeded)
	}
	cut := &auth.ReadError{UserID: "u1"}
	for name, test := range map[string]struct {
		errs []error // of reads one after the other; nil: a good one
		want bool    // degraded
		told int     // lines about single users
	}{
		"one user again and again":          {[]error{refused("u1"), refused("u1"), refused("u1")}, false, 1},
		"two users":                         {[]error{refused("u1"), refused("u2")}, true, 1},
		"two users, and one between":        {[]error{refused("u1"), nil, refused("u2")}, false, 1},
		"two users, and then another":       {[]error{refused("u1"), refused("u2"), nil}, false, 1},
		"no connection":                     {[]error{nil, cut}, true, 0},
		"nobody is answered in time":        {[]error{nil, late("u1")}, true, 0},
		"something else than a user's read": {[]error{errors.New("x")}, true, 0},
	} {
		synctest.Test(t, func(t *testing.T) {
			var log bytes.Buffer
			h := newHealth(slog.New(slog.NewTextHandler(&log, nil)), prometheus.NewGaugeVec(prometheus.GaugeOpts{}, []string{"state"}))
			for _, err := range test.errs {
				began := time.Now()
				time.Sleep(time.Second)
				h.read(began, err)
				time.Sleep(time.Second)
			}
			told := strings.Count(log.String(), "of a user can't be read")
			if degraded := len(h.reasons()) > 0; degraded != test.want || told != test.told {
				t.Errorf("%s: degraded %v, want %v; %d lines, want %d:\n%s", name, degraded, test.want, told, test.told, log.String())
			}
		})
	}
	synctest.Test(t, func(t *testing.T) {
		h := newHealth(slog.New(slog.DiscardHandler), prometheus.NewGaugeVec(prometheus.GaugeOpts{}, []string{"state"}))
		began := time.Now()
		time.Sleep(time.Second)
		h.read(began, nil)
		time.Sleep(time.Second)
		h.read(began, late("u1"))
		if r := h.reasons(); len(r) > 0 {
			t.Errorf("others were answered while a row hung: %q", r)
		}
		h.read(began, refused("u2")) // at the same time, of one statement
		h.read(began, refused("u3"))
		if r := h.reasons(); len(r) > 0 {
			t.Errorf("two users failed at the same time: %q", r)
		}
	})
}
