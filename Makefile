# Everything that a fresh clone needs, each with one command. `make` alone lists what there is.

CARGO ?= cargo
# Absolute, because what runs from here runs in other folders too.
export CARGO_TARGET_DIR := $(if $(CARGO_TARGET_DIR),$(abspath $(CARGO_TARGET_DIR)),$(CURDIR)/target)
export TOOLS_DIR := $(if $(TOOLS_DIR),$(abspath $(TOOLS_DIR)),$(CURDIR)/.tools)

# Fixed, wherever cargo builds: docs, tests and people point at these.
export PARTI_PLUGINS := $(CURDIR)/target/plugins
export PARTI_TEST_COMPONENTS := $(CURDIR)/target/test-components
POLYGLOT := $(CURDIR)/target/plugins-polyglot
export PARTI_BIN := $(CARGO_TARGET_DIR)/release/parti

# Every Cargo workspace of the clone; guests are apart from the host because they are built for WebAssembly.
GUESTS := plugins/Cargo.toml $(wildcard tests/components/Cargo.toml)
HOSTS := Cargo.toml guest-sdk/rust/Cargo.toml scripts/componentize/Cargo.toml plugins/polyglot/c/bindings/Cargo.toml

# The tests run against the newest server that Parti knows and against the oldest that it supports.
NEWEST := 2.15.1
OLDEST := 2.10.26

# End-to-end tests mostly wait: for processes, for leases.
E2E_THREADS := 6

# Targets set up tools and run cargo, which serialises itself; one at a time keeps the output readable.
.NOTPARALLEL:
.PHONY: help demo test sim soak check build plugins plugins-polyglot test-polyglot test-components setup-test fmt bench setup clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-16s  %s\n", $$1, $$2 }' Makefile
	@echo
	@echo "Settings, from the environment:"
	@awk -F ' = ' '/^#= / { printf "  %-21s %s\n", substr($$1, 4), $$2 }' Makefile

#= DEMO_SECONDS = end the demo by itself after about this long, with a summary
#= SEED = the one seed that `make sim` replays
#= SOAK_MINUTES = how long `make soak` runs; default 60
#= NATS_SERVER = nats-server 2.10 or later to use; default: the PATH, else a pinned one in .tools/
#= PARTI_WASM_TOOLCHAIN = rustup, rust-src or auto (default): how plugins are compiled, see scripts/wasm-toolchain
#= CARGO_TARGET_DIR = where cargo builds; components go to target/plugins/ in any case
#= TOOLS_DIR = where set-up puts what it fetches; default .tools

demo: setup plugins build ## See a fleet at work: nats-server, a producer, three workers
	@NATS_SERVER="$$(scripts/nats-server)" && export NATS_SERVER && exec "$(PARTI_BIN)" dev --demo

test: setup fmt plugins test-components build setup-test ## Run every test
	$(CARGO) test --release --workspace --all-features --locked --manifest-path guest-sdk/rust/Cargo.toml
	$(CARGO) test --release --workspace --locked --manifest-path plugins/Cargo.toml
	@NATS_SERVER="$$(scripts/nats-server $(NEWEST))" && NATS_SERVER_2_10="$$(scripts/nats-server $(OLDEST))" && \
	  export NATS_SERVER NATS_SERVER_2_10 && $(CARGO) test --release --workspace --exclude parti-tests --locked && \
	  RUST_TEST_THREADS=$(E2E_THREADS) $(CARGO) test --release -p parti-tests --locked
	@echo "make test: every test passed"

sim: ## Simulate fleets under faults; SEED=n replays one, SEEDS=from..to runs those
	PARTI_SEEDS=$(if $(SEED),$(SEED)..$(shell expr $(SEED) + 1),$(or $(SEEDS),0..12000)) $(CARGO) test --release --locked \
	  -p parti-coordination --lib coordinator::tests::simulation -- --nocapture

soak: setup plugins test-components build ## What takes longer than tests should: SOAK_MINUTES of simulation, a larger model, long outages
	PARTI_SOAK_MINUTES=$(or $(SOAK_MINUTES),60) $(CARGO) test --release --locked \
	  -p parti-coordination --lib -- --nocapture --test-threads 1 simulation::soak one_history
	@NATS_SERVER="$$(scripts/nats-server $(NEWEST))" && NATS_SERVER_2_10="$$(scripts/nats-server $(OLDEST))" && \
	  export NATS_SERVER NATS_SERVER_2_10 && \
	  PARTI_SOAK=1 PARTI_SOAK_MINUTES=$(or $(SOAK_MINUTES),60) RUST_TEST_THREADS=$(E2E_THREADS) $(CARGO) test --release -p parti-tests --locked

test-polyglot: setup plugins test-components plugins-polyglot build ## Test the plugins in Python, JavaScript and C, in a fleet
	@NATS_SERVER="$$(scripts/nats-server $(NEWEST))" && export NATS_SERVER && \
	  PARTI_POLYGLOT="$(POLYGLOT)" $(CARGO) test --release -p parti-tests --locked -- --test-threads 1 polyglot

check: fmt ## Check formatting and lints
	@$(foreach manifest,$(HOSTS) $(GUESTS),$(CARGO) clippy --release --workspace --all-targets --all-features --locked \
	  --manifest-path $(manifest) -- -D warnings && ) true
	@echo "make check: nothing to complain about"

build: ## Build the parti binary
	$(CARGO) build --release --workspace --locked

plugins: ## Build the plugins into target/plugins/
	@scripts/components plugins "$(PARTI_PLUGINS)"

plugins-polyglot: ## Build the plugins in Python, JavaScript and C into target/plugins-polyglot/ (fetches 300 MB of tools)
	@scripts/polyglot "$(POLYGLOT)"

bench: setup plugins build ## Measure throughput and latency against the bare client
	@NATS_SERVER="$$(scripts/nats-server)" && export NATS_SERVER && exec "$(PARTI_BIN)" bench

setup: ## Get what the other targets need: a WebAssembly toolchain, a nats-server
	@toolchain="$$(scripts/wasm-toolchain)" && echo "wasm toolchain: $$toolchain"
	@server="$$(scripts/nats-server)" && echo "nats-server: $$server"

clean: ## Remove what was built and fetched in this clone
	rm -rf target .tools

# Parts of the above.

test-components:
ifneq ($(wildcard tests/components/Cargo.toml),)
	@scripts/components tests/components "$(PARTI_TEST_COMPONENTS)"
endif

setup-test:
	@python3 scripts/setup_test.py

fmt:
	@$(foreach manifest,$(HOSTS) $(GUESTS),$(CARGO) fmt --all --check --manifest-path $(manifest) && ) true
