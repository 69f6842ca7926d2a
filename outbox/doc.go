// Package outbox is what an application imports to emit events, and what the relay reads them with.
//
// An event is a row of relay.outbox, written by [Emit] or [EmitSQL] (or the SQL function relay.emit) in the transaction of the change
// that it tells of:
//
//	tx, err := pool.Begin(ctx)
//	…                                         // the change itself
//	_, err = outbox.Emit(ctx, tx, outbox.Event{
//		Program: "p1", Name: outbox.RequestCreated, Request: "r1",
//		Data: map[string]any{"title": "New door"},
//		By:   outbox.Actor{UserID: "u1", Name: "Ann Lee"},
//	})
//	err = tx.Commit(ctx)
//
// Loss and phantoms: the row commits or rolls back with the change; there is no second write that could be missing. Order: events of
// one transaction keep the order of the Emit calls; a transaction that begins after another one's COMMIT returned comes after it;
// concurrent transactions come in any order, the same for every reader. Blocking: an Emit costs its INSERT and waits for nobody:
// neither for the relay nor for Redis nor for a client.
//
// # Reading
//
// The relay's half ([Next], [CommitLarge], [Replay], [ReadHistory], …) reads by snapshot. A [Tick] is the record of what was relayed at once; its snapshot is
// the cursor: the next batch is exactly what this snapshot doesn't see and the current one does. So a transaction that commits late
// is neither skipped nor waited for. Rows of a batch are ordered by (control DESC, id) and have consecutive
// positions; what had been committed before a membership change is a batch of its own.
package outbox
