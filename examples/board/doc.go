// Package board is a small application that emits events: requests in columns by status, per program, with comments and attachments, and
// the page that shows them. `outbox-relay dev` serves it; its code is there to be copied.
//
// Each change is one transaction that writes the application's own tables and emits the event that tells of it (transactions.go); that
// is all an application has to do. The page gives the browser client two functions, one that reads the state over HTTP and one that takes an
// event (follow in page/app.js): the client calls the first when the events begin and after a gap, and the second for each event, once and in
// order.
//
// Order: a change locks its request's row before it emits, so the events of one request have the order of its changes. Loss and
// phantoms: the event commits or rolls back with the change; [Handler] has one route that does everything and rolls back. Blocking:
// a request waits for Postgres alone, never for the relay, Redis or another client. Memory: at most 10,000 signed-in tokens are remembered.
//
// It is a demonstration: anybody may sign in as any of its users, so it belongs on a developer's machine only.
package board
