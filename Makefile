# `make help` lists the targets. Everything a target needs beyond Rust and Python it installs itself, once a user, into
# ${XDG_CACHE_HOME:-~/.cache}/circuit-breaker (integration/tools/install).
.DEFAULT_GOAL := help
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:

WASM := wasm32-unknown-unknown
MODULE := $(CURDIR)/target/$(WASM)/release/circuit_breaker.wasm
# The build writes the linked module beside its other intermediates; the shipped one is made from it.
LINKED := target/$(WASM)/release/deps/circuit_breaker.wasm
INSTALL := integration/tools/install
TIMED := integration/tools/timed

# `ISTIO=1.29 make test-mesh` runs against the older of the two that are tested, with the Envoy that belongs to it.
export ISTIO ?= newest
ISTIO_TOOL := $(if $(filter newest,$(ISTIO)),istio,istio-$(ISTIO))
# `ENVOY=1.36.4 make test` runs against another Envoy.
export ENVOY ?= $(if $(filter 1.29,$(ISTIO)),1.37.0,1.40.0)
export CIRCUIT_BREAKER_MODULE := $(MODULE)

.PHONY: help
help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# Panic messages name their source files: without these, each machine's paths would make another module of the same commit.
REPRODUCIBLE := --remap-path-prefix=$(or $(CARGO_HOME),$(HOME)/.cargo)=/cargo --remap-path-prefix=$(CURDIR)=/circuit-breaker

.PHONY: build
build: rust-target ## Build the module for Envoy, trimmed
	@RUSTFLAGS="$(REPRODUCIBLE)" cargo build --release --target $(WASM) -p circuit-breaker-filter --lib --locked
	@cargo run --quiet --profile tool -p circuit-breaker-trim --locked -- $(LINKED) $(MODULE) || \
	  { rm -f $(MODULE); exit 1; } # cargo has put the linked module there: it must not pass for the trimmed one

# Later versions of the module, made up for the tests that run two side by side. Each is built in a folder of its own, so
# that none can pass for the shipped one.
LATER := 2 3

.PHONY: build-later
build-later: rust-target
	@for layout in $(LATER); do \
	  RUSTFLAGS="$(REPRODUCIBLE)" cargo build --quiet --release --target $(WASM) -p circuit-breaker-filter --lib --locked \
	    --features circuit-breaker-core/layout-$$layout --target-dir target/layout-$$layout; \
	  cargo run --quiet --profile tool -p circuit-breaker-trim --locked -- \
	    target/layout-$$layout/$(WASM)/release/deps/circuit_breaker.wasm target/layout-$$layout/circuit_breaker.wasm; \
	done

.PHONY: demo
demo: build ## Watch the breaker trip, fail fast and recover in a real Envoy (45 s)
	@$(INSTALL) envoy func-e
	@cargo run --quiet --profile tool -p circuit-breaker-integration --locked --bin demo

.PHONY: run
run: build ## Keep an Envoy running with the sample configuration, for curl
	@$(INSTALL) envoy func-e
	@cargo run --quiet --profile tool -p circuit-breaker-integration --locked --bin playground

.PHONY: test
test: ## Run everything: lint, core natively and on wasm32, real Envoy
	@$(TIMED) tools lint test-core test-wasm build test-envoy

.PHONY: tools
tools: rust-target ## Install the pinned tools that the tests need
	@$(INSTALL) envoy wasm-bindgen cargo-deny

.PHONY: lint
lint: rust-target ## Check format, lints, links of code documentation, and dependencies
	@cargo fmt --all --check
	@cargo clippy --workspace --all-targets --locked -- -D warnings
	@cargo clippy -p circuit-breaker-filter --target $(WASM) --locked -- -D warnings
	@for part in "--workspace --exclude circuit-breaker-check" "-p circuit-breaker-check"; do \
	  RUSTDOCFLAGS="-D warnings -A rustdoc::private-intra-doc-links" \
	    cargo doc --quiet $$part --no-deps --document-private-items --locked || exit 1; done # apart: two things are called circuit-breaker
	@$(INSTALL) cargo-deny
	@PATH="$$(dirname "$$($(INSTALL) path cargo-deny)"):$$PATH" cargo deny --log-level error check bans licenses sources
	@integration/tools/module-dependencies

.PHONY: test-core
test-core: ## Test the core, the module's glue and the tools natively
	@cargo test -p circuit-breaker-core -p circuit-breaker-filter -p circuit-breaker-trim -p circuit-breaker-check -p circuit-breaker-image --locked

LONG := cargo test -p circuit-breaker-core --locked

.PHONY: test-long
test-long: ## What takes longer than CI may: 200,000 schedules, 1,000,000 traces
	@SCHEDULES=200000 $(LONG) --test interleavings
	@TRACES=1000000 $(LONG) --profile tool --test reference
	@PROPTEST_CASES=20000 $(LONG) --profile tool --test properties

.PHONY: test-wasm
test-wasm: rust-target ## Test the core on wasm32 under Node
	@$(INSTALL) wasm-bindgen
	@cargo test -p circuit-breaker-core --target $(WASM) --locked

.PHONY: test-envoy
test-envoy: build build-later ## Test the module in a real Envoy (ENVOY=1.36.4 for another version)
	@$(INSTALL) envoy
	@cargo test -p circuit-breaker-integration --profile tool --locked

.PHONY: soak
soak: build ## Everything at once on a real Envoy, judged from outside (10 min; SOAK_SECONDS=120 for less, SOAK_SEED=7 for the same again)
	@$(INSTALL) envoy
	@cargo run --quiet --profile tool -p circuit-breaker-integration --locked --bin soak

.PHONY: mesh
mesh: image mesh-tools ## Keep a mesh running (Kubernetes' API, istiod, gateway, sidecars) for curl and kubectl; needs root and Go
	@cargo run --quiet --profile tool -p circuit-breaker-mesh --locked --bin mesh

.PHONY: test-mesh
test-mesh: image build-later mesh-tools ## Test what istio/ gives a cluster on a real mesh (ISTIO=1.29 for the older one); needs root and Go
	@cargo test --profile tool -p circuit-breaker-mesh --locked $(MESH_TESTS)

.PHONY: mesh-tools
mesh-tools:
	@$(INSTALL) envoy etcd kubernetes $(ISTIO_TOOL) otel-collector operator-crds helm istiod-chart

.PHONY: test-alerts
test-alerts: ## Check the alerts and queries in istio/monitoring with promtool (Debian's prometheus)
	@istio/monitoring/test

.PHONY: test-log-queries
test-log-queries: ## Read the LogQL and Kusto queries in istio/monitoring with the languages' own parsers (Node with npm)
	@$(INSTALL) query-parsers
	@integration/tools/query-parsers/check "$$($(INSTALL) path query-parsers)" istio/monitoring/README.md

DASHBOARDS := istio/monitoring/dashboards

.PHONY: test-monitoring
test-monitoring: build test-alerts test-log-queries ## Ask every query of the dashboards of a real Prometheus during an outage (2 min; Debian's prometheus)
	@$(DASHBOARDS)/generate --check
	@$(INSTALL) envoy grafana-schema
	@"$$($(INSTALL) path grafana-schema)" $(DASHBOARDS)/check-schema
	@cargo run --quiet --profile tool -p circuit-breaker-integration --locked --bin monitoring

.PHONY: pictures
pictures: test-monitoring ## Draw the dashboards as that outage fills them (Debian's chromium and pngquant; 640 MB of npm packages)
	@$(INSTALL) grafana
	@node integration/tools/grafana/draw.mjs "$$($(INSTALL) path grafana | sed 's#/node_modules/.*##')" \
	  target/monitoring/answers.json $(DASHBOARDS) istio/monitoring/pictures

.PHONY: test-azure
test-azure: ## Check istio/azure offline: Bicep and JSON agree, Azure's models, checkov (UPDATE_AZURE=1 writes what is generated)
	@$(INSTALL) azure kubernetes
	@PYTHON="$$($(INSTALL) path azure)" KUBECTL="$$(dirname "$$($(INSTALL) path kubernetes)")/kubectl" istio/azure/test

.PHONY: bench
bench: build build-yardsticks ## Measure what the breaker costs, against no filter, an empty one, Lua and admission_control (15 min; PART=load: that alone)
	@$(INSTALL) envoy
	@cargo run --quiet --profile tool -p circuit-breaker-integration --locked --bin bench -- $(PART)

.PHONY: bench-gate
bench-gate: build build-yardsticks ## Fail where a request costs 3 % more than integration/bench-baseline.json says
	@$(INSTALL) envoy
	@cargo run --quiet --profile tool -p circuit-breaker-integration --locked --bin bench -- gate

.PHONY: bench-accept
bench-accept: build build-yardsticks ## Write today's cost as the baseline
	@$(INSTALL) envoy
	@cargo run --quiet --profile tool -p circuit-breaker-integration --locked --bin bench -- accept

.PHONY: bench-core
bench-core: ## Time a decision natively, against recloser, failsafe and tower-resilience (2 min)
	@cargo bench --quiet -p circuit-breaker-integration --locked --bench decisions

# What the breaker is measured against.
.PHONY: build-yardsticks
build-yardsticks: rust-target
	@cargo build --quiet --release --target $(WASM) -p circuit-breaker-empty -p circuit-breaker-rejecting --locked

.PHONY: image
image: build ## Make the OCI image of the module in target/image, the same bytes each time, and its SBOM
	@cargo run --quiet --profile tool -p circuit-breaker-image --locked -- --module $(MODULE) --output target/image \
	  --revision "$$(git describe --always --abbrev=40 --exclude '*' --dirty)" \
	  --created "$${SOURCE_DATE_EPOCH:-$$(git log -1 --format=%ct)}" $(if $(SOURCE),--source $(SOURCE))

.PHONY: test-image
test-image: ## Build the image here and in a clone elsewhere, and compare digests (a committed tree)
	@istio/image/test-reproducible

.PHONY: push
push: image ## Push it: IMAGE=registry/name, all tags, or IMAGE=registry/name:tag (SKOPEO_FLAGS for skopeo copy)
	@istio/image/push "$(IMAGE)" $(SKOPEO_FLAGS)

.PHONY: clean
clean: ## Remove what was built (not the installed tools)
	@cargo clean

.PHONY: rust-target
rust-target:
	@rustup target list --installed | grep -qx $(WASM) || rustup target add $(WASM)
