"""What the service measured of each span, and how the claims on it compare with that."""

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from tests.e2e.testbed.spans import KeptSpan

THRESHOLD_NS = 1_000_000
TAIL_WINDOW_NS = 300_000_000

# How far a duration may be off: the larger of the two.
TOLERANCE = 0.05
TOLERANCE_NS = 500_000

Claims = dict[str, bool | int | float | str]


@dataclass(frozen=True, slots=True)
class Wait:
    """A call that blocked, measured on its own goroutine. Times in ns of CLOCK_MONOTONIC.

    The goroutine saw the end of its call, but it may have had to wait for a core before it could: the wait was over
    between `released_ns` and `end_ns`. On a machine with cores to spare the two are hardly apart.
    """

    syscalls: tuple[str, ...]
    kind: Literal["parked", "kernel"]
    start_ns: int
    released_ns: int
    end_ns: int
    after_end: bool  # the span had ended before it began

    @property
    def longest_ns(self) -> int:
        """What of it belongs to the span, at the most: a tail is followed for a limited time."""
        return self._counted(self.end_ns)

    @property
    def shortest_ns(self) -> int:
        """The same, at the least."""
        return self._counted(min(max(self.start_ns, self.released_ns), self.end_ns))

    def _counted(self, end_ns: int) -> int:
        length_ns = end_ns - self.start_ns
        return min(length_ns, TAIL_WINDOW_NS) if self.after_end else length_ns


@dataclass(frozen=True, slots=True)
class Range:
    """A duration that is known to lie between two."""

    least_ns: int
    most_ns: int

    def agrees(self, claimed_s: object) -> bool:
        if not isinstance(claimed_s, float):
            return False
        least_ns = self.least_ns - max(TOLERANCE * self.least_ns, TOLERANCE_NS)
        return least_ns <= claimed_s * 1e9 <= self.most_ns + max(TOLERANCE * self.most_ns, TOLERANCE_NS)

    def __str__(self) -> str:
        return f"{self.least_ns / 1e6:.2f} to {self.most_ns / 1e6:.2f} ms"


@dataclass(frozen=True, slots=True)
class Truth:
    """What one span did. The waits of one span follow each other, so their lengths add up."""

    id: str  # trace id and span id
    name: str
    protocol: str
    cause: str
    step: str
    waits: tuple[Wait, ...]

    @property
    def row(self) -> str:
        return f"{self.protocol} {self.cause}" + ("" if self.name == "server" else f" ({self.name})")

    @property
    def blocked_for(self) -> Range:
        return _sum(self.waits)

    @property
    def after_end_for(self) -> Range:
        return _sum([wait for wait in self.waits if wait.after_end])

    @property
    def blocked(self) -> bool | None:
        """None: it may have been, but it is not known to have been for as long as the threshold."""
        if self.blocked_for.least_ns >= THRESHOLD_NS:
            return True
        return None if self.blocked_for.most_ns >= THRESHOLD_NS else False

    @property
    def kinds(self) -> set[str]:
        """What may be said of it."""
        certain = {wait.kind for wait in self.waits if wait.shortest_ns >= THRESHOLD_NS}
        possible = {wait.kind for wait in self.waits if wait.longest_ns >= THRESHOLD_NS}
        named = {"kernel": {"kernel"}, "parked": {"parked"}, "mixed": {"kernel", "parked"}}
        return {name for name, kinds in named.items() if certain <= kinds <= possible}

    @property
    def cut_off(self) -> bool:
        """A wait goes on beyond the tail, so that its whole length cannot be known in time."""
        return any(w.after_end and w.end_ns - w.start_ns > TAIL_WINDOW_NS + TOLERANCE_NS for w in self.waits)


def _sum(waits: Sequence[Wait]) -> Range:
    return Range(sum(wait.shortest_ns for wait in waits), sum(wait.longest_ns for wait in waits))


def read_truth(path: Path) -> list[Truth]:
    """The whole lines of the service's file."""
    text = path.read_text() if path.exists() else ""
    return [_truth(json.loads(line)) for line in text.splitlines(keepends=True) if line.endswith("\n")]


def _truth(line: dict[str, Any]) -> Truth:
    waits = tuple(
        Wait(tuple(w["syscalls"]), w["kind"], w["start_ns"], w["released_ns"], w["end_ns"], w["after_end"])
        for w in line["waits"]
    )
    return Truth(line["trace_id"] + line["span_id"], line["name"], line["protocol"], line["cause"], line["step"], waits)


What = Literal["missed", "wrongly marked", "duration", "after end", "call", "kind", "completeness", "method"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that the claims on a span say wrongly."""

    what: What
    truth: Truth
    says: str

    def __str__(self) -> str:
        return f"{self.what}: {self.truth.row}, step {self.truth.step}, span {self.truth.id}: {self.says}"


def judge(truth: Truth, claims: Claims) -> list[Finding]:
    """All that the claims on this span have wrong."""
    marked = claims.get("ebpf.system_call_blocked")
    if truth.blocked is False:
        return [Finding("wrongly marked", truth, f"{claims}")] if marked is not None else []
    if marked is not True:
        missed = Finding("missed", truth, f"was blocked for {truth.blocked_for}, claims {claims}")
        return [missed] if truth.blocked else []
    findings = []

    def expect(what: What, right: bool, says: str) -> None:
        if not right:
            findings.append(Finding(what, truth, says))

    duration = claims.get("ebpf.syscall.blocked.duration")
    expect("duration", truth.blocked_for.agrees(duration), f"{duration} s for {truth.blocked_for}")
    after_end = claims.get("ebpf.syscall.blocked.after_end", 0.0)  # left off where there is none
    expect("after end", truth.after_end_for.agrees(after_end), f"{after_end} s for {truth.after_end_for}")
    name, longest_ns = claims.get("ebpf.syscall.name"), max(wait.longest_ns for wait in truth.waits)
    # Two waits of nearly the same length: either may be the longer one.
    names = {name for wait in truth.waits for name in wait.syscalls if 2 * wait.longest_ns > longest_ns}
    expect("call", name in names, f"{name} for {sorted(names)}")
    kind = claims.get("ebpf.syscall.blocked.kind")
    expect("kind", kind in truth.kinds, f"{kind} for {' or '.join(sorted(truth.kinds))}")
    complete = claims.get("ebpf.complete", True)
    expect("completeness", truth.cut_off or complete is True, f"ebpf.complete is {complete}")
    method = claims.get("ebpf.match.method")
    expect("method", method == "span_end", f"{method}")
    return findings


@dataclass(frozen=True, slots=True)
class Judgement:
    """What the claims of a run say against what was measured."""

    findings: tuple[Finding, ...]
    table: str  # a line for each cause

    def of(self, *what: What) -> list[Finding]:
        return [finding for finding in self.findings if finding.what in what]

    def report(self, findings: Sequence[Finding], shown: int = 12) -> str:
        """A failure message: the whole table, and the first of these findings."""
        lines = [f"{len(findings)} wrong", self.table, *map(str, findings[:shown])]
        return "\n".join(lines + ([f"... and {len(findings) - shown} more"] if len(findings) > shown else []))


def judge_all(truths: Iterable[Truth], spans: Iterable[KeptSpan]) -> Judgement:
    """Holds every span that has a truth against it. A span that has not arrived counts as missed."""
    claims = {kept.id: kept.claims for kept in spans}
    findings: list[Finding] = []
    rows: dict[str, Counter[str]] = {}
    for truth in truths:
        found = judge(truth, claims.get(truth.id, {}))
        findings += found
        row = rows.setdefault(truth.row, Counter())
        row["spans"] += 1
        row["blocked"] += truth.blocked is True
        row["marked"] += claims.get(truth.id, {}).get("ebpf.system_call_blocked") is not None
        row.update(finding.what for finding in found)
    return Judgement(tuple(findings), _table(rows))


def _table(rows: dict[str, Counter[str]]) -> str:
    columns = ["spans", "blocked", "marked", *get_args(What)]
    width = max(map(len, rows), default=0)
    lines = [" " * width + "".join(f" {column:>{max(7, len(column))}}" for column in columns)]
    for name in sorted(rows):
        cells = (f" {rows[name][column] or '.':>{max(7, len(column))}}" for column in columns)
        lines.append(f"{name:{width}}" + "".join(cells))
    return "\n".join(lines)
