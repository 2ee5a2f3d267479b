"""Real Go programs, built here in the ways people build them, and read from outside."""

import os
import random
import shutil
import subprocess
import sys
import tracemalloc
from dataclasses import replace
from pathlib import Path

import pytest
from elftools.elf.elffile import ELFFile

from enricher.golang.binary import GoBinary, ReasonCode, UnreadableBinary, inspect
from enricher.golang.elf import ElfImage
from enricher.golang.layouts import runtime_layout, sdk_layout
from enricher.golang.pclntab import find_function_table
from tests.unit.golang_builds import EXTERNAL_LINKER, HOST, PROGRAMS, Build, Variant, inspected, run_go, symbols

C_PROGRAM = sys.executable
VARIANTS = {
    "default": Variant(),
    "trimpath": Variant(flags=("-trimpath",)),
    "pie": Variant(flags=("-buildmode=pie",)),
    "linked by C": Variant(flags=(EXTERNAL_LINKER,), c=True),
    "pie linked by C": Variant(flags=("-buildmode=pie", EXTERNAL_LINKER), c=True),
    "cgo": Variant("./cgo", c=True),
    "static with cgo": Variant("./cgo", ("-ldflags=-linkmode=external -extldflags=-static",), c=True),
    "amd64": Variant(machine="amd64"),
    "arm64": Variant(machine="arm64"),
    "arm64 pie": Variant(flags=("-buildmode=pie",), machine="arm64"),
    # With these the function table and the build information had other layouts.
    "Go 1.17": Variant("./old", toolchain="go1.17.13", machine="amd64"),
    "Go 1.17 pie": Variant("./old", ("-buildmode=pie",), toolchain="go1.17.13", machine="amd64"),
    "Go 1.19": Variant("./old", toolchain="go1.19.13", machine="amd64"),
    "Go 1.19 arm64 pie": Variant("./old", ("-buildmode=pie",), toolchain="go1.19.13", machine="arm64"),
}
SDK_OF = {"./spans": "v1.47.0", "./cgo": "v1.47.0", "./old": "v1.10.0"}


@pytest.fixture(params=VARIANTS)
def variant(request: pytest.FixtureRequest) -> Variant:
    return VARIANTS[request.param]


def but_for_path(binary: GoBinary) -> GoBinary:
    return replace(binary, path="")


def image_of(path: Path) -> ElfImage:
    image = ElfImage.open(str(path))
    assert image is not None
    return image


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_all_of_it_is_known(build: Build, variant: Variant) -> None:
    binary = inspected(build(variant))
    version = run_go("env", "GOVERSION", GOTOOLCHAIN=variant.toolchain, where=PROGRAMS / "old").stdout.strip()
    sdk = SDK_OF[variant.package]
    assert (binary.reasons, binary.machine) == ((), variant.machine)
    assert f"go{binary.go_version}" == version
    assert binary.runtime == runtime_layout(version)
    assert binary.sdk == sdk_layout(sdk)
    assert binary.modules["go.opentelemetry.io/otel/sdk"] == sdk
    assert binary.main_module == ("old.test" if variant.package == "./old" else "programs.test")
    assert not binary.is_collector


@pytest.mark.parametrize("name", [name for name, variant in VARIANTS.items() if variant.machine == HOST])
def test_a_stripped_copy_tells_the_same(name: str, build: Build, tmp_path: Path) -> None:
    if shutil.which("strip") is None:
        pytest.skip("there is no strip(1)")
    path, stripped = build(VARIANTS[name]), tmp_path / "stripped"
    subprocess.run(["strip", "--strip-all", "-o", str(stripped), str(path)], check=True, capture_output=True)
    assert stripped.stat().st_size < path.stat().st_size
    assert but_for_path(inspected(stripped)) == but_for_path(inspected(path))


def test_a_copy_without_section_headers_tells_the_same(build: Build, variant: Variant, tmp_path: Path) -> None:
    path, headless = build(variant), tmp_path / "headless"
    data = bytearray(path.read_bytes())
    data[40:48] = bytes(8)  # e_shoff
    data[58:64] = bytes(6)  # e_shentsize, e_shnum, e_shstrndx
    headless.write_bytes(data)
    assert but_for_path(inspected(headless)) == but_for_path(inspected(path))


def test_functions_are_found_by_name_and_wrappers_told_apart(build: Build, variant: Variant) -> None:
    """The symbol table marks the calling convention of the two that share a name; the function table does not."""
    path = build(variant)
    known = symbols(path)
    # Go 1.17 writes the names of deferred calls in two ways.
    of_span = "go.opentelemetry.io/otel/sdk/trace.(*recordingSpan)."
    methods = [name for name in known if name.startswith(of_span) and ".dwrap." not in name]
    # Some of reflect's are marked as wrappers in both of their forms, by hand.
    twice = [name for name in known if f"{name}.abi0" in known and name.startswith("runtime.")]
    assert len(methods) > 10
    assert len(twice) > 10
    runtime = inspected(path).runtime
    assert runtime is not None
    with image_of(path) as image:
        table = find_function_table(image)
        assert table is not None
        for name in methods:
            assert [function.address for function in table.functions(name)] == [known[name]]
        for name in twice:
            functions = list(table.functions(name))
            assert {function.address for function in functions} == {known[name], known[f"{name}.abi0"]}
            assert [f.func_id == runtime.wrapper_func_id for f in functions].count(True) == 1, name
        assert not list(table.functions("no.such"))


def test_a_go_program_without_the_sdk_has_a_runtime_and_no_span_end(build: Build) -> None:
    binary = inspected(build(Variant("./plain")))
    assert binary.runtime is not None
    assert (binary.sdk, binary.span_end) == (None, None)
    assert [reason.code for reason in binary.reasons] == [ReasonCode.SDK_ABSENT]


def test_arguments_on_the_stack_are_not_probed(build: Build) -> None:
    binary = inspected(build(Variant("./old", toolchain="go1.17.13", machine="arm64")))
    assert binary.span_end is None
    assert [reason.code for reason in binary.reasons] == [ReasonCode.PROBE_POINT_UNKNOWN]


def test_a_binary_with_a_broken_function_table_still_has_its_runtime(build: Build, tmp_path: Path) -> None:
    path, broken = build(VARIANTS["default"]), tmp_path / "broken"
    with path.open("rb") as stream:
        section = ELFFile(stream).get_section_by_name(".gopclntab")
        assert section is not None
        table = section["sh_offset"]
    data = bytearray(path.read_bytes())
    data[table + 32 : table + 40] = b"\xff" * 8  # offset of the names
    broken.write_bytes(data)
    binary = inspected(broken)
    assert binary.runtime is not None
    assert binary.span_end is None
    assert [reason.code for reason in binary.reasons] == [ReasonCode.FUNCTIONS_UNREADABLE]


def test_a_c_program_is_no_go_binary() -> None:
    assert inspect(C_PROGRAM) is None


@pytest.mark.parametrize("content", [b"", b"\x7fELF", b"#!/bin/sh\n", b"\x7fELF\x01\x01" + bytes(100)])
def test_what_is_no_executable_is_no_go_binary(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(content)
    assert inspect(path) is None


def test_a_directory_and_a_pipe_are_no_go_binaries(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    assert inspect(tmp_path) is None
    assert inspect(pipe) is None


@pytest.mark.parametrize("name", ["missing", "with\0zero"])
def test_a_path_that_cannot_be_opened_is_unreadable(name: str, tmp_path: Path) -> None:
    with pytest.raises(UnreadableBinary, match="cannot be opened"):
        inspect(f"{tmp_path}/{name}")


@pytest.mark.parametrize("name", ["default", "pie linked by C", "arm64 pie"])
def test_a_truncated_binary_is_unreadable(name: str, build: Build, tmp_path: Path) -> None:
    cut = tmp_path / "cut"
    shutil.copy(build(VARIANTS[name]), cut)
    with cut.open("rb") as stream:
        loaded = max(s["p_offset"] + s["p_filesz"] for s in ELFFile(stream).iter_segments("PT_LOAD"))
    sizes = sorted({*range(loaded - 1, 1000, -(loaded // 100)), *range(20, 1000, 7)}, reverse=True)
    for size in sizes:
        os.truncate(cut, size)
        with pytest.raises(UnreadableBinary):
            inspect(cut)
    os.truncate(cut, 19)
    assert inspect(cut) is None


@pytest.mark.parametrize("name", ["default", "pie linked by C", "Go 1.17 pie"])
def test_no_damage_raises_anything_but_unreadable(name: str, build: Build, tmp_path: Path) -> None:
    """Flips bytes of all that is read: headers, section headers, build information, dynamic table,
    relocations, function table, module data."""
    damaged = tmp_path / "damaged"
    shutil.copy(build(VARIANTS[name]), damaged)
    places = list(range(16, 1024))
    with damaged.open("rb") as stream:
        elf = ELFFile(stream)
        places += range(elf["e_shoff"], elf["e_shoff"] + elf["e_shnum"] * 64)
        for section in elf.iter_sections():
            start, size = section["sh_offset"], section["sh_size"]
            if section.name in (".go.buildinfo", ".dynamic", ".go.module", ".shstrtab"):
                places += list(range(start, start + min(size, 2048))) * 3
            elif section.name in (".gopclntab", ".data.rel.ro", ".rela.dyn"):
                places += range(start, start + min(size, 4096))
    chance = random.Random(1)
    outcomes = {"read": 0, "no Go binary": 0, "unreadable": 0}
    with damaged.open("r+b", buffering=0) as stream:
        for _ in range(700):
            before: list[tuple[int, bytes]] = []
            for place in chance.sample(places, chance.choice((1, 2, 8))):
                stream.seek(place)
                before.append((place, stream.read(1)))
                stream.seek(place)
                stream.write(bytes([chance.choice((0, 1, 0x7F, 0x80, 0xFF, chance.randrange(256)))]))
            try:
                outcomes["no Go binary" if inspect(damaged) is None else "read"] += 1
            except UnreadableBinary:
                outcomes["unreadable"] += 1
            for place, byte in reversed(before):
                stream.seek(place)
                stream.write(byte)
    assert all(outcomes.values()), outcomes
    assert but_for_path(inspected(damaged)) == but_for_path(inspected(build(VARIANTS[name])))


def test_inspection_keeps_neither_memory_nor_descriptors(build: Build) -> None:
    path = build(VARIANTS["pie"])
    inspected(path)
    before = descriptors()
    tracemalloc.start()
    try:
        for _ in range(20):
            inspected(path)
        kept, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert descriptors() == before
    assert kept < 64 << 10
    assert peak < 4 << 20


def test_no_disassembler_and_no_elf_library_is_loaded() -> None:
    code = (
        "import sys, enricher.golang.binary as b; b.inspect(sys.executable);"
        "sys.exit(any(m.split('.')[0] in ('capstone', 'elftools') for m in sys.modules))"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
