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

// Watch implements ws.Log.
func (h history) Watch(ctx context.Context, wake func(string, ws.News)) error {
	return h.History.Watch(ctx, func(topic string, news relay.News) {
		wake(topic, ws.News{After: news.After, Entries: toEntries(news.Entries)})
	})
}

func toPage(p relay.Page) ws.Page {
	return ws.Page{Entries: toEntries(p.Entries), Through: p.Through, More: p.More, Newest: p.Newest, Head: p.Head}
}

func toEntries(list []relay.Entry) []ws.Entry {
	entries := make([]ws.Entry, len(list))
	for i, e := range list {
		entries[i] = ws.Entry{Position: e.Position, Frame: e.Frame, Control: (*ws.Control)(e.Control)}
	}
	return entries
}

func toError(err error) error {
	if errors.Is(err, outbox.ErrExpired) {
		return ws.ErrExpired
	}
	return err
}
