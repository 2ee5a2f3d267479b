"""What is to be reached, and whether it is: the median over the rounds decides.

A ratio is made within each round, where both subjects had the same machine; the ratio of two medians would compare
one hour with another.
"""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from benchmarks.kit import Row, columns

Rounds = Mapping[str, Sequence[Row]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Goal:
    """One figure: `key` of the row `of`, over that of the row `against` where one is named."""

    figure: str
    of: str
    key: str
    is_at: Literal["least", "most"]
    goal: float
    against: str | None = None
    unit: str = "x"

    def reached(self, rows: Rounds) -> list[float]:
        """One value for each round; none if it was not measured."""
        found = rows.get(self.of, ())
        if self.against is None:
            return [row[self.key] for row in found if self.key in row]
        others = rows.get(self.against, ())
        return [row[self.key] / other[self.key] for row, other in zip(found, others, strict=False)]

    def is_met(self, values: Sequence[float]) -> bool:
        middle = statistics.median(values)
        return middle >= self.goal if self.is_at == "least" else middle <= self.goal


def _per_cpu_second(figure: str, of: str, against: str, goal: float) -> Goal:
    return Goal(figure=figure, of=of, against=against, key="spans_per_cpu_s", is_at="least", goal=goal)


GOALS = (
    *(
        _per_cpu_second(f"every span three attributes, {spans}", f"native-stamp {spans}", f"attributes {spans}", goal)
        for spans, goal in ((512, 4.0), (64, 4.0), (8, 2.5))
    ),
    _per_cpu_second("5 % with evidence, 512", "native-evidence 512", "collector 512", 5.0),
    _per_cpu_second("the same, gzip both ways", "native-evidence 512 gzip", "collector 512 gzip", 1.5),
    _per_cpu_second("three attributes, gzip both ways", "native-stamp 512 gzip", "attributes 512 gzip", 1.5),
    *(
        _per_cpu_second(f"grpcio: three attributes, {spans}", f"grpcio-stamp {spans}", f"attributes {spans}", goal)
        for spans, goal in ((512, 2.0), (64, 1.1), (8, 0.5))
    ),
    Goal(figure="added at half load, p50", of="native 512", key="added_p50_ms", is_at="most", goal=0.5, unit=" ms"),
    Goal(figure="added at half load, p99", of="native 512", key="added_p99_ms", is_at="most", goal=2.0, unit=" ms"),
    Goal(figure="resident, idle", of="native-evidence", key="idle_mib", is_at="most", goal=45, unit=" MiB"),
    Goal(figure="resident, 10,000/s", of="native-evidence", key="resident_mib", is_at="most", goal=70, unit=" MiB"),
    Goal(figure="overloaded: of its limit", of="native overloaded", key="of_limit", is_at="most", goal=1.0),
    Goal(figure="overloaded: growth", of="native overloaded", key="growth", is_at="most", goal=0.05),
    Goal(
        figure="two workers on two cores",
        of="2 workers",
        against="1 worker",
        key="spans_per_s",
        is_at="least",
        goal=1.7,
    ),
)


def verdict(rows: Rounds) -> tuple[str, bool]:
    """A line for each goal that was measured, and whether all of those are reached."""
    lines = [["figure", "goal", "reached", ""]]
    met = True
    for goal in GOALS:
        values = goal.reached(rows)
        if not values:
            continue
        good = goal.is_met(values)
        met &= good
        reached = " / ".join(f"{pick(values):.2f}" for pick in (min, statistics.median, max))
        lines.append(
            [
                goal.figure,
                f"at {goal.is_at} {goal.goal:g}{goal.unit}",
                f"{reached}{goal.unit}",
                "" if good else "NOT REACHED",
            ]
        )
    return columns(lines), met
