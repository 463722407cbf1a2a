# "make" alone prints what there is. Needs Go; everything else is fetched or
# started by the targets themselves.

SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
MAKEFLAGS += --no-print-directory
.DEFAULT_GOAL := help

MODULES := events platform platform/embedded platform/broker/kafkatest sagas services/order services/payment services/inventory cmd tests
BINARIES := countermand gateway engine order payment inventory ai
LINT_VERSION := v2.15.0
LINT := bin/golangci-lint-$(LINT_VERSION)

# Settings, given as "make test RACE=0": RACE=0 runs the tests without the race
# detector, TEST_FLAGS are more flags of go test, NAME is the benchmark to run,
# ARGS are more flags of demo, dev and bench, and KAFKA=real or KAFKA=fake has
# test-kafka accept no other.
RACE ?= 1
KAFKA ?=
TEST_FLAGS ?=
NAME ?= checkout
ARGS ?=

packages = $(patsubst %,./%/...,$(1))

.PHONY: help
help: ## Show this help
	@awk 'BEGIN { FS = ":.*## " } /^[a-z-]+:.*## / { printf "  \033[1m%-12s\033[0m %s\n", $$1, $$2 }' Makefile
	@echo
	@echo 'Start with "make demo". Settings: make test RACE=0 TEST_FLAGS="-run Checkout", make bench NAME=checkout ARGS="--duration 30s"'

.PHONY: demo
demo: build ## Run the whole thing for a minute: orders, crashes, and what became of them
	@bin/countermand demo $(ARGS)

.PHONY: dev
dev: build ## Run gateway, engine and services in one process, with all state in .countermand
	@bin/countermand dev --data-dir .countermand $(ARGS)

.PHONY: build
build: ## Compile the binaries into bin/
	@test -x bin/countermand || echo 'Compiling: the first build takes 1-3 minutes, later ones a second.'
	@go build -trimpath -o bin/ $(BINARIES:%=./cmd/%)
	@echo 'Built $(BINARIES:%=bin/%)'

# The black-box tests run binaries of their own, in which the race detector sees
# nothing, and of which the test cache knows nothing; all other packages run under
# the one and with the other: TEST_FLAGS=-count=1 runs them all. The race detector
# needs a C compiler.
CC_FOUND := $(shell command -v $${CC:-gcc} 2>/dev/null || command -v cc 2>/dev/null)
RACE_FLAG := $(if $(and $(filter 1,$(RACE)),$(CC_FOUND)),-race)

# Many packages wait for servers, outages and leases more than they compute, so
# twice as many run at once as there are cores. The black-box tests fill the machine
# by themselves.
AT_ONCE = -p $(shell echo $$((2 * $$(getconf _NPROCESSORS_ONLN))))

# Linking is a third of the work when nothing has to be compiled, and a third of it is
# for debuggers.
LEAN = -ldflags=-s

# The compiler and the tests make much garbage for a short time: collecting it less
# often saves a tenth of the processor time, for some hundred megabytes.
test: export GOGC ?= 400

.PHONY: test
test: ## Run all tests, with a real PostgreSQL and NATS that it starts itself
	@$(if $(filter 1,$(RACE)),$(if $(CC_FOUND),,echo 'No C compiler was found: the tests run WITHOUT the race detector.'),echo 'The tests run without the race detector, as asked.')
	@echo 'Compiling and testing $(words $(MODULES)) modules: the first time takes several minutes; later ones run what a change can have touched, and the black-box tests.'
	@go run ./platform/embedded/cmd/withpostgres -- bash -c '\
		code=0; \
		go test $(RACE_FLAG) $(LEAN) $(AT_ONCE) -timeout 10m $(TEST_FLAGS) $(call packages,$(filter-out tests,$(MODULES))) || code=$$?; \
		export COUNTERMAND_TEST_BINARY=$$(mktemp -d)/countermand; trap "rm -r $$(dirname $$COUNTERMAND_TEST_BINARY)" EXIT; \
		go build -trimpath $(LEAN) -o $$COUNTERMAND_TEST_BINARY ./cmd/countermand && \
		go test $(LEAN) -count=1 -timeout 10m $(TEST_FLAGS) $(call packages,tests) || code=$$?; \
		exit $$code'

.PHONY: kafka
kafka: ## Run a real Apache Kafka of one node until interrupted; needs Java 17 and Maven
	@go run ./platform/broker/kafkatest/cmd/withkafka -real

.PHONY: test-kafka
test-kafka: ## Run the broker's suites and the end-to-end tests on Apache Kafka, or on a fake
	@go run ./platform/broker/kafkatest/cmd/withkafka $(KAFKA:%=-%) -- bash -c '\
		code=0; \
		go test $(RACE_FLAG) -count=1 -timeout 10m $(TEST_FLAGS) ./platform/broker/kafkatest/... || code=$$?; \
		go test -count=1 -timeout 10m $(TEST_FLAGS) ./tests/e2e/... || code=$$?; \
		exit $$code'

.PHONY: test-short
test-short: ## Run the tests that need no server, in seconds
	@go test -short $(TEST_FLAGS) $(call packages,$(MODULES))

SEEDS ?= 100000

.PHONY: sim
sim: ## Play SEEDS simulated worlds that go wrong, with sagas of all kinds
	@go test -count=1 -timeout 0 -v ./tests/sim -run 'TestShop$$|TestFlows$$' -sagatest.seeds $(SEEDS)

.PHONY: mutants
mutants: ## Break the saga engine line by line, and show that the simulation notices
	@go test -count=1 -v ./tests/sim -run TestFlaws
	@go run ./tests/sim/mutate

.PHONY: lint
lint: $(LINT) ## Check style, imports and common faults
	@$(LINT) config verify
	@for module in $(MODULES); do \
		if [ -z "$$(go list ./$$module/... 2>/dev/null)" ]; then continue; fi; \
		echo "lint $$module"; \
		(cd "$$module" && "$(CURDIR)/$(LINT)" run ./...) || failed=1; \
	done; exit $${failed:-0}

$(LINT):
	@echo 'Building golangci-lint $(LINT_VERSION), once: this takes 1-5 minutes.'
	@mkdir -p bin
	@GOWORK=off GOBIN="$(CURDIR)/bin" go install github.com/golangci/golangci-lint/v2/cmd/golangci-lint@$(LINT_VERSION)
	@mv bin/golangci-lint $@

.PHONY: fmt
fmt: $(LINT) ## Format all Go files
	@for module in $(MODULES); do (cd "$$module" && "$(CURDIR)/$(LINT)" fmt); done

# A workspace hides what a module lacks: in it, sagas may import services without
# any go.mod saying so. Each module by itself may not.
.PHONY: modules
modules: fences ## Check that every module builds by itself and imports only what it may
	@diff <(printf '%s\n' $(MODULES) | sort) <(go list -m -f '{{.Dir}}' | sed "s|^$(CURDIR)/||" | sort) \
		|| { echo 'MODULES in the Makefile and the modules of go.work differ.'; exit 1; }
	@for module in $(MODULES); do \
		echo "module $$module"; \
		(cd "$$module" && GOWORK=off go build ./... && GOWORK=off go vet ./... && GOWORK=off go mod tidy -diff) || failed=1; \
	done; exit $${failed:-0}

# fence MODULE, FORBIDDEN PACKAGES, WHY
define fence
	@deps=$$(go list -deps -test ./$(1)/...); \
	found=$$(grep -oE '^github.com/countermand/countermand/($(2))(/[^ ]*)?($$| )' <<<"$$deps" | sort -u || true); \
	if [ -n "$$found" ]; then printf '%s must not import, even in tests and at second hand: %s.\n%s\n' '$(1)' '$(3)' "$$found"; exit 1; fi
endef

# The test cache sees no files outside of the module, unless the way to them is in it.
UNSEEN = "(\.\./)+(cmd|deployments|docs|events|platform|sagas|services|tests)/|"\.\.", "(cmd|deployments|docs|events|platform|sagas|services|tests)"

.PHONY: fences
fences: ## Check the direction of imports; deleting the samples may break cmd and tests only
	@if grep -rnE '$(UNSEEN)' --include='*_test.go' $(filter-out tests,$(MODULES)); then \
		echo 'A test reads a file of another module, which the test cache does not see: link it in testdata/linked, and read it there.'; exit 1; fi
	$(call fence,events,platform|sagas|services|cmd|tests,contracts know only words)
	$(call fence,platform,events/shop|sagas|services|cmd|tests,users keep the platform and delete the samples)
	$(call fence,platform/embedded,events/shop|sagas|services|cmd|tests,users keep the platform and delete the samples)
	$(call fence,platform/broker/kafkatest,events/shop|sagas|services|cmd|tests,users keep the platform and delete the samples)
	$(call fence,sagas,services|cmd|tests,sagas and services share only words)
	$(call fence,services/order,sagas|services/payment|services/inventory|cmd|tests,services share only words)
	$(call fence,services/payment,sagas|services/order|services/inventory|cmd|tests,services share only words)
	$(call fence,services/inventory,sagas|services/order|services/payment|cmd|tests,services share only words)
	$(call fence,tests,services|cmd,the tests are black box)
	@echo 'imports run one way'

.PHONY: bench
bench: ## Run the benchmark NAME on servers it starts itself
	@echo 'Compiling and starting servers; the figures come at the end.'
	@go run ./tests/bench $(NAME) $(ARGS)

# A module of its own outside the workspace, so that nothing else here downloads
# the engines that it compares with. Nothing keeps its go.mod tidy when the modules
# that it uses change, hence -mod=mod.
.PHONY: bench-peers
bench-peers: ## Run checkout-3 on this engine, DBOS and River, on one Postgres, and print the ratios
	@echo 'Downloading and compiling the peers, then several minutes of load; the figures come at the end.' >&2
	@cd tests/bench/peers && GOWORK=off go run -mod=mod . $(ARGS)

.PHONY: bench-forwarder
bench-forwarder: ## Compare our relay with watermill's forwarder, from Postgres to JetStream, and print the ratio
	@cd tests/bench/peers && GOWORK=off go run -mod=mod ./forwarder $(ARGS)

# What nobody has released yet may still change: then the parent commit is compared
# with, and a break is told but fails nothing. A shallow clone may have neither.
AGAINST ?=

.PHONY: schemas
schemas: ## Compare the contracts with the last release, or with AGAINST=v1.2.3: breaks fail
	@against='$(AGAINST)'; released=1; \
	if [ -z "$$against" ]; then against=$$(git describe --tags --abbrev=0 --match 'v*' 2>/dev/null || true); fi; \
	if [ -z "$$against" ]; then released=0; against=$$(git rev-parse --verify --quiet HEAD^1 2>/dev/null || true); fi; \
	if [ -z "$$against" ]; then echo 'The contracts are NOT COMPARED: here is neither a tag nor a parent commit. Give AGAINST, or fetch more.'; exit 0; fi; \
	echo "Comparing the contracts with $$against"; code=0; \
	go run ./cmd/countermand schema check --against "$$against" || code=$$?; \
	if [ $$code -ne 0 ] && [ $$released -eq 0 ]; then echo 'Nothing is released, so this breaks nobody yet: it fails once there is a tag.'; exit 0; fi; \
	exit $$code

.PHONY: contract
contract: asyncapi openapi ## Check the OpenAPI documents of the gateway and the admin API, answers against it, and the AsyncAPI documents
	@cd tests/contract && GOWORK=off go test -count=1 ./...

# A module of its own outside the workspace, so that nobody who builds or tests the
# project downloads the official clients.
.PHONY: ai-clients
ai-clients: ## Run the official clients of OpenAI, Anthropic and Google through the AI route; needs Node.js 20 and npm
	@command -v node >/dev/null && command -v npm >/dev/null \
		|| { echo 'The official clients for JavaScript are NOT TESTED: node and npm are missing. Install Node.js 20 or newer.'; exit 1; }
	@cd tests/aiclients/node && npm ci --ignore-scripts --no-audit --no-fund --loglevel=error \
		&& cd .. && GOWORK=off go test -count=1 ./...

.PHONY: edge-clients
edge-clients: build ## Use the edge with the npm clients for CloudEvents, server-sent events, WebSockets and Standard Webhooks; needs Node.js 20 and npm
	@command -v node >/dev/null && command -v npm >/dev/null \
		|| { echo 'The edge is NOT TESTED with the clients for JavaScript: node and npm are missing. Install Node.js 20.3 or newer.'; exit 1; }
	@cd tests/edgeclients && npm ci --ignore-scripts --no-audit --no-fund --loglevel=error && node --test --test-reporter=spec

.PHONY: asyncapi
asyncapi: ## Check the AsyncAPI documents with the official parser; needs Node.js 18 and npm
	@command -v node >/dev/null && command -v npm >/dev/null \
		|| { echo 'The AsyncAPI documents are NOT CHECKED: node and npm are missing. Install Node.js 18 or newer.'; exit 1; }
	@cd tests/contract/asyncapi && npm ci --ignore-scripts --no-audit --no-fund --loglevel=error && node check.mjs $(CURDIR)/docs/reference/asyncapi-*.json

.PHONY: openapi
openapi: ## Lint the OpenAPI documents of the gateway and the admin API; needs Node.js 20 and npm
	@command -v node >/dev/null && command -v npm >/dev/null \
		|| { echo 'The OpenAPI documents are NOT LINTED: node and npm are missing. Install Node.js 20.19 or newer.'; exit 1; }
	@cd tests/contract/openapi && npm ci --ignore-scripts --no-audit --no-fund --loglevel=error \
		&& REDOCLY_TELEMETRY=off REDOCLY_SUPPRESS_UPDATE_NOTICE=true npx --no redocly lint --config redocly.yaml \
			$(CURDIR)/docs/reference/openapi.json $(CURDIR)/platform/admin/openapi.json

# A project of its own on free ports, so that it harms nobody's containers and data.
COMPOSE = COUNTERMAND_HTTP_PORT=0 COUNTERMAND_ADMIN_PORT=0 COUNTERMAND_ENGINE_ADMIN_PORT=0 POSTGRES_PORT=0 NATS_PORT=0 \
	docker compose --project-name countermand-check --profile app

.PHONY: compose
compose: ## Build the images, run the shop in containers, and check that an order completes; needs Docker with Compose
	@docker compose version >/dev/null 2>&1 \
		|| { echo 'The images are NOT BUILT and compose.yaml is NOT CHECKED: docker compose is missing. Install Docker with Compose 2.20.2 or newer.'; exit 1; }
	@trap 'code=$$?; [ $$code -eq 0 ] || $(COMPOSE) logs --tail 30 || true; $(COMPOSE) down --volumes || code=1; exit $$code' EXIT; \
	$(COMPOSE) build; \
	$(COMPOSE) up -d --wait --wait-timeout 120; \
	gateway=$$($(COMPOSE) port gateway 8080); admin=$$($(COMPOSE) port gateway 8081); \
	curl -sS -f -o /dev/null --retry 30 --retry-delay 1 --retry-all-errors "http://$$admin/readyz"; \
	answer=$$(curl -sS -w ' %{http_code}' "http://$$gateway/v1/orders" -H 'Content-Type: application/json' -H 'Prefer: wait=20' \
		-d '{"customer":"ada","currency":"EUR","items":[{"sku":"TEA-001","quantity":2}],"payment":{"token":"tok_ok"}}'); \
	echo "$$answer"; [[ "$$answer" == *'"status":"completed"'*' 201' ]] || { echo 'The order did not complete.'; exit 1; }

.PHONY: generate
generate: ## Write again what is generated from code, such as JSON Schemas, AsyncAPI and OpenAPI documents
	@go generate $(call packages,$(MODULES))
	@cd events && go test ./shop ./ai -run CommittedSchemas -update
	@cd cmd && go test ./internal/wire -run 'TestAsyncAPI|TestOpenAPI' -update

.PHONY: clean
clean: ## Remove binaries and the state of "make dev"
	@rm -rf bin dist .countermand
	@echo 'Removed bin, dist and .countermand'
