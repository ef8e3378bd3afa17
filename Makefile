# Everything a person types here: `make` lists it. Sets up its own virtual environment; installs nothing elsewhere.

PYTHON ?= python3
CARGO ?= cargo
FUZZ_SECONDS ?= 3600
# Of `make soak`.
SECONDS ?= 1800
# Of `make accuracy`: PEERS=1 compares with other programs, DATAGRAMS=0 leaves the generators out.
PEERS ?=
DATAGRAMS ?= 1e9

VENV := .venv
BIN := $(VENV)/bin
PY := $(BIN)/python
TARGET := $(or $(CARGO_TARGET_DIR),target)
PIP := $(PY) -m pip --disable-pip-version-check --quiet
SOURCES := $(shell find core/src -name '*.rs') core/Cargo.toml Cargo.toml $(wildcard Cargo.lock) pyproject.toml
EXTENSION := $(wildcard classifier/_core.abi3.so)

# Where rustup puts its programs, for a shell that has not been opened anew since.
export PATH := $(PATH):$(HOME)/.cargo/bin
# For maturin and PyO3: this environment, whatever other one is active.
export VIRTUAL_ENV = $(CURDIR)/$(VENV)
export PYO3_PYTHON = $(CURDIR)/$(PY)
unexport CONDA_PREFIX

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.NOTPARALLEL:
.PHONY: help demo test test-tools lab bench bench-live soak instructions profile accuracy corpus-replay lint format-check clippy lint-python stubs cargo-test fuzz wheel bundle clean force

help:  ## List these targets
	@sed -n 's/^\([a-z-]*\):.*  ## \(.*\)/  make \1\t\2/p' $(firstword $(MAKEFILE_LIST)) | expand -t 20

demo: $(VENV)/.built  ## Set up, replay pcaps/ against rules/ and show what was found
	@mkdir -p .make
	@# Status 4 is as it should be: pcaps/ has a capture that ends inside a record.
	@$(BIN)/vpn-classifier replay pcaps/ --rules rules/ -o .make/demo.jsonl || [ $$? -eq 4 ]
	@flow=$$($(PY) -c '$(FIRST_FLAGGED)' .make/demo.jsonl) && printf '\n%s\n  %s\n%s\n  %s\n%s\n  %s\n' \
	  'Why a row was flagged:' '$(BIN)/vpn-classifier explain .make/demo.jsonl --flow '"$$flow" \
	  'A capture of your own:' '$(BIN)/vpn-classifier replay YOUR.pcap --rules rules/' \
	  'The tests:' 'make test'

test: test-tools $(VENV)/.built $(VENV)/.dev cargo-test  ## Set up and run every test, Rust and Python
	$(PY) -m pytest -p tests.no_skips

lab: test-tools $(VENV)/.built $(VENV)/.dev  ## Real VPN programs, watch and Prometheus in namespaces, to try and to pull at
	@$(PY) tests/make_lab.py

bench: $(VENV)/.built $(VENV)/.dev  ## Print the table of speeds, 20 minutes (QUICK=1: 3; WRITE=1: keep it in bench/)
	$(CARGO) build --release --locked --package vpn-classifier-bench
	$(PY) -m bench --programs '$(TARGET)/release' $(if $(QUICK),--quick) $(if $(WRITE),--write)

instructions: $(VENV)/.dev  ## Count instructions per packet (callgrind); UPDATE=1 writes the figures that CI holds
	$(if $(shell command -v valgrind),,$(error Please install valgrind (apt-get install valgrind)))
	$(CARGO) build --release --locked --package vpn-classifier-bench
	$(PY) -m bench.instructions --programs '$(TARGET)/release' $(if $(UPDATE),--update)

profile: $(VENV)/.built $(VENV)/.dev  ## Print where the time of a packet goes (perf); UPDATE=1 writes docs/performance.md
	$(if $(shell command -v perf),,$(error Please install perf (apt-get install linux-perf)))
	$(CARGO) build --release --locked --package vpn-classifier-bench
	$(PY) -m bench.where --programs '$(TARGET)/release' $(if $(UPDATE),--update)

bench-live: $(VENV)/.built $(VENV)/.dev  ## Measure watch on a virtual wire beside tcpdump and others (root; nothing else running)
	$(CARGO) build --release --locked --package vpn-classifier-bench
	$(PY) -m bench.live --sender '$(TARGET)/release/sender'

soak: $(VENV)/.built $(VENV)/.dev  ## Run watch for SECONDS (1800) under changing flows: memory flat, counters add up (root)
	$(CARGO) build --release --locked --package vpn-classifier-bench
	$(PY) -m bench.soak --sender '$(TARGET)/release/sender' --seconds $(SECONDS)

accuracy: $(VENV)/.built $(VENV)/.dev  ## Run the generators (DATAGRAMS), score the captures (PEERS=1: nDPI, tshark)
	@mkdir -p .make
ifneq ($(DATAGRAMS),0)
	@# Status 1: something was confirmed that must not be; the table says what.
	$(CARGO) run --release --locked --package vpn-classifier-generators -- --datagrams $(DATAGRAMS) \
	  > .make/generators.md || { status=$$?; cat .make/generators.md; exit $$status; }
endif
	$(PY) -m bench.accuracy $(if $(PEERS),--peers) $(if $(filter-out 0,$(DATAGRAMS)),--generators .make/generators.md)

corpus-replay: $(VENV)/.built  ## Replay every capture under CORPUS, malformed ones too: nothing crashes, all adds up
	$(if $(CORPUS),,$(error Name a directory of captures: make corpus-replay CORPUS=DIR))
	$(PY) -m bench.corpus_replay '$(CORPUS)'

lint: format-check clippy lint-python stubs  ## Formatting, clippy, ruff, mypy, stub check

format-check: $(VENV)/.dev
	$(CARGO) fmt --all --check
	$(PY) -m ruff format --check

clippy: $(VENV)/.made
	$(CARGO) clippy --locked --workspace --all-targets -- -D warnings
	$(CARGO) clippy --locked --workspace --all-targets --features vpn-classifier-core/python -- -D warnings

lint-python: $(VENV)/.built $(VENV)/.dev
	$(PY) -m ruff check
	$(PY) -m mypy

stubs: $(VENV)/.built $(VENV)/.dev
	$(PY) -m mypy.stubtest classifier._core

cargo-test: $(VENV)/.made
	$(CARGO) test --locked --workspace

fuzz:  ## Fuzz FUZZ_TARGETS (all) for FUZZ_SECONDS (3600) each
	$(if $(shell $(CARGO) fuzz --version 2>/dev/null),,$(error cargo-fuzz is missing: cargo install cargo-fuzz))
	@# What is fuzzed has no unsafe code for a sanitizer to watch, and without one a stable toolchain is enough. An input that
	@# takes ten seconds (they take a millisecond), or 768 MB, fails like a crash: time per byte and memory are bounded.
	cd core && for target in $(or $(FUZZ_TARGETS),$$($(CARGO) fuzz list)); do mkdir -p fuzz/new/$$target; \
	  $(CARGO) fuzz run --sanitizer none $$target fuzz/new/$$target fuzz/corpus/$$target \
	    -- -max_total_time=$(FUZZ_SECONDS) -timeout=10 -rss_limit_mb=768 -max_len=16384 -print_final_stats=1 || exit 1; \
	done

wheel: $(VENV)/.made  ## Build the wheel into dist/
	$(PY) -m maturin build --release --locked --out dist

bundle: $(VENV)/.made  ## Build an archive in dist/ with everything to install on a machine without a network
	rm -rf .make/bundle
	$(PY) -m maturin build --release --locked --out .make/bundle
	$(PIP) wheel --wheel-dir .make/bundle .make/bundle/vpn_classifier-*.whl
	$(PY) deploy/bundle.py .make/bundle dist

clean:  ## Remove everything that was built here
	rm -rf $(VENV) .make dist target core/fuzz/target core/fuzz/new bench/loads classifier/_core*.so
	rm -rf .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# ---- set-up: one stamp each, inside the environment, so that they go when it goes

$(VENV)/.made:
	$(if $(MISSING),$(error Please install $(MISSING)))
	@echo 'Setting up .venv (first run only; a few minutes)'
	@$(PYTHON) -m venv --clear $(VENV)
	@$(call requirements,["build-system"]["requires"]) > $(VENV)/build.txt
	@$(PIP) install -r $(VENV)/build.txt
	@touch $@

$(VENV)/.built: $(VENV)/.made $(SOURCES) $(if $(EXTENSION),,force)
	@echo 'Building the compiled module (release; a minute or two after a change)'
	@# What it needs at run time first, built as each package asks; only our own build uses what is here already.
	@$(call requirements,["project"]["dependencies"]) > $(VENV)/run.txt
	@$(PIP) install -r $(VENV)/run.txt
	@PATH="$(CURDIR)/$(BIN):$$PATH" MATURIN_PEP517_ARGS=--locked $(PIP) install --no-build-isolation --no-deps --editable .
	@touch $@

$(VENV)/.dev: $(VENV)/.made pyproject.toml
	@$(call requirements,["dependency-groups"]["dev"]) > $(VENV)/dev.txt
	@$(PIP) install -r $(VENV)/dev.txt
	@touch $@

# pip reads dependency groups itself only from 25.1 on.
requirements = $(PY) -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))$(1), sep="\n")'

FIRST_FLAGGED = import json, sys; \
  print(next(e["flow_id"] for e in map(json.loads, open(sys.argv[1])) \
  if e.get("event") == "ended" and e["policy"]["action"] == "flag"))

# Named before anything is built: what the tests of live capture, and those with real VPN programs, run.
test-tools:
	$(if $(MISSING_TOOLS),$(error Please install $(MISSING_TOOLS), which the tests of live capture run (apt-get install $(TOOL_PACKAGES))))

TOOLS := curl ip nsenter openssl openvpn prometheus promtool setpriv swanctl tc tcpdump unshare wg wireguard-go /usr/lib/ipsec/charon
TOOL_PACKAGES := curl iproute2 libcharon-extra-plugins openssl openvpn prometheus strongswan-charon strongswan-swanctl tcpdump \
  util-linux wireguard-go wireguard-tools
MISSING_TOOLS = $(strip $(shell PATH='$(PATH)'; for tool in $(TOOLS); do \
  command -v $$tool >/dev/null || printf '%s ' "$$tool"; done))

# What is missing, in words and on one line; empty when nothing is.
MISSING = $(shell $(FIND_MISSING))
FIND_MISSING = PATH='$(PATH)'; \
  add() { text="$${text:+$$text; and }$$1"; }; \
  python() { $(PYTHON) -c "$$1" >/dev/null 2>&1; }; \
  if ! python 'import sys; sys.exit(sys.version_info < (3, 11))'; then \
    add 'Python 3.11 or newer with its headers (apt-get install python3 python3-venv python3-dev), or name one: make PYTHON=python3.12'; \
  else \
    python 'import venv, ensurepip' || add 'the venv module of $(PYTHON) (apt-get install python3-venv)'; \
    python 'import os, sysconfig; os.stat(os.path.join(sysconfig.get_path("include"), "Python.h"))' \
      || add 'the headers of $(PYTHON), Python.h (apt-get install python3-dev)'; \
  fi; \
  wanted=$$(sed -n 's/^rust-version = "\(.*\)"/\1/p' core/Cargo.toml); \
  found=$$(rustc --version 2>/dev/null | cut -d ' ' -f 2); \
  if [ -z "$$found" ] || ! $(CARGO) --version >/dev/null 2>&1; then add "Rust $$wanted or newer with cargo (https://rustup.rs)"; \
  elif [ "$$(printf '%s\n' "$$wanted" "$$found" | sort -V | head -n 1)" != "$$wanted" ]; then \
    add "Rust $$wanted or newer, this is $$found (rustup update)"; \
  fi; \
  cc -fsyntax-only -include stdlib.h -x c /dev/null >/dev/null 2>&1 \
    || add 'a C compiler, cc, with the C library headers (apt-get install build-essential)'; \
  printf '%s' "$$text"
