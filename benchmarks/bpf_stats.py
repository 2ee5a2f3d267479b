"""What the kernel counts of BPF programs: how often each ran, and for how long."""

import json
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from tests.e2e.testbed.processes import tree

SWITCH = Path("/proc/sys/kernel/bpf_stats_enabled")


@dataclass(frozen=True, slots=True)
class ProgramCost:
    """Of one loaded program, since it was loaded or since an earlier reading."""

    id: int
    name: str
    runs: int
    ns: int

    @property
    def ns_per_run(self) -> float:
        return self.ns / self.runs if self.runs else 0.0

    def since(self, earlier: Self | None) -> "ProgramCost":
        if earlier is None:
            return self
        return ProgramCost(self.id, self.name, self.runs - earlier.runs, self.ns - earlier.ns)


@contextmanager
def counting() -> Iterator[None]:
    """While it lasts the kernel counts, which costs every run of every program some tens of nanoseconds."""
    before = SWITCH.read_text()
    SWITCH.write_text("1")
    try:
        yield
    finally:
        SWITCH.write_text(before)


def costs(pid: int) -> list[ProgramCost]:
    """Of the programs that the process and its children hold open, by name."""
    found = {}
    for member in tree(pid):
        for entry in Path(f"/proc/{member}/fdinfo").iterdir():
            fields = dict(line.split(":", 1) for line in entry.read_text().splitlines() if ":" in line)
            if "run_cnt" in fields:
                program = int(fields["prog_id"])
                found[program] = ProgramCost(
                    program, name_of(program), int(fields["run_cnt"]), int(fields["run_time_ns"])
                )
    return sorted(found.values(), key=lambda cost: cost.name)


def name_of(program: int) -> str:
    """Its whole name if there is a bpftool to tell it, otherwise its number."""
    if not shutil.which("bpftool"):
        return f"program {program}"
    command = ["bpftool", "-j", "prog", "show", "id", str(program)]
    result = subprocess.run(command, check=True, capture_output=True, text=True)
    name: str = json.loads(result.stdout).get("name", f"program {program}")
    return name
