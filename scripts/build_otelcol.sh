#!/bin/sh
# Builds the collector that tests and benchmarks put behind or beside the enricher, and prints the path of the
# binary. It is kept under a hash of what it is made of, so it is built only when that changes.
set -eu
root=$(cd "$(dirname "$0")/.." && pwd)
source="$root/tests/e2e/otelcol"
go=${GO:-go}

hash=$({ "$go" version; cat "$source/main.go" "$source/go.mod" "$source/go.sum"; } | sha256sum | cut -c1-16)
binary="$root/build/otelcol/$hash/otelcol"
if [ ! -x "$binary" ]; then
    mkdir -p "${binary%/*}"
    # Under a name of its own until it is whole: another build may be under way.
    (cd "$source" && CGO_ENABLED=0 "$go" build -buildvcs=false -trimpath -ldflags="-s -w" -o "$binary.$$" .) >&2
    mv "$binary.$$" "$binary"
fi
echo "$binary"
