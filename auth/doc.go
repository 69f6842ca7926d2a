// Package auth says who holds a token and what that user may read.
//
// A [Verifier] turns a token into an [Identity], by a secret, a public key, or keys that it fetches from an issuer while its Run runs. A
// [Store] reads a user's [Membership] from Postgres, in one statement and so in one snapshot.
//
// Order: a Membership states the programs as of one position of the log, its Position. Changes at or below it are contained,
// changes above it will be met as control entries in the logs of their programs, on a lagging replica too. Who reads those logs
// onward from Position therefore neither misses a change nor applies one twice.
//
// Loss and duplicates: reading is all that this package does; a read that failed is an error, never an empty Membership.
//
// Blocking: Verifier.Verify uses no network; only a token that names a key unknown so far waits, for a second at most, until Run has
// asked the issuer. Store.Membership waits for a connection of the pool and for Postgres, and ends with its context. It takes no
// locks, so nobody who writes ever waits for it.
package auth
