# Everything that a fresh clone needs, each with one command. `make` alone lists what there is.

CARGO ?= cargo
# Absolute, because what runs from here runs in other folders too.
export CARGO_TARGET_DIR := $(if $(CARGO_TARGET_DIR),$(abspath $(CARGO_TARGET_DIR)),$(CURDIR)/target)
export TOOLS_DIR := $(if $(TOOLS_DIR),$(abspath $(TOOLS_DIR)),$(CURDIR)/.tools)

# Fixed, wherever cargo builds: docs, tests and people point at these.
export PARTI_PLUGINS := $(CURDIR)/target/plugins
export PARTI_TEST_COMPONENTS := $(CURDIR)/target/test-components
export PARTI_BIN := $(CARGO_TARGET_DIR)/release/parti

# Every Cargo workspace of the clone; guests are apart from the host because they are built for WebAssembly.
GUESTS := plugins/Cargo.toml $(wildcard tests/components/Cargo.toml)
HOSTS := Cargo.toml guest-sdk/rust/Cargo.toml scripts/componentize/Cargo.toml

# The tests run against the newest server that Parti knows and against the oldest that it supports.
NEWEST := 2.15.1
OLDEST := 2.10.26

# Targets set up tools and run cargo, which serialises itself; one at a time keeps the output readable.
.NOTPARALLEL:
.PHONY: help demo test check build plugins test-components setup-test fmt bench setup clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-8s  %s\n", $$1, $$2 }' Makefile
	@echo
	@echo "Settings, from the environment:"
	@awk -F ' = ' '/^#= / { printf "  %-21s %s\n", substr($$1, 4), $$2 }' Makefile

#= DEMO_SECONDS = end the demo by itself after about this long, with a summary
#= NATS_SERVER = nats-server 2.10 or later to use; default: the PATH, else a pinned one in .tools/
#= PARTI_WASM_TOOLCHAIN = rustup, rust-src or auto (default): how plugins are compiled, see scripts/wasm-toolchain
#= CARGO_TARGET_DIR = where cargo builds; components go to target/plugins/ in any case
#= TOOLS_DIR = where set-up puts what it fetches; default .tools

demo: setup plugins build ## See a fleet at work: nats-server, a producer, three workers
	@NATS_SERVER="$$(scripts/nats-server)" && export NATS_SERVER && exec "$(PARTI_BIN)" dev --demo

test: setup fmt plugins test-components build setup-test ## Run every test
	$(CARGO) test --release --workspace --locked --manifest-path guest-sdk/rust/Cargo.toml
	$(CARGO) test --release --workspace --locked --manifest-path plugins/Cargo.toml
	@NATS_SERVER="$$(scripts/nats-server $(NEWEST))" && NATS_SERVER_2_10="$$(scripts/nats-server $(OLDEST))" && \
	  export NATS_SERVER NATS_SERVER_2_10 && $(CARGO) test --release --workspace --locked
	@echo "make test: every test passed"

check: fmt ## Check formatting and lints
	@$(foreach manifest,$(HOSTS) $(GUESTS),$(CARGO) clippy --release --workspace --all-targets --locked \
	  --manifest-path $(manifest) -- -D warnings && ) true
	@echo "make check: nothing to complain about"

build: ## Build the parti binary
	$(CARGO) build --release --workspace --locked

plugins: ## Build the plugins into target/plugins/
	@scripts/components plugins "$(PARTI_PLUGINS)"

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
