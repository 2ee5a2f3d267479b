"""Writes the record types of Rust and Python from probes/events.h, the one contract between the processes.

The layout is not parsed from the header but asked of the compiler that builds the probes: a C unit that uses
every type of the header is compiled for the BPF target, and its BTF says where each field lies. So packing
rules need no second implementation, and what is generated cannot disagree with what the probes write. Only
names (of structs, enums and macros, which BTF keeps when something uses them) are read from the text.

    python scripts/generate_records.py            writes both files
    python scripts/generate_records.py --check    writes nothing; status 1 if a file would change

Needs clang and bpftool.
"""

import argparse
import json
import platform
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
HEADER = ROOT / "probes" / "events.h"
PYTHON = ROOT / "enricher" / "evidence" / "records.py"
RUST = ROOT / "native" / "src" / "records.rs"

UNION_FIELD = "detail"  # what an anonymous union is called: bytes that the kind of the record gives a meaning
FLAG_ENUMS = ("event_flag", "wait_kind")  # those whose values are combined with or
RUST_STRUCTS = ("event", "peer", "span_ids", "process_identity")
RUST_ENUM_TYPES = {"event_kind": "u16", "event_flag": "u16", "wait_kind": "u8", "fd_type": "u8"}
SCALARS = {  # (size, signed): (struct code, Rust type)
    (1, False): ("B", "u8"),
    (2, False): ("H", "u16"),
    (4, False): ("I", "u32"),
    (8, False): ("Q", "u64"),
    (4, True): ("i", "i32"),
    (8, True): ("q", "i64"),
}


@dataclass(frozen=True, slots=True)
class Field:
    """One field of a struct. `alternatives`: name and struct of each meaning a union's bytes can have."""

    name: str
    offset: int
    size: int
    code: str
    rust: str
    alternatives: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Struct:
    """A struct of the header; reserved fields are left out."""

    name: str
    size: int
    fields: tuple[Field, ...]

    @property
    def format(self) -> str:
        """Its format for the module `struct`, reserved bytes as padding."""
        parts, at = ["<"], 0
        for field in self.fields:
            parts += [_padding(field.offset - at), field.code]
            at = field.offset + field.size
        return "".join([*parts, _padding(self.size - at)])


@dataclass(frozen=True, slots=True)
class Enumeration:
    """An enum of the header, and the names that only count its members."""

    name: str
    members: tuple[tuple[str, int], ...]
    counts: tuple[tuple[str, int], ...]


@dataclass(frozen=True, slots=True)
class Header:
    """All that the header says."""

    constants: tuple[tuple[str, str], ...]
    enumerations: tuple[Enumeration, ...]
    structs: tuple[Struct, ...]


def read_header() -> Header:
    """The header's types as the compiler lays them out. Raises CalledProcessError if it does not compile."""
    text = HEADER.read_text()
    structs = re.findall(r"^struct (\w+) \{", text, re.MULTILINE)
    enums = re.findall(r"^enum (\w+) \{", text, re.MULTILINE)
    types = _compiled_types(structs, enums)
    named = {(entry["kind"], entry["name"]): entry for entry in types.values()}
    return Header(
        constants=tuple(re.findall(r"^#define (\w+) (0x[0-9a-f]+|\d+)$", text, re.MULTILINE)),
        enumerations=tuple(_enumeration(named["ENUM", name]) for name in enums),
        structs=tuple(_struct(named["STRUCT", name], types) for name in structs),
    )


def _compiled_types(structs: list[str], enums: list[str]) -> dict[int, dict[str, Any]]:
    uses = [f"struct {name} use_{name};" for name in structs] + [f"enum {name} use_{name};" for name in enums]
    with tempfile.TemporaryDirectory() as folder:
        unit, compiled = Path(folder, "types.c"), Path(folder, "types.o")
        unit.write_text("\n".join(['#include "events.h"', *uses, ""]))
        system = f"/usr/include/{platform.machine()}-linux-gnu"  # Debian keeps asm/types.h there
        options = ["-target", "bpf", "-g", "-O2", f"-I{HEADER.parent}", f"-I{system}"]
        subprocess.run(["clang", *options, "-c", str(unit), "-o", str(compiled)], check=True)
        dump = ["bpftool", "--json", "btf", "dump", "file", str(compiled)]
        output = subprocess.run(dump, check=True, stdout=subprocess.PIPE).stdout
    return {entry["id"]: entry for entry in json.loads(output)["types"]}


def _enumeration(entry: dict[str, Any]) -> Enumeration:
    values = tuple((value["name"], value["val"]) for value in entry["values"])
    counts = tuple(pair for pair in values if pair[0].endswith(("_COUNT", "S_EACH")))
    return Enumeration(entry["name"], tuple(pair for pair in values if pair not in counts), counts)


def _struct(entry: dict[str, Any], types: dict[int, dict[str, Any]]) -> Struct:
    fields = (_field(member, types) for member in entry["members"] if member["name"] != "reserved")
    return Struct(entry["name"], entry["size"], tuple(fields))


def _field(member: dict[str, Any], types: dict[int, dict[str, Any]]) -> Field:
    name, offset = member["name"], member["bits_offset"] // 8
    target = types[member["type_id"]]
    while target["kind"] == "TYPEDEF":
        target = types[target["type_id"]]
    if target["kind"] == "INT":
        code, rust = SCALARS[target["size"], target["encoding"] == "SIGNED"]
        return Field(name, offset, target["size"], code, rust)
    if target["kind"] == "ARRAY":
        size = target["nr_elems"]
        return Field(name, offset, size, f"{size}s", f"[u8; {size}]")
    if target["kind"] == "UNION":
        size = target["size"]
        alternatives = tuple((one["name"], types[one["type_id"]]["name"]) for one in target["members"])
        return Field(UNION_FIELD, offset, size, f"{size}s", f"[u8; {size}]", alternatives)
    raise ValueError(f"{HEADER.name}: field {name} is a {target['kind']}, which has no translation")


def _padding(size: int) -> str:
    return f"{size}x" if size else ""


def _camel(name: str) -> str:
    return "".join(part.capitalize() for part in name.split("_"))


def _members(enumeration: Enumeration) -> Iterator[tuple[str, int]]:
    """Its members without the prefix that all of them share."""
    first = enumeration.members[0][0]
    prefix = first[: first.index("_") + 1]
    shared = all(name.startswith(prefix) for name, _ in enumeration.members)
    for name, value in enumeration.members:
        yield (name.removeprefix(prefix) if shared else name), value


# Python

PYTHON_HEAD = '''\
"""The records that probes, observer and pipeline exchange.

Generated from probes/events.h by scripts/generate_records.py: change them there. What a field means is said
in that header. Times are CLOCK_MONOTONIC in nanoseconds.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum, IntFlag
from struct import Struct
from typing import Self
'''


def python_source(header: Header) -> str:
    """The whole of enricher/evidence/records.py."""
    lines = [PYTHON_HEAD]
    size = next(struct.size for struct in header.structs if struct.name == "event")
    lines += [f"{name} = {value.upper().replace('X', 'x')}" for name, value in header.constants]
    lines.append(f"RECORD_SIZE = {size}")
    lines += [f"{name} = {value}" for one in header.enumerations for name, value in one.counts]
    for enumeration in header.enumerations:
        lines += ["", "", *_python_enum(enumeration)]
    lines += ["", ""]
    lines += [f'_{one.name.upper()} = Struct("{one.format}")' for one in header.structs]
    for struct in sorted(header.structs, key=lambda one: one.name == "event"):
        lines += ["", "", *_python_struct(struct)]
    return "\n".join([*lines, ""])


def _python_enum(enumeration: Enumeration) -> Iterator[str]:
    base = "IntFlag" if enumeration.name in FLAG_ENUMS else "IntEnum"
    yield f"class {_camel(enumeration.name)}({base}):"
    yield f'    """`enum {enumeration.name}`."""'
    yield ""
    for name, value in _members(enumeration):
        yield f"    {name} = {value}"


def _python_struct(struct: Struct) -> Iterator[str]:
    packer = f"_{struct.name.upper()}"
    names = [field.name for field in struct.fields]
    yield "@dataclass(frozen=True, slots=True, kw_only=True)"
    yield f"class {_camel(struct.name)}:"
    yield f'    """`struct {struct.name}`, {struct.size} bytes."""'
    yield ""
    for field in struct.fields:
        yield f"    {field.name}: {_python_type(field)}{_python_default(field)}"
    yield ""
    yield "    def pack(self) -> bytes:"
    yield f'        """The {struct.size} bytes of it. Raises struct.error where a field is out of range."""'
    yield from _call(f"return {packer}.pack", [f"self.{name}" for name in names])
    yield ""
    yield "    @classmethod"
    yield "    def unpack(cls, data: bytes) -> Self:"
    yield f'        """From exactly {struct.size} bytes, otherwise raises struct.error."""'
    yield f"        values = {packer}.unpack(data)"
    yield from _call(
        "return cls", [f"{field.name}={_python_read(field, at)}" for at, field in enumerate(struct.fields)]
    )
    if struct.name == "event":
        yield PYTHON_ITER_UNPACK
    for field in struct.fields:
        for name, target in field.alternatives:
            yield ""
            yield "    @property"
            yield f"    def {name}(self) -> {_camel(target)}:"
            yield f'        """`{field.name}` read as `struct {target}`: only for the kinds that have one."""'
            yield f"        return {_camel(target)}.unpack(self.{field.name})"


PYTHON_ITER_UNPACK = '''
    @classmethod
    def iter_unpack(cls, data: bytes) -> Iterator[Self]:
        """One after the other. Raises struct.error where `data` does not end with a whole record."""
        return (cls.unpack(data[at : at + RECORD_SIZE]) for at in range(0, len(data), RECORD_SIZE))'''


def _call(callee: str, arguments: list[str]) -> Iterator[str]:
    """On one line where that fits, otherwise one argument a line, as the formatter would have it."""
    line = f"        {callee}({', '.join(arguments)})"
    if len(line) <= 120:
        yield line
        return
    yield f"        {callee}("
    yield from (f"            {argument}," for argument in arguments)
    yield "        )"


def _python_read(field: Field, at: int) -> str:
    return f"EventKind(values[{at}])" if field.name == "kind" else f"values[{at}]"


def _python_type(field: Field) -> str:
    if field.name == "kind":
        return "EventKind"
    return "bytes" if field.code.endswith("s") else "int"


def _python_default(field: Field) -> str:
    if field.name == "kind":
        return ""
    return f" = bytes({field.size})" if field.code.endswith("s") else " = 0"


# Rust

RUST_HEAD = """\
//! The records that probes, observer and pipeline exchange.
//!
//! Generated from probes/events.h by scripts/generate_records.py: change them there. What a field means is
//! said in that header. Times are CLOCK_MONOTONIC in nanoseconds.
"""


def rust_source(header: Header) -> str:
    """The whole of native/src/records.rs."""
    sizes = {struct.name: struct.size for struct in header.structs}
    lines = [RUST_HEAD]
    lines += [f"pub const {name}: u32 = {value};" for name, value in header.constants if name == "EVENTS_VERSION"]
    lines.append(f"pub const RECORD_SIZE: usize = {sizes['event']};")
    for enumeration in header.enumerations:
        if enumeration.name in RUST_ENUM_TYPES:
            of = RUST_ENUM_TYPES[enumeration.name]
            lines.append("")
            lines += [f"pub const {name}: {of} = {value};" for name, value in enumeration.members]
    for name in RUST_STRUCTS:
        lines += ["", *_rust_struct(next(one for one in header.structs if one.name == name))]
    return "\n".join([*lines, ""])


def _rust_struct(struct: Struct) -> Iterator[str]:
    yield "#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]"
    yield f"pub struct {_camel(struct.name)} {{"
    for field in struct.fields:
        yield f"    pub {field.name}: {field.rust},"
    yield "}"
    yield ""
    yield f"impl {_camel(struct.name)} {{"
    yield f"    pub fn read(bytes: &[u8; {struct.size}]) -> Self {{"
    yield "        Self {"
    for field in struct.fields:
        yield f"            {field.name}: {_rust_read(field)},"
    yield "        }"
    yield "    }"
    yield ""
    yield f"    pub fn bytes(&self) -> [u8; {struct.size}] {{"
    yield f"        let mut bytes = [0; {struct.size}];"
    for field in struct.fields:
        value = f"&self.{field.name}" if field.code.endswith("s") else f"&self.{field.name}.to_le_bytes()"
        if field.code == "B":
            yield f"        bytes[{field.offset}] = self.{field.name};"
        else:
            yield f"        bytes[{field.offset}..{field.offset + field.size}].copy_from_slice({value});"
    yield "        bytes"
    yield "    }"
    for field in struct.fields:
        for name, target in field.alternatives:
            yield ""
            yield f"    pub fn {name}(&self) -> {_camel(target)} {{"
            yield f"        {_camel(target)}::read(&self.{field.name})"
            yield "    }"
    yield "}"


def _rust_read(field: Field) -> str:
    if field.code == "B":
        return f"bytes[{field.offset}]"
    part = ", ".join(f"bytes[{at}]" for at in range(field.offset, field.offset + field.size))
    if field.code.endswith("s"):
        # Rust has no infallible way from a slice to an array; the range is a constant, so this cannot fail.
        return f'*bytes[{field.offset}..].first_chunk().expect("a constant range")'
    return f"{field.rust}::from_le_bytes([{part}])"


def main() -> int:
    parser = argparse.ArgumentParser(description="Writes the record types from probes/events.h.")
    parser.add_argument("--check", action="store_true", help="write nothing; status 1 on any difference")
    check = parser.parse_args().check
    header = read_header()
    differs = False
    for path, source in ((PYTHON, python_source(header)), (RUST, _formatted(rust_source(header)))):
        if path.exists() and path.read_text() == source:
            continue
        differs = True
        if check:
            print(f"{path.relative_to(ROOT)} is not what {HEADER.relative_to(ROOT)} generates", file=sys.stderr)
        else:
            path.write_text(source)
            print(f"wrote {path.relative_to(ROOT)}")
    return int(check and differs)


def _formatted(rust: str) -> str:
    command = ["rustfmt", "--edition", "2021", "--emit", "stdout"]
    # rustfmt finds its configuration from the directory it runs in.
    run = subprocess.run(command, input=rust, check=True, stdout=subprocess.PIPE, text=True, cwd=RUST.parent)
    return run.stdout


if __name__ == "__main__":
    sys.exit(main())
