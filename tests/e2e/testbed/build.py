"""Builds the Go programs into build/, where a second time finds them."""

import os
import shutil
import subprocess
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
PROGRAMS = ROOT / "tests/e2e/programs"
BUILD_DEADLINE_S = 900


class ToolMissingError(RuntimeError):
    """There is no Go toolchain: neither $GO nor a `go` on the PATH."""


def go() -> str:
    """Path of the go command. Raises ToolMissingError."""
    found = os.environ.get("GO") or shutil.which("go")
    if not found:
        raise ToolMissingError("no Go toolchain: put `go` on the PATH, or its path into the variable GO")
    return found


@cache
def programs() -> Path:
    """Directory with the programs of tests/e2e/programs, each named as its folder."""
    directory = ROOT / "build/programs"
    directory.mkdir(parents=True, exist_ok=True)
    # Go's own cache decides what is to be built anew. No VCS stamp: git refuses a tree of another owner.
    command = [go(), "build", "-buildvcs=false", "-trimpath", "-o", f"{directory}/", "./..."]
    _run(command, PROGRAMS, os.environ | {"CGO_ENABLED": "0"})
    return directory


@cache
def collector() -> Path:
    """Path of the collector of tests/e2e/otelcol."""
    output = _run([str(ROOT / "scripts/build_otelcol.sh")], ROOT, os.environ | {"GO": go()})
    return Path(output.splitlines()[-1])


def _run(command: list[str], directory: Path, environment: dict[str, str]) -> str:
    result = subprocess.run(
        command,
        check=False,
        cwd=directory,
        env=environment,
        capture_output=True,
        text=True,
        timeout=BUILD_DEADLINE_S,
    )
    if result.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{result.stdout}{result.stderr}")
    return result.stdout
