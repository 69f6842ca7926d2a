//go:build linux

// Command bench measures outbox-relay, and beside it the floor: the shortest program that does the visible part with the same library.
//
//	go run ./bench                      all scenarios, medians of 3 rounds
//	go run ./bench -run latency,storm   some of them
//	go run ./bench -quick               three scenarios, one round
//
// It starts Postgres, Redis and, afresh for every run, the server that is measured: the real binary in a process of its own, whose CPU and
// memory are read from /proc. The load generator is this process: writers that commit transactions, and a lean WebSocket client (one thread
// per loop of epoll) whose CPU is reported beside the server's. Runs of outbox-relay and of the floor alternate.
//
// Every event carries its stream, its number there and its time. Each run is checked: a lost, repeated, reordered or misdirected event, or two clients
// that saw one program in different orders, end the program with exit code 1. Missed targets don't: times are not stable enough.
//
// Order: a stream has one writer, which begins a transaction only after the last one's COMMIT has returned. So its events must arrive in order.
// Memory: what is remembered of sent events is bounded by the plan; a run that would exceed it fails.
package main
