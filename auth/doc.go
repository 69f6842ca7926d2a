// Package auth says who holds a token and what that user may read.
//
// A [Verifier] turns a token into an [Identity]; it needs no network and never blocks. A [Store] reads a user's [Membership]
// from Postgres, in one statement and so in one snapshot.
//
// Order: a Membership states the programs as of one position of the log, its Position. Changes at or below it are contained,
// changes above it will be met as control entries in the logs of their programs, on a lagging replica too. Who reads those logs
// onward from Position therefore neither misses a change nor applies one twice.
//
// Loss and duplicates: reading is all that this package does; a read that failed is an error, never an empty Membership.
//
// Blocking: Store.Membership waits for a connection of the pool and for Postgres, and ends with its context. It takes no
// locks, so nobody who writes ever waits for it.
package auth
