package main

import (
	"context"
	"errors"

	"github.com/outboxrelay/outboxrelay/outbox"
	"github.com/outboxrelay/outboxrelay/relay"
	"github.com/outboxrelay/outboxrelay/ws"
)

// history joins the relay's reading half to the interface through which a Hub reads: the two packages don't know each other.
type history struct{ *relay.History }

var _ ws.Log = history{}

// After implements ws.Log.
func (h history) After(ctx context.Context, program string, after int64, limit int) (ws.Page, error) {
	page, err := h.History.After(ctx, program, after, limit)
	return toPage(page), toError(err)
}

// Before implements ws.Log.
func (h history) Before(ctx context.Context, program string, before, after int64, limit int) (ws.Page, error) {
	page, err := h.History.Before(ctx, program, before, after, limit)
	return toPage(page), toError(err)
}

func toPage(p relay.Page) ws.Page {
	page := ws.Page{Through: p.Through, Newest: p.Newest, Head: p.Head}
	if len(p.Entries) > 0 {
		page.Entries = make([]ws.Entry, len(p.Entries))
	}
	for i, e := range p.Entries {
		page.Entries[i] = ws.Entry{Position: e.Position, Frame: e.Frame, Control: (*ws.Control)(e.Control)}
	}
	return page
}

func toError(err error) error {
	switch {
	case errors.Is(err, outbox.ErrExpired):
		return ws.ErrExpired
	case errors.Is(err, outbox.ErrReplaced):
		return ws.ErrReplaced
	}
	return err
}
