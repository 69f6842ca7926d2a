# `make help` lists the targets.

GO ?= go
RUN = scripts/with-cc $(GO) run ./internal/testenv/run --
TOOLS = bin/tools
# What test-long tests in full size.
LONG = ./...
# Every Go file that a person wrote.
SOURCES = $(shell find . -name '*.go' -not -path './bin/*' -not -path '*/node_modules/*' -not -path './.*/*' | xargs grep -L '^// Code generated')

.DEFAULT_GOAL := help
.PHONY: help dev build client test test-long churn faults soak fuzz test-browser test-client screenshots model bench bench-quick bench-curves bench-micro
.PHONY: check-fmt check-generated fmt generate lint vuln clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  \1\t/' | expand -t 20

dev: build ## everything on this machine: services, relay, WebSocket server, demo page
	@exec bin/outbox-relay dev

build: ## the binary, in bin/
	$(GO) build -o bin/outbox-relay ./cmd/outbox-relay

client: ## the browser client: its package, and the one file of it that is committed
	cd client && npm ci --ignore-scripts --no-audit --no-fund --loglevel=error && npm run build --silent

test: check-fmt ## all tests in small sizes, with what they need, in under 5 minutes
	$(RUN) $(GO) test -race -timeout 4m ./...

test-long: lint check-generated ## the full sizes, linters and generated code, in under 20 minutes
	OUTBOX_RELAY_LONG=1 $(RUN) $(GO) test -race -timeout 4m -run InASilentSystem ./internal/scenario
	$(if $(filter ./...,$(LONG)),$(MAKE) churn)
	OUTBOX_RELAY_LONG=1 $(RUN) $(GO) test -race -timeout 16m -skip 'InASilentSystem|MembershipsChurn' $(LONG)

churn: build ## memberships that change under 500 events a second, judged; without the race detector, in 3 minutes (SCENARIO_SEED=n repeats a run)
	SCENARIO_BINARY=$(CURDIR)/bin/outbox-relay OUTBOX_RELAY_LONG=1 $(RUN) $(GO) test -count=1 -timeout 10m -v -run MembershipsChurn ./internal/scenario

faults: build ## every fault on whole systems, one line each, in about a quarter of an hour (FAULTS_SEED=n repeats a run)
	SCENARIO_BINARY=$(CURDIR)/bin/outbox-relay OUTBOX_RELAY_FAULTS=1 $(RUN) $(GO) test -C internal/scenario -count=1 -timeout 40m -run 'TestFaults$(if $(FAULT),/$(FAULT))'

soak: build ## the same with other seeds, again and again, for SOAK (1h)
	SOAK=$(or $(SOAK),1h) SCENARIO_BINARY=$(CURDIR)/bin/outbox-relay OUTBOX_RELAY_FAULTS=1 $(RUN) $(GO) test -C internal/scenario -count=1 -timeout 0 -run 'TestFaults$(if $(FAULT),/$(FAULT))'

fuzz: ## each fuzz target for FUZZTIME (30s), or the one FUZZ=name
	FUZZTIME=$(or $(FUZZTIME),30s) GO=$(GO) scripts/fuzz $(FUZZ)

test-browser: build ## the demo page in a headless browser
	scripts/browser-test

screenshots: build ## the pictures of the demo page in docs/
	scripts/browser-test screenshots.js

test-client: build ## the browser client: types, lint, size, package, under a fake clock and against the server
	scripts/client-test

bench: build ## all scenarios beside the floor, medians of 3 rounds, in about 5 minutes (docs/PERFORMANCE.md)
	$(GO) run ./bench -binary bin/outbox-relay -json bin/bench.json

bench-quick: build ## three scenarios, one round, in under 2 minutes
	$(GO) run ./bench -binary bin/outbox-relay -quick -limit 2m

bench-curves: build ## how cost grows, with plots, into docs/
	$(GO) run ./bench -binary bin/outbox-relay -curves docs

bench-micro: ## the hot paths, 6 times each, for benchstat
	$(GO) test -run '^$$' -bench . -benchmem -count 6 ./migrations ./relay ./ws ./auth

model: ## the model of the relay's core, verified exhaustively, and its mutants refuted (spin)
	scripts/model

check-fmt: $(TOOLS)/gofumpt ## formatting, without changing anything
	@out=$$($(TOOLS)/gofumpt -l $(SOURCES)) && [ -z "$$out" ] || { echo "run \`make fmt\`:"; echo "$$out"; exit 1; }

check-generated: $(TOOLS)/sqlc ## that generated code is what sqlc would generate
	$(TOOLS)/sqlc diff

fmt: $(TOOLS)/gofumpt ## format all Go files
	$(TOOLS)/gofumpt -w $(SOURCES)

generate: $(TOOLS)/sqlc ## what is made by sqlc, and from the catalog of events
	UPDATE_GENERATED=1 $(GO) test -count=1 -run 'Fresh|Own' ./internal/catalog
	$(TOOLS)/sqlc generate
	UPDATE_GENERATED_SUM=1 $(GO) test -count=1 -run TestGeneratedCodeIsFresh ./internal/archtest

lint: $(TOOLS)/golangci-lint ## linters (tools/golangci.yml)
	$(TOOLS)/golangci-lint run --config tools/golangci.yml ./...

vuln: $(TOOLS)/govulncheck ## known vulnerabilities in what is linked
	$(TOOLS)/govulncheck ./...

clean: ## delete what was built here (not the caches)
	rm -rf bin

# Tools are built once, from the versions that tools/go.mod pins.
$(TOOLS)/sqlc: PKG = github.com/sqlc-dev/sqlc/cmd/sqlc
$(TOOLS)/gofumpt: PKG = mvdan.cc/gofumpt
$(TOOLS)/golangci-lint: PKG = github.com/golangci/golangci-lint/v2/cmd/golangci-lint
$(TOOLS)/govulncheck: PKG = golang.org/x/vuln/cmd/govulncheck
$(TOOLS)/goose: PKG = github.com/pressly/goose/v3/cmd/goose
$(TOOLS)/%: tools/go.mod tools/go.sum
	scripts/with-cc $(GO) -C tools build -o ../$@ $(PKG)
