"""What the benchmarks share: CPU time and memory of a process with its children, and tables over rounds.

Figures of one machine and one hour can be compared with each other, and with nothing else: so whatever is compared
is measured in turns, round by round, and each figure is printed as min / median / max over the rounds.
"""

import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.e2e.testbed.processes import stat_fields, tree

TICK = os.sysconf("SC_CLK_TCK")

# Counted from the third field of /proc/PID/stat: utime, stime, cutime, cstime.
STAT_TIMES = slice(11, 15)

Row = Mapping[str, float]


def cpu_seconds(pid: int) -> float:
    """User and system time of the process and its descendants, those that have ended included."""
    return sum(times(member) for member in tree(pid))


def times(pid: int) -> float:
    """Of the process alone and of its children that have ended; 0 if it has itself."""
    return sum(map(int, stat_fields(pid)[STAT_TIMES])) / TICK


def memory_mib(pid: int, key: str) -> float:
    """`key` of /proc/PID/status (VmRSS, VmHWM) added up over the tree: shared pages count once for each process."""
    return _sum_kib(pid, "status", key)


def _sum_kib(pid: int, name: str, key: str) -> float:
    total = 0
    for member in tree(pid):
        try:
            text = Path(f"/proc/{member}/{name}").read_text()
        except (FileNotFoundError, ProcessLookupError):
            continue
        total += sum(int(line.split()[1]) for line in text.splitlines() if line.startswith(f"{key}:"))
    return total / 1024


def busy_seconds(cores: Iterable[int]) -> float:
    """Time the cores were not idle, whoever used them."""
    total = 0
    names = {f"cpu{core}" for core in cores}
    for line in Path("/proc/stat").read_text().splitlines():
        name, *ticks = line.split()
        if name in names:
            user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, ticks[:8])
            total += user + nice + system + irq + softirq + steal
    return total / TICK


class Foreign:
    """Of these cores, how many others than this program and its children have used since it was made."""

    def __init__(self, cores: Sequence[int]) -> None:
        self._cores = set(cores)
        self._begin = time.monotonic(), self._used()

    def _used(self) -> float:
        return busy_seconds(self._cores) - sum(times(pid) for pid in tree(os.getpid()) if self._is_ours(pid))

    def _is_ours(self, pid: int) -> bool:
        """Children that are pinned elsewhere take nothing of these cores; this program itself next to nothing."""
        try:
            return pid == os.getpid() or os.sched_getaffinity(pid) <= self._cores
        except ProcessLookupError:
            return False

    def cores_used(self) -> float:
        begin, used = self._begin
        return (self._used() - used) / (time.monotonic() - begin)


@dataclass(frozen=True, slots=True)
class Column:
    """One figure of a row. `key` is looked up in the measurements; one that is missing everywhere prints as `-`."""

    title: str
    key: str
    form: Callable[[float], str] = "{:.2f}".format


def thousands(value: float) -> str:
    return f"{value / 1e3:.0f}k" if value >= 1e4 else f"{value / 1e3:.1f}k"


def table(first: str, rows: Mapping[str, Sequence[Row]], figures: Sequence[Column]) -> str:
    """A line for each name, min / median / max over its measurements in each column."""
    cells = [[first, *(figure.title for figure in figures)]]
    for name, measured in rows.items():
        cells.append([name, *(_spread(measured, figure) for figure in figures)])
    return columns(cells)


def columns(lines: Sequence[Sequence[str]]) -> str:
    """The first cells of all lines flush left, the others flush right; the first line is the head."""
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    return "\n".join(
        "  ".join([line[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(line[1:], widths[1:], strict=True))])
        for line in lines
    )


def _spread(measured: Sequence[Row], column: Column) -> str:
    found = [row[column.key] for row in measured if column.key in row]
    if not found:
        return "-"
    if len(found) == 1:
        return column.form(found[0])
    return " / ".join(column.form(pick(found)) for pick in (min, statistics.median, max))


def median(measured: Sequence[Row], key: str) -> float:
    return statistics.median(row[key] for row in measured)


def progress(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def write_json(path: Path | None, rows: Mapping[str, Sequence[Row]]) -> None:
    """Every measurement, not only what the table shows."""
    if path is not None:
        path.write_text(json.dumps({name: [dict(row) for row in found] for name, found in rows.items()}, indent=1))
