"""Clip and union against a count of every single nanosecond."""

from hypothesis import given
from hypothesis import strategies as st

from enricher.join.windows import clip, union_ns

intervals = st.lists(st.tuples(st.integers(0, 60), st.integers(0, 60)), max_size=12)


@given(intervals, st.integers(0, 60), st.integers(0, 60))
def test_the_union_counts_every_nanosecond_inside_the_window_once(
    found: list[tuple[int, int]], start: int, end: int
) -> None:
    covered = {t for low, high in found for t in range(low, high) if start <= t < end}
    assert union_ns(clip(found, start, end)) == len(covered)
