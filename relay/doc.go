// Package relay carries committed events from the outbox to the programs' logs in Redis, and reads those logs.
//
// [Relay] is the writing half. One relay leads (an advisory lock of its one Postgres session); it reads what its cursor, the snapshot of
// the last tick, doesn't see, commits a tick, and only then appends the batch to Redis. [History] is the reading half: Redis for the last
// minutes, the outbox for what is older, the same entries with the same positions from both.
//
// Order: one per program, that of the positions. Loss: none. A wake-up may be lost (there is a fallback poll); Redis may lose
// anything (a log whose end is missing is refilled from the outbox before anything newer is appended); the relay may be killed anywhere
// (the next session first publishes the newest tick again). Duplicates: an append of what is there already is skipped by position, so
// readers of a log meet none.
//
// Blocking: writers wait for nobody. The relay waits for Redis for as long as it takes, with its tick committed and the outbox as the buffer,
// and keeps its Postgres session alive meanwhile. At most the newest tick is unpublished.
package relay
