#!/usr/bin/env python3
"""Measure structure layouts of Go and of its OpenTelemetry SDK, and merge them into layouts.json.

    scripts/make_layouts.py --go 1.26.0 1.27.4 --sdk 1.47.0     measure these releases and merge them
    scripts/make_layouts.py --go 1.25.0 --experiment jsonv2     may Go 1.25 be trusted with this experiment?
    scripts/make_layouts.py --check --go 1.24.13 --sdk 1.30.0   measure, and compare with what is there

For each release a small program is built for amd64 and for arm64, and the offsets are read from its DWARF. For an
SDK it is also checked that the function to probe is found and begins as expected. The go command, 1.21 or newer, is
that of the environment variable GO or of PATH; it fetches toolchains (GOTOOLCHAIN) and modules from where it is
configured to. Needs pyelftools. Exits with 1 if anything differs: between architectures, between releases of one
minor version, or from the table.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from elftools.elf.elffile import ELFFile

from enricher.golang.binary import SPAN_END_FUNCTION
from enricher.golang.elf import ElfImage
from enricher.golang.layouts import RuntimeLayout, SdkLayout
from enricher.golang.pclntab import find_function_table
from enricher.golang.probe_point import probe_point

TABLE = Path(__file__).resolve().parent.parent / "enricher" / "golang" / "layouts.json"
ARCHITECTURES = ("amd64", "arm64")

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
}
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
MAY_BE_ABSENT = {"g_parent_goid"}

EMPTY_PROGRAM = "package main\n\nfunc main() {}\n"
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

Structures = dict[str, dict[str, int]]
Row = dict[str, Any]  # of the JSON table: "measured", "offsets", for Go also "experiments"


class Mismatch(Exception):
    """Two measurements that should agree do not."""


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


def read_structures(binary: Path, wanted: set[str]) -> Structures:
    """Field offsets of the structures `wanted`, out of the DWARF of `binary`."""
    found: Structures = {}
    with binary.open("rb") as stream:
        for unit in ELFFile(stream).get_dwarf_info().iter_CUs():
            for die in unit.iter_DIEs():
                if die.tag != "DW_TAG_structure_type" or "DW_AT_name" not in die.attributes:
                    continue
                name = die.attributes["DW_AT_name"].value.decode()
                if name in wanted and name not in found:
                    found[name] = {
                        field.attributes["DW_AT_name"].value.decode(): _member_offset(field)
                        for field in die.iter_children()
                        if field.tag == "DW_TAG_member"
                    }
                    if len(found) == len(wanted):
                        return found
    raise SystemExit(f"{binary} has no DWARF of {wanted - set(found)}")


def _member_offset(member: Any) -> int:  # noqa: ANN401  # a DIE of pyelftools, which has no types
    location = member.attributes["DW_AT_data_member_location"].value
    if isinstance(location, int):
        return location
    # DW_OP_plus_uconst and a ULEB128: how older Go writes a constant.
    operation, *digits = location
    if operation != 0x23:
        raise SystemExit(f"unknown DWARF operation {operation:#x}")
    return sum((digit & 0x7F) << 7 * place for place, digit in enumerate(digits))


def pick(structures: Structures, names: Mapping[str, tuple[str, str]]) -> dict[str, int | None]:
    """The offsets of the fields `names`."""
    offsets: dict[str, int | None] = {}
    for ours, (structure, field) in names.items():
        offset = structures[structure].get(field)
        if offset is None and ours not in MAY_BE_ABSENT:
            raise Mismatch(f"{structure} has no field {field}")
        offsets[ours] = offset
    return offsets


def same(by_name: Mapping[str, Mapping[str, int | None]]) -> dict[str, int | None]:
    """The one value that all entries have."""
    (first, offsets), *others = by_name.items()
    for name, other in others:
        if other != offsets:
            raise Mismatch(f"{first} has {offsets}, {name} has {other}")
    return dict(offsets)


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


def measure_go(version: str, work: Path, experiment: str = "") -> dict[str, int | None]:
    """Layout of the runtime of Go `version`, agreed on by all architectures."""
    (work / "main.go").write_text(EMPTY_PROGRAM)
    (work / "go.mod").write_text("module empty.test\n\ngo 1.17\n")
    environment = {"GOTOOLCHAIN": f"go{version}", "GOEXPERIMENT": experiment}
    by_architecture = {}
    for architecture in ARCHITECTURES:
        binary = work / f"empty-{architecture}"
        go("build", "-o", str(binary), ".", where=work, GOARCH=architecture, **environment)
        by_architecture[architecture] = pick(read_structures(binary, {"runtime.g", "runtime.m"}), RUNTIME_FIELDS)
    toolchain = Path(go("env", "GOROOT", where=work, **environment).strip())
    counted = {"wrapper_func_id": wrapper_func_id(toolchain), "wait_steps": wait_steps(toolchain)}
    return {**same(by_architecture), **counted}


def measure_sdk(version: str, work: Path, toolchain: str) -> dict[str, int | None]:
    """Layout of the SDK `version`, agreed on by all architectures. Also finds the function to probe."""
    (work / "main.go").write_text(SPAN_PROGRAM)
    (work / "go.mod").write_text("module span.test\n\ngo 1.17\n")
    environment = {"GOTOOLCHAIN": toolchain}
    go("get", f"go.opentelemetry.io/otel/sdk@v{version}", where=work, **environment)
    go("mod", "tidy", where=work, **environment)
    linked = go("list", "-m", "go.opentelemetry.io/otel/sdk", where=work, **environment).split()[1]
    if linked != f"v{version}":
        raise Mismatch(f"SDK {version} was asked for, {linked} was linked")
    by_architecture = {}
    for architecture in ARCHITECTURES:
        binary = work / f"span-{architecture}"
        go("build", "-o", str(binary), ".", where=work, GOARCH=architecture, **environment)
        structures = read_structures(binary, {_SPAN, SPAN_CONTEXT})
        context = {name: structures[SPAN_CONTEXT].get(name) for name in SPAN_CONTEXT_OFFSETS}
        if context != SPAN_CONTEXT_OFFSETS:
            raise Mismatch(f"SpanContext of SDK {version} on {architecture}: {context}")
        by_architecture[architecture] = pick(structures, SDK_FIELDS)
        print(f"    {architecture} (*recordingSpan).End: {describe_probe_point(binary)}")
    return same(by_architecture)


def describe_probe_point(binary: Path) -> str:
    """Where the end of a span would be probed; an error where nowhere."""
    image = ElfImage.open(str(binary))
    assert image is not None, "go built no executable"
    with image:
        table = find_function_table(image)
        functions = [] if table is None else list(table.functions(SPAN_END_FUNCTION))
        points = [probe_point(image, function) for function in functions]
    if len(points) != 1 or points[0] is None:
        raise Mismatch(f"{SPAN_END_FUNCTION}: {functions}, {points}")
    return f"{points[0].instruction} at +{points[0].address - functions[0].address:#x}"


def merge(rows: dict[str, Row], version: str, offsets: dict[str, int | None], *, check: bool, **extra: object) -> None:
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
        lines = ",\n".join(f"  {json.dumps(minor)}: {json.dumps(row)}" for minor, row in rows)
        parts.append(f' "{name}": {{\n{lines}\n }}')
    TABLE.write_text("{\n" + ",\n".join(parts) + "\n}\n", "utf-8")


def run(options: argparse.Namespace, table: Mapping[str, Any]) -> None:
    """Measure all that is asked for. Raises Mismatch."""
    with tempfile.TemporaryDirectory() as place:
        work = Path(place)
        for version in options.go:
            plain = measure_go(version, work)
            print(f"Go {version}: {plain}")
            merge(table["runtime"], version, plain, check=options.check, experiments=[])
            row = table["runtime"][".".join(version.split(".")[:2])]
            for experiment in options.experiment:
                same({"without": plain, f"with {experiment}": measure_go(version, work, experiment)})
                print(f"    the same with GOEXPERIMENT={experiment}")
                row["experiments"] = sorted({*row["experiments"], experiment})
        for version in options.sdk:
            print(f"SDK {version}")
            offsets = measure_sdk(version, work, options.toolchain)
            print(f"    {offsets}")
            merge(table["sdk"], version, offsets, check=options.check)


def main(arguments: Sequence[str] | None = None) -> int:
    """See the text at the top of this file."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--go", nargs="*", default=[], metavar="1.26.8", help="Go releases")
    parser.add_argument("--sdk", nargs="*", default=[], metavar="1.47.0", help="SDK releases")
    parser.add_argument("--experiment", nargs="*", default=[], help="GOEXPERIMENT values to try with each --go")
    parser.add_argument("--toolchain", default="local", help="GOTOOLCHAIN to build the SDKs with")
    parser.add_argument("--check", action="store_true", help="compare only, write nothing")
    options = parser.parse_args(arguments)
    assert {field.name for field in fields(RuntimeLayout)} == {*RUNTIME_FIELDS, "wrapper_func_id", "wait_steps"}
    assert {field.name for field in fields(SdkLayout)} == set(SDK_FIELDS)
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
