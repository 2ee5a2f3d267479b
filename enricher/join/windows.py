"""Intervals of time: what lies inside a span, counted once. Integers in ns, end exclusive."""

from collections.abc import Iterable

Interval = tuple[int, int]


def clip(intervals: Iterable[Interval], start_ns: int, end_ns: int) -> list[Interval]:
    """The parts inside [start_ns, end_ns), by start; what lies outside is left out."""
    parts = ((max(start, start_ns), min(end, end_ns)) for start, end in intervals)
    return sorted(part for part in parts if part[0] < part[1])


def union_ns(intervals: Iterable[Interval]) -> int:
    """Time covered by intervals sorted by start."""
    total = covered_to = 0
    for start, end in intervals:
        total += max(0, end - max(start, covered_to))
        covered_to = max(covered_to, end)
    return total
