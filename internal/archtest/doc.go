// Package archtest has no code, only tests that hold the repository's structure: who may import whom, and that generated code is fresh.
package archtest
