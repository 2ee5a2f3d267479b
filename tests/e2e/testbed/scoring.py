"""How good the claims of a run are: precision, recall, errors of durations, by cause."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tests.e2e.testbed.spans import KeptSpan
from tests.e2e.testbed.truth import TOLERANCE_NS, Claims, Truth, What, judge

ALL = "all"


@dataclass(frozen=True, slots=True)
class DurationError:
    """Of one claimed duration, against what the program measured."""

    off_ns: int  # from the nearer end of what it can have been, 0 inside
    share: float  # of that
    unsure: float  # how far apart those ends are, as a share of the farther one


@dataclass(slots=True)
class Score:
    """Of any number of spans. What cannot be known to have been blocked, or not, counts for nothing."""

    spans: int = 0
    blocked: int = 0
    innocent: int = 0
    missed: int = 0
    missed_in_silence: int = 0  # without a word that evidence was lost
    wrongly_marked: int = 0
    rightly_marked: int = 0
    wrong: dict[What, int] = field(default_factory=dict)  # of those that are rightly marked
    incomplete: int = 0  # spans that say so
    incomplete_for_loss: int = 0  # of these, those with no other reason for it
    durations: list[DurationError] = field(default_factory=list)

    def add(self, truth: Truth, claims: Claims) -> None:
        self.spans += 1
        incomplete = claims.get("ebpf.complete") is False
        self.incomplete += incomplete
        self.incomplete_for_loss += incomplete and not truth.cut_off and not truth.handed_over
        marked = claims.get("ebpf.system_call_blocked") is True
        if truth.blocked is None:
            return
        self.blocked += truth.blocked
        self.innocent += not truth.blocked
        self.wrongly_marked += marked and not truth.blocked
        if not truth.blocked:
            return
        self.missed += not marked
        self.missed_in_silence += not marked and claims.get("ebpf.complete", True) is True
        if marked:
            self._add_marked(truth, claims)

    def _add_marked(self, truth: Truth, claims: Claims) -> None:
        self.rightly_marked += 1
        for finding in judge(truth, claims):
            self.wrong[finding.what] = self.wrong.get(finding.what, 0) + 1
        duration = claims.get("ebpf.syscall.blocked.duration")
        # What was lost makes a duration shorter, and the span says so.
        if isinstance(duration, float) and (claims.get("ebpf.complete", True) is True or truth.cut_off):
            expected = truth.blocked_for
            unsure = (expected.most_ns - expected.least_ns) / expected.most_ns
            self.durations.append(DurationError(expected.error_ns(duration), expected.error(duration), unsure))

    def merge(self, other: "Score") -> None:
        for name in ("spans", "blocked", "innocent", "missed", "missed_in_silence", "wrongly_marked"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.rightly_marked += other.rightly_marked
        self.incomplete += other.incomplete
        self.incomplete_for_loss += other.incomplete_for_loss
        self.durations += other.durations
        for what, count in other.wrong.items():
            self.wrong[what] = self.wrong.get(what, 0) + count

    @property
    def precision(self) -> float:
        """Share of the marks that are right; 1 where there is none."""
        marks = self.rightly_marked + self.wrongly_marked
        return self.rightly_marked / marks if marks else 1.0

    @property
    def recall(self) -> float:
        """Share of the blocked spans that are marked; 1 where there is none."""
        return 1 - self.missed / self.blocked if self.blocked else 1.0

    def duration_error(self, quantile: float) -> float:
        """As a share. One of less than half a millisecond counts as none from the 95th percentile on."""
        shares = sorted(0.0 if quantile > 0.95 and e.off_ns <= TOLERANCE_NS else e.share for e in self.durations)
        return shares[min(len(shares) - 1, int(quantile * len(shares)))] if shares else 0.0

    def unsureness(self, quantile: float) -> float:
        """How exactly the program itself could tell, as a share: what lies inside of that is no error."""
        shares = sorted(error.unsure for error in self.durations)
        return shares[min(len(shares) - 1, int(quantile * len(shares)))] if shares else 0.0

    def figures(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "spans": self.spans,
            "blocked": self.blocked,
            "innocent": self.innocent,
            "precision": self.precision,
            "recall": self.recall,
            "missed": self.missed,
            "missed_in_silence": self.missed_in_silence,
            "wrongly_marked": self.wrongly_marked,
            "wrong": dict(self.wrong),
            "incomplete": self.incomplete,
            "incomplete_for_loss": self.incomplete_for_loss,
            "duration_error_median": self.duration_error(0.5),
            "duration_error_p99": self.duration_error(0.99),
            "duration_unsure_median": self.unsureness(0.5),
            "duration_unsure_p99": self.unsureness(0.99),
        }


def scores(truths: Iterable[Truth], spans: Iterable[KeptSpan]) -> dict[str, Score]:
    """By row of the truth. A span that has not arrived counts as missed."""
    claims = {kept.id: kept.claims for kept in spans}
    found: dict[str, Score] = {}
    for truth in truths:
        found.setdefault(truth.row, Score()).add(truth, claims.get(truth.id, {}))
    return found


def total(by_row: Mapping[str, Score]) -> Score:
    whole = Score()
    for score in by_row.values():
        whole.merge(score)
    return whole


_COLUMNS: tuple[tuple[str, Callable[[Score], str]], ...] = (
    ("spans", lambda s: f"{s.spans}"),
    ("blocked", lambda s: f"{s.blocked or '.'}"),
    ("precision", lambda s: f"{s.precision:.2%}" if s.rightly_marked + s.wrongly_marked else "."),
    ("recall", lambda s: f"{s.recall:.2%}" if s.blocked else "."),
    ("wrongly marked", lambda s: f"{s.wrongly_marked or '.'}"),
    ("error median", lambda s: f"{s.duration_error(0.5):.2%}" if s.durations else "."),
    ("p99", lambda s: f"{s.duration_error(0.99):.2%}" if s.durations else "."),
    ("known to", lambda s: f"{s.unsureness(0.5):.2%}" if s.durations else "."),
    ("incomplete", lambda s: f"{s.incomplete or '.'}"),
    ("wrong", lambda s: " ".join(f"{what} {count}" for what, count in sorted(s.wrong.items())) or "."),
)


def table(rows: Mapping[str, Score], first: str = "") -> str:
    """A line for each."""
    lines = [[first, *(title for title, _ in _COLUMNS)]]
    lines += [[name, *(show(score) for _, show in _COLUMNS)] for name, score in rows.items()]
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    return "\n".join(_line(line, widths) for line in lines)


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    numbers = (cell.rjust(width) for cell, width in zip(cells[1:-1], widths[1:-1], strict=True))
    return "  ".join([cells[0].ljust(widths[0]), *numbers, cells[-1]]).rstrip()


@dataclass(frozen=True, slots=True)
class Limits:
    """What the figures have to reach."""

    precision: float
    recall: float
    precision_of_each: float
    recall_of_each: float
    error_median: float = 0.01
    error_p99: float = 0.05


FIGURES = Limits(precision=0.999, recall=0.99, precision_of_each=0.995, recall_of_each=0.98)


def shortcomings(by_row: Mapping[str, Score], limits: Limits = FIGURES) -> list[str]:
    """Where they do not, a line each. A row with too few spans for its limit may have one wrong."""
    whole = total(by_row)
    problems = []
    if whole.precision < limits.precision:
        problems.append(f"precision {whole.precision:.3%} is below {limits.precision:.1%}")
    if whole.recall < limits.recall:
        problems.append(f"recall {whole.recall:.3%} is below {limits.recall:.1%}")
    if (median := whole.duration_error(0.5)) > limits.error_median:
        problems.append(f"median error of durations {median:.2%} is above {limits.error_median:.0%}")
    if (p99 := whole.duration_error(0.99)) > limits.error_p99:
        problems.append(f"p99 of the errors of durations {p99:.2%} is above {limits.error_p99:.0%}")
    for name, score in sorted(by_row.items()):
        if score.recall < limits.recall_of_each and score.missed > 1:
            problems.append(f"{name}: recall {score.recall:.2%}, {score.missed} of {score.blocked} missed")
        if score.wrongly_marked > 1 and _wrong_share(score) > 1 - limits.precision_of_each:
            problems.append(f"{name}: {score.wrongly_marked} of {score.spans} wrongly marked")
    return problems


def _wrong_share(score: Score) -> float:
    """A row has, as a rule, only spans of which all are blocked, or none: then its precision is 0 with the first."""
    return score.wrongly_marked / max(score.spans, 1)
