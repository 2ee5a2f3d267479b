#!/bin/sh
# Installs what a build and the tests need from Debian's packages, and only what is missing.
#   install_system_packages.sh build|test|fuzz
# `build`: compile the probes and the native module. `test`: also what the tests run against. `fuzz`: also a compiler
# for libFuzzer.
set -eu

missing=""
need() { # need COMMAND-OR-FILE PACKAGE...
    what=$1
    shift
    case $what in
    /*) [ -e "$what" ] || missing="$missing $*" ;;
    *) command -v "$what" >/dev/null 2>&1 || missing="$missing $*" ;;
    esac
}

multiarch=$(uname -m)-linux-gnu
need clang clang
need /usr/include/bpf/bpf_helpers.h libbpf-dev
need "/usr/lib/$multiarch/libbpf.so.1" libbpf1
need "/usr/include/$multiarch/asm/types.h" linux-libc-dev
need cc gcc
need "/usr/lib/$multiarch/crt1.o" libc6-dev
need /etc/ssl/certs/ca-certificates.crt ca-certificates
"${PYTHON:-python3}" -c 'import ensurepip, venv' 2>/dev/null || missing="$missing python3-venv"
# native/Cargo.toml names the oldest Rust; Debian 12's `cargo` is 1.63, its `cargo-web` is kept current for browsers.
cargo_minor=$(cargo --version 2>/dev/null | sed -n 's/^cargo 1\.\([0-9]*\)\..*/\1/p')
[ "${cargo_minor:-0}" -ge 93 ] || missing="$missing cargo-web rustc-web"
if [ "${1:-build}" = test ]; then
    need bpftool bpftool
    need rustfmt rustfmt-web
    cargo clippy --version >/dev/null 2>&1 || missing="$missing rust-web-clippy"
    need git git
    need ip iproute2
    need wrk wrk
    need setpriv util-linux
    # The OTLP exporters of other languages' SDKs.
    need javac openjdk-17-jdk-headless
    need mvn maven
    need node nodejs
    need npm npm
    need perf linux-perf
fi
if [ "${1:-build}" = fuzz ]; then
    need c++ g++
fi

[ -n "$missing" ] || exit 0
if ! command -v apt-get >/dev/null 2>&1; then
    echo "missing:$missing (names of Debian packages). Install them, then run make again." >&2
    exit 1
fi
if [ "$(id -u)" -ne 0 ]; then
    echo "missing:$missing. As root: apt-get install$missing" >&2
    exit 1
fi
echo "installing:$missing"
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq
# shellcheck disable=SC2086
apt-get install -y -qq --no-install-recommends $missing >/dev/null
