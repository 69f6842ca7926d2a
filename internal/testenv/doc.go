// Package testenv is what the tests of every package stand on: real PostgreSQL and Redis servers, a fresh database per test,
// faults, and a goroutine leak check.
//
// Each test binary calls [Main] from its TestMain. The servers come from package devstack and live no longer than the process, even if it is killed.
//
//   - [DB] and [Postgres] give a test a database of its own, copied from a migrated template (20–30 ms). They share one cluster per test process, or, where
//     TEST_DATABASE_URL is set (as `make test` does), one for all. Roles are the cluster's and thus shared, and so are transaction ids and everything
//     else that is cluster-wide: a test that counts such things asks for [OwnPostgres].
//   - [Redis] gives a test a server process of its own (about 10 ms): channels aren't isolated by a database number.
//   - [Cluster] and [Sentinel] give it several, as a Redis Cluster or watched by Sentinels.
//   - [OwnPostgres] gives a test a cluster of its own, to crash and restart.
//   - [Proxy] stands between a client and a server and makes network faults.
//
// All of it is safe for parallel tests. Everything is stopped and dropped when the test ends, in the reverse order of the calls.
package testenv
