// Command outbox-relay carries committed events from Postgres to authenticated WebSocket clients.
//
// It is the only place that knows all packages, and the only one that reads the environment (config.go). `serve` runs a [relay.Relay], a [ws.Hub] or both;
// `dev` runs the same on services that it starts itself; the other commands are small.
//
// Order, loss and duplicates are the packages' business: see relay and ws. Blocking: on a signal serve closes its listener, then the
// sockets (spread over SHUTDOWN_GRACE), then the relay, then the connections to Postgres and Redis; each is gone before the next is told. A second
// signal ends the process at once.
//
// Exit codes: 0, 1 (failed), 2 (usage or bad settings). Errors are lines on stderr that say what to do.
package main
