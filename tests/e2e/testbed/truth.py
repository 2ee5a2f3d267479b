"""What the service measured of each span, and how the claims on it compare with that."""

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from tests.e2e.testbed.spans import KeptSpan

THRESHOLD_NS = 1_000_000
TAIL_WINDOW_NS = 300_000_000

# How far a duration may be off: the larger of the two.
TOLERANCE = 0.05
TOLERANCE_NS = 500_000

Claims = dict[str, bool | int | float | str]
Interval = tuple[int, int]

# A goroutine of the span, or of one inside it, waited; or that of a client's connection.
Through = Literal["goroutine", "connection"]


@dataclass(frozen=True, slots=True)
class Wait:
    """A call that blocked, measured by the program that made it. Times in ns of CLOCK_MONOTONIC.

    The goroutine saw the end of its call, but it may have had to wait for a core before it could: the wait was over
    between `released_ns` and `end_ns`. On a machine with cores to spare the two are hardly apart. Where another
    goroutine waited on its behalf, the same holds for the beginning, between `start_ns` and `begun_ns`.
    """

    syscalls: tuple[str, ...]
    kind: Literal["parked", "kernel"]
    start_ns: int
    begun_ns: int
    released_ns: int
    end_ns: int
    after_end: bool = False  # the span had ended before it began
    in_child: bool = False  # a span inside this one waited
    # How it can be told that it is the span's.
    through: tuple[Through, ...] = ("goroutine",)

    @property
    def longest(self) -> Interval:
        """What of it belongs to the span, at the most: a tail is followed for a limited time."""
        return self.start_ns, self._cut(self.end_ns)

    @property
    def shortest(self) -> Interval:
        """The same, at the least."""
        end_ns = self._cut(min(max(self.start_ns, self.released_ns), self.end_ns))
        return self.begun_ns, max(end_ns, self.begun_ns)

    def _cut(self, end_ns: int) -> int:
        return min(end_ns, self.start_ns + TAIL_WINDOW_NS) if self.after_end else end_ns


def length_ns(interval: Interval) -> int:
    return interval[1] - interval[0]


def union_ns(intervals: Iterable[Interval]) -> int:
    """Time covered; that in which two overlap counts once."""
    total = covered_to = 0
    for start, end in sorted(intervals):
        total += max(0, end - max(start, covered_to))
        covered_to = max(covered_to, end)
    return total


@dataclass(frozen=True, slots=True)
class Range:
    """A duration that is known to lie between two."""

    least_ns: int
    most_ns: int

    @classmethod
    def of(cls, waits: Sequence[Wait]) -> "Range":
        """Of their union. A wait shorter than the threshold is none."""
        return cls(
            union_ns(w.shortest for w in waits if length_ns(w.shortest) >= THRESHOLD_NS),
            union_ns(w.longest for w in waits if length_ns(w.longest) >= THRESHOLD_NS),
        )

    def without(self, part: "Range") -> "Range":
        return Range(max(0, self.least_ns - part.most_ns), max(0, self.most_ns - part.least_ns))

    def error_ns(self, claimed_s: float) -> int:
        """How far off it is: 0 between the two."""
        claimed_ns = round(claimed_s * 1e9)
        return max(0, self.least_ns - claimed_ns, claimed_ns - self.most_ns)

    def error(self, claimed_s: float) -> float:
        """The same, as a share of the nearer one."""
        bound_ns = self.least_ns if claimed_s * 1e9 < self.least_ns else self.most_ns
        return self.error_ns(claimed_s) / max(bound_ns, 1)

    def agrees(self, claimed_s: object) -> bool:
        if not isinstance(claimed_s, float):
            return False
        return self.error_ns(claimed_s) <= TOLERANCE_NS or self.error(claimed_s) <= TOLERANCE

    def __str__(self) -> str:
        return f"{self.least_ns / 1e6:.2f} to {self.most_ns / 1e6:.2f} ms"


@dataclass(frozen=True, slots=True)
class Truth:
    """What one span did."""

    id: str  # trace id and span id
    name: str
    protocol: str
    cause: str
    step: str
    waits: tuple[Wait, ...]
    sampled: bool = True
    # Passed on to another goroutine while open, or it has such a span inside: which waits of that time are whose,
    # nobody can tell.
    handed_over: bool = False

    @property
    def row(self) -> str:
        return f"{self.protocol} {self.cause}" + ("" if self.name == "server" else f" ({self.name})")

    @property
    def blocked_for(self) -> Range:
        return Range.of(self.waits)

    @property
    def after_end_for(self) -> Range:
        return Range.of([wait for wait in self.waits if wait.after_end])

    @property
    def direct_for(self) -> Range:
        """The part in no span inside this one."""
        inner = [wait for wait in self.waits if wait.in_child]
        return self.blocked_for.without(Range.of(inner)) if inner else self.blocked_for

    @property
    def blocked(self) -> bool | None:
        """None: it may have been, but it is not known to have been for as long as the threshold."""
        if self._certain:
            return True
        return None if self._possible else False

    @property
    def _certain(self) -> list[Wait]:
        return [wait for wait in self.waits if length_ns(wait.shortest) >= THRESHOLD_NS]

    @property
    def _possible(self) -> list[Wait]:
        return [wait for wait in self.waits if length_ns(wait.longest) >= THRESHOLD_NS]

    @property
    def kinds(self) -> set[str]:
        """What may be said of it."""
        certain = {wait.kind for wait in self._certain}
        possible = {wait.kind for wait in self._possible}
        named = {"kernel": {"kernel"}, "parked": {"parked"}, "mixed": {"kernel", "parked"}}
        return {name for name, kinds in named.items() if certain <= kinds <= possible}

    @property
    def methods(self) -> set[str]:
        """How it may have been matched: `connection` is said only where nothing but clients' connections waited."""
        methods = set()
        if any("goroutine" in wait.through for wait in self._possible):
            methods.add("span_end")
        if all("connection" in wait.through for wait in self._certain):
            methods.add("connection")
        return methods

    @property
    def names(self) -> set[str]:
        """Calls of which any may be the longest: two waits may be of nearly the same length."""
        longest_ns = max((length_ns(wait.longest) for wait in self.waits), default=0)
        return {name for wait in self.waits for name in wait.syscalls if 2 * length_ns(wait.longest) > longest_ns}

    @property
    def cut_off(self) -> bool:
        """A wait goes on beyond the tail, so that its whole length cannot be known in time."""
        return any(w.after_end and w.end_ns - w.start_ns > TAIL_WINDOW_NS + TOLERANCE_NS for w in self.waits)


def read_truths(lines: Iterable[str]) -> list[Truth]:
    """From the lines of the service's file."""
    return [_truth(json.loads(line)) for line in lines]


def _truth(line: dict[str, Any]) -> Truth:
    waits = tuple(
        Wait(**(w | {"syscalls": tuple(w["syscalls"]), "through": tuple(w["through"])})) for w in line["waits"]
    )
    return Truth(
        id=line["trace_id"] + line["span_id"],
        **{name: line[name] for name in ("name", "protocol", "cause", "step", "sampled", "handed_over")},
        waits=waits,
    )


What = Literal["missed", "wrongly marked", "duration", "direct", "after end", "call", "kind", "completeness", "method"]


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
    direct = claims.get("ebpf.syscall.blocked.direct", duration)  # left off where that is all of it
    # Not said twice: where both are one, and it is wrong.
    if not truth.handed_over and (direct != duration or truth.blocked_for.agrees(duration)):
        expect("direct", truth.direct_for.agrees(direct), f"{direct} s for {truth.direct_for}")
    name = claims.get("ebpf.syscall.name")
    expect("call", name in truth.names, f"{name} for {' or '.join(sorted(truth.names))}")
    kind = claims.get("ebpf.syscall.blocked.kind")
    expect("kind", kind in truth.kinds, f"{kind} for {' or '.join(sorted(truth.kinds))}")
    complete = claims.get("ebpf.complete", True)
    expect("completeness", truth.cut_off or complete is True, f"ebpf.complete is {complete}")
    method = claims.get("ebpf.match.method")
    expect("method", method in truth.methods, f"{method} for {' or '.join(sorted(truth.methods))}")
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
