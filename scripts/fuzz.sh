#!/bin/sh
# Runs the fuzz targets of native/fuzz, each for a while, from the corpus that is checked in.
#   fuzz.sh SECONDS [TARGET...]
# What is found stays in build/fuzz/found/TARGET; an input that fails is named and ends the run with an error.
# Any Rust compiler will do: the coverage that libFuzzer needs comes from LLVM. With AddressSanitizer where it is there.
set -eu

seconds=$1
shift
cd "$(dirname "$0")/.."
host=$(rustc -vV | sed -n 's/^host: //p')
export CARGO_TARGET_DIR="$PWD/build/fuzz"
RUSTFLAGS="--cfg fuzzing -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4"
RUSTFLAGS="$RUSTFLAGS -Cllvm-args=-sanitizer-coverage-inline-8bit-counters"
RUSTFLAGS="$RUSTFLAGS -Cllvm-args=-sanitizer-coverage-pc-table -Cllvm-args=-sanitizer-coverage-trace-compares"
for runtime in "$(rustc --print sysroot)/lib/rustlib/$host/lib/"librustc*asan.a; do
    [ -e "$runtime" ] || continue
    # An option that only nightly compilers take otherwise.
    export RUSTC_BOOTSTRAP=1
    RUSTFLAGS="$RUSTFLAGS -Zsanitizer=address"
    break
done
export RUSTFLAGS
# Overflow is an error here, and a trace names lines.
export CARGO_PROFILE_RELEASE_DEBUG_ASSERTIONS=true CARGO_PROFILE_RELEASE_DEBUG=line-tables-only
export CARGO_PROFILE_RELEASE_LTO=off CARGO_PROFILE_RELEASE_CODEGEN_UNITS=16
# With a target of its own, build scripts and macros are not instrumented.
(cd native && cargo build --package enricher-fuzz --release --quiet --locked --target "$host")

[ $# -gt 0 ] || set -- decompress json_round_trip json_to_protobuf sample scan splice
for target in "$@"; do
    found="build/fuzz/found/$target"
    mkdir -p "$found"
    echo "$target: $seconds s"
    dictionary=""
    [ "$target" != json_to_protobuf ] || dictionary="-dict=native/fuzz/json.dict"
    # shellcheck disable=SC2086
    "$CARGO_TARGET_DIR/$host/release/$target" -max_total_time="$seconds" -max_len=4096 -timeout=10 -rss_limit_mb=1024 \
        -print_final_stats=1 -artifact_prefix="build/fuzz/$target-" $dictionary "$found" "native/fuzz/corpus/$target" \
        2>"build/fuzz/$target.log" || { tail -n 40 "build/fuzz/$target.log" >&2; exit 1; }
    grep -E "DONE|number_of_executed_units" "build/fuzz/$target.log"
done
