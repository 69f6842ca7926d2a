// Package scenario runs whole systems under load and faults, and judges what clients received against what writers committed.
//
// `make faults` runs every fault, `go run ./internal/scenario/chaos` the same judge against a stack of your own.
//
// A [World] is a Postgres, a Redis and any number of [Node]s: the real binary as real processes, to be killed, paused and restarted. A [Journal] writes
// transactions and remembers what it did and when. A [Client] follows the protocol from outside: it connects with a token, resumes with its
// positions, and records every event it is given. [Journal.Check] is independent of the product's code: it compares journal, table and
// clients, and reports what is missing, was never committed, came out of order, or was repeated otherwise than exactly.
//
// A [Churn] lets memberships come and go meanwhile; its check knows from the journal who must, may and must not have received an event. What it does is drawn
// from a seed, which SCENARIO_SEED sets.
package scenario
