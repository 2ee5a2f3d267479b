"""Builds the programs in golang_programs in the ways people build theirs."""

import os
import platform
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from itertools import count
from pathlib import Path

import pytest
from elftools.elf.elffile import ELFFile
from elftools.elf.sections import SymbolTableSection

from enricher.golang.binary import GoBinary, inspect
from enricher.golang.elf import Machine
from enricher.golang.layouts import runtime_layout
from enricher.golang.reason import Reason

PROGRAMS = Path(__file__).parent / "golang_programs"
HOST: Machine = "arm64" if platform.machine() == "aarch64" else "amd64"
EXTERNAL_LINKER = "-ldflags=-linkmode=external"


@dataclass(frozen=True)
class Variant:
    """How a program is built: `c` tells that the host's C compiler takes part."""

    package: str = "./spans"
    flags: tuple[str, ...] = ()
    machine: Machine = HOST
    c: bool = False
    toolchain: str = "local"

    @property
    def where(self) -> Path:
        """The module: a program that needs other modules than the rest is one of its own."""
        own = PROGRAMS / self.package
        return own if (own / "go.mod").exists() else PROGRAMS


Build = Callable[[Variant], Path]


def run_go(*arguments: str, where: Path = PROGRAMS, **environment: str) -> subprocess.CompletedProcess[str]:
    command = os.environ.get("GO") or shutil.which("go")
    if command is None:
        pytest.skip("there is no go: it is neither in PATH nor named by GO")
    merged = {**os.environ, "GOFLAGS": "-mod=readonly", "GOWORK": "off", **environment}
    return subprocess.run([command, *arguments], cwd=where, env=merged, capture_output=True, text=True, check=False)


def builder(directory: Path) -> Build:
    """Builds each variant once, into `directory`."""
    numbers = count()

    @cache
    def built(variant: Variant) -> Path:
        environment = {
            "GOTOOLCHAIN": variant.toolchain,
            "GOARCH": variant.machine,
            "CGO_ENABLED": "1" if variant.c else "0",
        }
        if variant.c and not (shutil.which("gcc") or shutil.which("clang")):
            pytest.skip("there is no C compiler")
        version = run_go("env", "GOVERSION", where=variant.where, **environment)
        if version.returncode:
            pytest.skip(f"{variant.toolchain} cannot be had: {version.stderr.strip().splitlines()[-1]}")
        known = runtime_layout(version.stdout.strip())
        if isinstance(known, Reason):
            pytest.skip(f"no test programs: {known}")
        output = directory / str(next(numbers))
        package = variant.package if variant.where == PROGRAMS else "."
        done = run_go("build", *variant.flags, "-o", str(output), package, where=variant.where, **environment)
        assert done.returncode == 0, done.stderr
        return output

    return built


def inspected(path: Path) -> GoBinary:
    binary = inspect(path)
    assert binary is not None
    return binary


def symbols(path: Path) -> dict[str, int]:
    """Addresses by name, by the symbol table, which the product does not read."""
    with path.open("rb") as stream:
        table = ELFFile(stream).get_section_by_name(".symtab")
        assert isinstance(table, SymbolTableSection)
        return {symbol.name: symbol["st_value"] for symbol in table.iter_symbols()}
