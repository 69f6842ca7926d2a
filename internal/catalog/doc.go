// Package catalog turns one file, a catalog of events with the shape of their data, into everything that must agree with it: Go
// constants for the writers, TypeScript types for the readers, and an AsyncAPI document of the WebSocket protocol.
//
// The catalog of this repository is outbox/catalog.json; `make generate` writes its outputs, and a test fails when one is stale. An
// application's own goes through `outbox-relay catalog`. docs/CATALOG.md says how to write one.
//
// It imports nothing of this module, so that it can repair generated code that doesn't compile.
package catalog
