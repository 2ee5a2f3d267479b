"""Ratios as thresholds: the examples of the specification."""

from math import inf, nan

import pytest

from enricher.sampling.threshold import NEVER, adjusted_count, ratio_of, threshold_of, written


@pytest.mark.parametrize(
    ("ratio", "th"),
    [
        (1, "0"), (0.5, "8"), (0.25, "c"), (0.125, "e"), (0.0625, "f"), (0.75, "4"),
        (1 / 3, "aaab"), (0.2, "cccd"), (0.1, "e666"), (0.01, "fd70a"), (0.001, "ffbe77"),
        (0.0001, "fff9724"), (0.00001, "ffff583a"), (0.000001, "ffffef39"),
        (2**-56, "ffffffffffffff"), (2**-48, "ffffffffffff"), (1 - 2**-8, "01"), (1 - 2**-16, "0001"),
    ],
)  # fmt: skip
def test_a_ratio_is_written_as_the_specification_writes_it(ratio: float, th: str) -> None:
    assert written(threshold_of(ratio)) == th


@pytest.mark.parametrize(("ratio", "count"), [(1, 1), (0.5, 2), (0.01, 99.99771123402633), (0.1, 9.99938968568813)])
def test_a_kept_span_stands_for_as_many_as_the_specification_says(ratio: float, count: float) -> None:
    assert adjusted_count(threshold_of(ratio)) == count


def test_a_ratio_of_zero_keeps_none_and_has_no_threshold_to_write() -> None:
    assert threshold_of(0) == NEVER
    assert written(NEVER) == ""
    assert ratio_of(NEVER) == 0
    assert adjusted_count(NEVER) == inf


def test_the_least_ratio_there_is_keeps_some() -> None:
    assert threshold_of(5e-324) == NEVER - 1


def test_so_near_to_one_that_nothing_would_be_left_out_is_one() -> None:
    assert threshold_of(0.999999) == 0


@pytest.mark.parametrize("ratio", [-0.1, 1.1, inf, nan])
def test_what_is_no_ratio_is_refused(ratio: float) -> None:
    with pytest.raises(ValueError, match="not between 0 and 1"):
        threshold_of(ratio)
