#!/usr/bin/env python3
"""Measure structure layouts of Go, of its OpenTelemetry SDK and of clients, and merge them into layouts.json.

    scripts/make_layouts.py --go 1.26.0 1.27.4 --sdk 1.47.0     measure these releases and merge them
    scripts/make_layouts.py --module google.golang.org/grpc@1.85.0 --toolchain go1.27.4
    scripts/make_layouts.py --go 1.25.0 --experiment jsonv2     may Go 1.25 be trusted with this experiment?
    scripts/make_layouts.py --check --go 1.24.13 --sdk 1.30.0   measure, and compare with what is there

For each release a small program is built for amd64 and for arm64, and the offsets are read from its DWARF. Of each
function to probe it is checked that it is found, begins as expected, is never put into its callers, and finds its
arguments where the probes look for them. The go command, 1.21 or newer, is that of the environment variable GO or of
PATH; it fetches toolchains (GOTOOLCHAIN) and modules from where it is configured to. Needs pyelftools. Exits with 1 if
anything differs: between architectures, between releases of one minor version, or from the table.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, get_args

from go_dwarf import GoDwarf, Mismatch
from probed_program import SPAN_CONTEXT_SIZE, ProbedProgram

from enricher.golang.client_calls import CLIENTS, Client
from enricher.golang.elf import ElfImage, Machine
from enricher.golang.layouts import LabelsKind, RuntimeLayout, SdkLayout, connection_offset
from enricher.golang.points import (
    GOROUTINE_EXIT_FUNCTION,
    GOROUTINE_QUEUE_FUNCTION,
    SPAN_END_FUNCTION,
    SPAN_START_FUNCTION,
)

TABLE = Path(__file__).resolve().parent.parent / "enricher" / "golang" / "layouts.json"
MACHINES: tuple[Machine, ...] = get_args(Machine)

# Field of our layouts -> structure and field of Go's.
RUNTIME_FIELDS = {
    "g_m": ("runtime.g", "m"),
    "g_goid": ("runtime.g", "goid"),
    "g_parent_goid": ("runtime.g", "parentGoid"),
    "g_atomicstatus": ("runtime.g", "atomicstatus"),
    "g_waitreason": ("runtime.g", "waitreason"),
    "g_tracking_seq": ("runtime.g", "trackingSeq"),
    "g_labels": ("runtime.g", "labels"),
    "g_gopc": ("runtime.g", "gopc"),
    "m_procid": ("runtime.m", "procid"),
    "m_curg": ("runtime.m", "curg"),
    "net_family": ("net.netFD", "family"),
    "net_sotype": ("net.netFD", "sotype"),
}
POLL_DESCRIPTOR = (("net.netFD", "pfd"), ("internal/poll.FD", "Sysfd"))
LABELS = "runtime/pprof.labelMap"
MAP_OF_STRINGS = "*hash<string,string>"  # how maps were made up to Go 1.23
LABEL = {"runtime/pprof.label": ("key", "value"), "internal/runtime/pprof/label.Label": ("Key", "Value")}
COUNTED_IN_GO = {"wrapper_func_id", "wait_steps", "labels_kind", "poll_sysfd"}
SDK_MODULE = "go.opentelemetry.io/otel/sdk"
_SPAN = "go.opentelemetry.io/otel/sdk/trace.recordingSpan"
SDK_FIELDS = {
    "parent": (_SPAN, "parent"),
    "span_kind": (_SPAN, "spanKind"),
    "name": (_SPAN, "name"),
    "start_time": (_SPAN, "startTime"),
    "end_time": (_SPAN, "endTime"),
    "span_context": (_SPAN, "spanContext"),
}
SPAN_CONTEXT = "go.opentelemetry.io/otel/trace.SpanContext"
SPAN_CONTEXT_OFFSETS = {"traceID": 0, "spanID": 16, "traceFlags": 24}
STRING_SIZE = 16
MAY_BE_ABSENT = {"g_parent_goid"}

STANDARD_PROGRAM = """package main

import (
	"context"
	"net/http"
	"runtime/pprof"
)

func main() {
	pprof.SetGoroutineLabels(context.Background())
	http.Get("http://127.0.0.1")
}
"""
SPAN_PROGRAM = """package main

import (
	"context"

	sdktrace "go.opentelemetry.io/otel/sdk/trace"
)

func main() {
	_, span := sdktrace.NewTracerProvider().Tracer("").Start(context.Background(), "")
	span.End()
}
"""
CLIENT_PROGRAMS = {
    "golang.org/x/net": """package main

import (
	"net/http"

	"golang.org/x/net/http2"
)

func main() {
	client := http.Client{Transport: &http2.Transport{}}
	client.Get("http://127.0.0.1")
}
""",
    "google.golang.org/grpc": """package main

import (
	"context"

	"google.golang.org/grpc"
)

func main() {
	connection, _ := grpc.Dial("127.0.0.1:1", grpc.WithInsecure())
	connection.Invoke(context.Background(), "/service/method", nil, nil)
}
""",
}

Offsets = dict[str, int | str | None]
Row = dict[str, Any]  # of the JSON table: "measured", "offsets", for Go also "experiments"


def go(*arguments: str, where: Path, **environment: str) -> str:
    """Standard output of the go command, run in `where`."""
    command = os.environ.get("GO") or shutil.which("go")
    if command is None:
        raise SystemExit("there is no go in PATH, and GO is not set")
    merged = {**os.environ, "GOFLAGS": "-mod=mod", "GOWORK": "off", "CGO_ENABLED": "0", **environment}
    done = subprocess.run([command, *arguments], cwd=where, env=merged, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"go {' '.join(arguments)} ({environment}):\n{done.stderr}")
    return done.stdout


def pick(dwarf: GoDwarf, names: Mapping[str, tuple[str, str]]) -> Offsets:
    """The offsets of the fields `names`."""
    offsets: Offsets = {}
    for ours, (structure, field) in names.items():
        offset = dwarf.offset(structure, field)
        if offset is None and ours not in MAY_BE_ABSENT:
            raise Mismatch(f"{structure} has no field {field}")
        offsets[ours] = offset
    return offsets


def same(by_name: Mapping[str, Offsets]) -> Offsets:
    """The one value that all entries have."""
    (first, value), *others = by_name.items()
    for name, other in others:
        if other != value:
            raise Mismatch(f"{first} has {value}, {name} has {other}")
    return dict(value)


def wrapper_func_id(toolchain: Path) -> int:
    """internal/abi.FuncIDWrapper, counted in the source of the toolchain (Go's own first, so iota is 0)."""
    places = ("src/internal/abi/symtab.go", "src/cmd/internal/objabi/funcid.go")
    source = next(toolchain / place for place in places if (toolchain / place).exists()).read_text("utf-8")
    block = re.search(r"FuncID\w* FuncID = iota.*?\n\)", source, re.DOTALL)
    assert block is not None, "the declaration of FuncID has changed"
    names = re.findall(r"^\s*(FuncID\w+)", "\t" + block[0], re.MULTILINE)
    return names.index(next(name for name in names if name.lower() == "funcidwrapper" or name == "FuncID_wrapper"))


def wait_steps(toolchain: Path) -> int:
    """Whether entering a system call counts in g.trackingSeq, as casgstatus does; from 1.26 on a plain compare-and-swap
    is tried first. Parking always counts. tests/kernel/test_go_releases.py holds this against running programs."""
    source = (toolchain / "src/runtime/proc.go").read_text("utf-8")
    body = re.search(r"^func reentersyscall\(.*?^}", source, re.DOTALL | re.MULTILINE)
    if body is None or not re.search(r"casgstatus\(\w+, _Grunning, _Gsyscall\)", body[0]):
        raise Mismatch(f"{toolchain}: a system call is entered in another way than known")
    return 1 if "atomicstatus.CompareAndSwap(_Grunning, _Gsyscall)" in body[0] else 2


def build(
    work: Path, machine: Machine, wanted: Iterable[str], environment: Mapping[str, str]
) -> tuple[ElfImage, GoDwarf]:
    """The program in `work`, and what its DWARF says of `wanted`."""
    binary = work / f"program-{machine}"
    go("build", "-o", str(binary), ".", where=work, GOARCH=machine, **environment)
    image = ElfImage.open(str(binary))
    assert image is not None, "go built no executable"
    return image, GoDwarf(binary, wanted)


def probed(image: ElfImage, dwarf: GoDwarf, where: Path, environment: Mapping[str, str]) -> ProbedProgram:
    """The program, with what its toolchain says of itself."""
    version, root = go("env", "GOVERSION", "GOROOT", where=where, **environment).splitlines()
    return ProbedProgram(image, dwarf, version, wrapper_func_id(Path(root)))


def measure_go(version: str, work: Path, experiment: str = "") -> tuple[Offsets, Offsets]:
    """Layout of the runtime of Go `version`, and where its own clients have their connections."""
    (work / "main.go").write_text(STANDARD_PROGRAM)
    (work / "go.mod").write_text("module standard.test\n\ngo 1.17\n")
    environment = {"GOTOOLCHAIN": f"go{version}", "GOEXPERIMENT": experiment}
    clients = [client for client in CLIENTS if client.module is None]
    wanted = {structure for structure, _ in (*RUNTIME_FIELDS.values(), *POLL_DESCRIPTOR)} | {LABELS, *LABEL}
    wanted |= {client.connection for client in clients} | {name for client in clients for name in client.functions}
    wanted |= {client.giver for client in clients if client.giver is not None}
    wanted |= {GOROUTINE_QUEUE_FUNCTION, GOROUTINE_EXIT_FUNCTION}
    layouts: dict[str, Offsets] = {}
    connections: dict[str, Offsets] = {}
    for machine in MACHINES:
        image, dwarf = build(work, machine, wanted, environment)
        with image, dwarf:
            program = probed(image, dwarf, work, environment)
            layouts[machine] = pick(dwarf, RUNTIME_FIELDS) | {
                "labels_kind": labels_kind(dwarf),
                "poll_sysfd": sum(offset for place in POLL_DESCRIPTOR if (offset := dwarf.offset(*place)) is not None),
            }
            here = [client for client in clients if has_connection(dwarf, client)]
            connections[machine] = {client.connection: dwarf.offset(client.connection, client.field) for client in here}
            if program.takes_arguments_in_registers:
                if program.saves_frame_pointer_first:
                    program.check_goroutine_made()
                    program.check_start(GOROUTINE_EXIT_FUNCTION, argument=None)
                for client in here:
                    program.check_client(client)
    toolchain = Path(go("env", "GOROOT", where=work, **environment).strip())
    counted = {"wrapper_func_id": wrapper_func_id(toolchain), "wait_steps": wait_steps(toolchain)}
    return {**same(layouts), **counted}, same(connections)


def has_connection(dwarf: GoDwarf, client: Client) -> bool:
    """Whether this release of Go has the client."""
    return dwarf.has_structure(client.connection) and dwarf.offset(client.connection, client.field) is not None


def labels_kind(dwarf: GoDwarf) -> LabelsKind:
    """What a goroutine's labels are: see RuntimeLayout."""
    underlying = dwarf.typed(LABELS)
    if underlying == MAP_OF_STRINGS:
        return "map"
    element = underlying.removeprefix("[]")
    fields = LABEL.get(element)
    if fields is None or [dwarf.offset(element, field) for field in fields] != [0, STRING_SIZE]:
        raise Mismatch(f"{LABELS} is {underlying}")
    return "slice"


def measure_sdk(version: str, work: Path, toolchain: str) -> Offsets:
    """Layout of the SDK `version`, agreed on by all architectures. Also finds the functions to probe."""
    (work / "main.go").write_text(SPAN_PROGRAM)
    environment = {"GOTOOLCHAIN": toolchain}
    require(SDK_MODULE, version, work, environment)
    wanted = {_SPAN, SPAN_CONTEXT, SPAN_END_FUNCTION, SPAN_START_FUNCTION}
    layouts: dict[str, Offsets] = {}
    for machine in MACHINES:
        image, dwarf = build(work, machine, wanted, environment)
        with image, dwarf:
            context = {name: dwarf.offset(SPAN_CONTEXT, name) for name in SPAN_CONTEXT_OFFSETS}
            if context != SPAN_CONTEXT_OFFSETS or dwarf.size(SPAN_CONTEXT) != SPAN_CONTEXT_SIZE:
                raise Mismatch(f"SpanContext of SDK {version} on {machine}: {context}")
            program = probed(image, dwarf, work, environment)
            program.check_start(SPAN_END_FUNCTION)
            program.check_start(SPAN_START_FUNCTION)
            layouts[machine] = pick(dwarf, SDK_FIELDS) | {"start_span_context": program.start_span_context()}
    return same(layouts)


def measure_client(client: Client, version: str, work: Path, toolchain: str) -> int:
    """Where version `version` of the client's module has its connection, agreed on by all architectures."""
    assert client.module is not None, "clients of Go's own are measured with Go"
    (work / "main.go").write_text(CLIENT_PROGRAMS[client.module])
    environment = {"GOTOOLCHAIN": toolchain}
    require(client.module, version, work, environment)
    offsets: dict[str, Offsets] = {}
    for machine in MACHINES:
        image, dwarf = build(work, machine, {client.connection, *client.functions}, environment)
        with image, dwarf:
            offsets[machine] = {client.field: dwarf.offset(client.connection, client.field)}
            probed(image, dwarf, work, environment).check_client(client)
    offset = same(offsets)[client.field]
    if not isinstance(offset, int):
        raise Mismatch(f"{client.connection} of {version} has no field {client.field}")
    return offset


def require(module: str, version: str, work: Path, environment: Mapping[str, str]) -> None:
    """Make the program in `work` a module that needs exactly `version` of `module`."""
    (work / "go.mod").write_text("module measured.test\n\ngo 1.17\n")
    (work / "go.sum").unlink(missing_ok=True)
    go("get", f"{module}@v{version}", where=work, **environment)
    go("mod", "tidy", where=work, **environment)
    linked = go("list", "-m", module, where=work, **environment).split()[1]
    if linked != f"v{version}":
        raise Mismatch(f"{module} {version} was asked for, {linked} was linked")


def merge_connections(
    table: dict[str, dict[str, int]], version: str, offsets: Mapping[str, int | str | None], *, check: bool
) -> None:
    """Put measurements of one release, by structure, into `table`, as `merge` does."""
    for structure, offset in offsets.items():
        assert isinstance(offset, int), structure
        minor = release(version)[:2]
        rows = table.setdefault(structure, {})
        for other, known in rows.items():
            if release(other)[:2] == minor and known != offset:
                raise Mismatch(f"{structure} of {other} has {known}, that of {version} {offset}")
        if not check:
            rows[version] = offset
        elif connection_offset(structure, f"v{version}") != offset:
            raise Mismatch(f"{structure} of {version} has {offset}, which is not in the table")


def merge(rows: dict[str, Row], version: str, offsets: Offsets, *, check: bool, **extra: object) -> None:
    """Put a measurement into `rows` unless it contradicts what is there; a new row gets `extra` too. With `check`,
    only see whether it is there."""
    minor = ".".join(version.split(".")[:2])
    row = rows.get(minor)
    if row is not None and row["offsets"] != offsets:
        raise Mismatch(f"{minor} is known as {row['offsets']}, {version} has {offsets}")
    if check:
        if row is None:
            raise Mismatch(f"{version} is not in the table")
        print("    agrees with the table")
        return
    row = rows.setdefault(minor, {"measured": [], **extra, "offsets": offsets})
    row["measured"] = sorted({*row["measured"], version}, key=release)


def release(version: str) -> tuple[int, ...]:
    """Sort key of "1.26.8"."""
    return tuple(int(part) for part in version.split("."))


def write(table: Mapping[str, Any]) -> None:
    """One line for each row, so that a diff shows what changed."""
    parts = [f' "about": {json.dumps(table["about"])}']
    for name in ("runtime", "sdk"):
        rows = sorted(table[name].items(), key=lambda item: release(item[0]))
        parts.append(_lines(name, rows))
    connections = [
        (structure, {version: rows[version] for version in sorted(rows, key=release)})
        for structure, rows in table["connections"].items()
    ]
    parts.append(_lines("connections", connections))
    TABLE.write_text("{\n" + ",\n".join(parts) + "\n}\n", "utf-8")


def _lines(name: str, rows: Sequence[tuple[str, object]]) -> str:
    lines = ",\n".join(f"  {json.dumps(key)}: {json.dumps(row)}" for key, row in rows)
    return f' "{name}": {{\n{lines}\n }}'


def run(options: argparse.Namespace, table: Mapping[str, Any]) -> None:
    """Measure all that is asked for. Raises Mismatch."""
    with tempfile.TemporaryDirectory() as place:
        work = Path(place)
        for version in options.go:
            plain, connections = measure_go(version, work)
            print(f"Go {version}: {plain}, {connections}")
            merge_connections(table["connections"], version, connections, check=options.check)
            merge(table["runtime"], version, plain, check=options.check, experiments=[])
            row = table["runtime"][".".join(version.split(".")[:2])]
            for experiment in options.experiment:
                other, theirs = measure_go(version, work, experiment)
                same({"without": plain | connections, f"with {experiment}": other | theirs})
                print(f"    the same with GOEXPERIMENT={experiment}")
                row["experiments"] = sorted({*row["experiments"], experiment})
        for version in options.sdk:
            print(f"SDK {version}")
            offsets = measure_sdk(version, work, options.toolchain)
            print(f"    {offsets}")
            merge(table["sdk"], version, offsets, check=options.check)
        for module, _, version in (wanted.partition("@") for wanted in options.module):
            client = next(client for client in CLIENTS if client.module == module)
            print(f"{module} {version}")
            offset = measure_client(client, version, work, options.toolchain)
            print(f"    {client.connection}.{client.field}: {offset}")
            merge_connections(table["connections"], version, {client.connection: offset}, check=options.check)


def main(arguments: Sequence[str] | None = None) -> int:
    """See the text at the top of this file."""
    modules = [client.module for client in CLIENTS if client.module is not None]
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--go", nargs="*", default=[], metavar="1.26.8", help="Go releases")
    parser.add_argument("--sdk", nargs="*", default=[], metavar="1.47.0", help="SDK releases")
    parser.add_argument("--module", nargs="*", default=[], metavar="PATH@1.85.0", help=f"of {' or '.join(modules)}")
    parser.add_argument("--experiment", nargs="*", default=[], help="GOEXPERIMENT values to try with each --go")
    parser.add_argument("--toolchain", default="local", help="GOTOOLCHAIN to build SDKs and modules with")
    parser.add_argument("--check", action="store_true", help="compare only, write nothing")
    options = parser.parse_args(arguments)
    assert {field.name for field in fields(RuntimeLayout)} == {*RUNTIME_FIELDS, *COUNTED_IN_GO}
    assert {field.name for field in fields(SdkLayout)} == {*SDK_FIELDS, "start_span_context"}
    table = json.loads(TABLE.read_text("utf-8"))
    try:
        run(options, table)
    except Mismatch as mismatch:
        print(f"DIFFERS: {mismatch}", file=sys.stderr)
        return 1
    if not options.check:
        write(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
