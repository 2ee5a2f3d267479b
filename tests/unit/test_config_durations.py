"""Durations read as Go reads them, and what is printed reads back."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enricher.config import durations


@given(st.integers(min_value=0, max_value=durations.LONGEST_NS))
def test_what_is_rendered_parses_to_the_same(duration_ns: int) -> None:
    assert durations.parse(durations.render(duration_ns)) == duration_ns


@pytest.mark.parametrize(
    ("text", "duration_ns"),
    [
        ("0", 0),
        ("0s", 0),
        ("1ns", 1),
        ("1.5us", 1_500),
        ("2µs", 2_000),
        ("2μs", 2_000),
        ("300ms", 300_000_000),
        (".5s", 500_000_000),
        ("1.s", 1_000_000_000),
        ("1m30s", 90_000_000_000),
        ("1h0m0.000000001s", 3_600_000_000_001),
        (" 30s ", 30_000_000_000),
        ("2562047h47m16.854775807s", durations.LONGEST_NS),
    ],
)
def test_go_notation_is_read(text: str, duration_ns: int) -> None:
    assert durations.parse(text) == duration_ns


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("300", "'300' has no unit; write 300ms or 300s"),
        ("1.5", "'1.5' has no unit; write 1.5ms or 1.5s"),
        ("", "'' is not a duration such as 300ms, 1.5s or 1m30s"),
        ("s", "'s' is not a duration such as 300ms, 1.5s or 1m30s"),
        (".s", "'.s' is not a duration such as 300ms, 1.5s or 1m30s"),
        ("-1s", "'-1s' is not a duration such as 300ms, 1.5s or 1m30s"),
        ("1s2", "'1s2' is not a duration such as 300ms, 1.5s or 1m30s"),
        ("5 s", "'5 s' is not a duration such as 300ms, 1.5s or 1m30s"),
        ("1d", "'1d' is not a duration such as 300ms, 1.5s or 1m30s"),
        ("٣s", "'٣s' is not a duration such as 300ms, 1.5s or 1m30s"),
        ("0.5ns", "'0.5ns' is finer than a nanosecond"),
        ("2562048h", "'2562048h' is longer than 292 years"),
        ("9" * 5000 + "s", f"'{'9' * 5000}s' is not a duration such as 300ms, 1.5s or 1m30s"),
    ],
)
def test_anything_else_is_refused_with_the_reason(text: str, message: str) -> None:
    with pytest.raises(ValueError) as refused:
        durations.parse(text)
    assert str(refused.value) == message


@pytest.mark.parametrize(
    ("duration_ns", "text"),
    [
        (0, "0s"),
        (999, "999ns"),
        (1_500, "1.5us"),
        (300_000_000, "300ms"),
        (1_500_000_000, "1.5s"),
        (90_000_000_000, "1m30s"),
        (300_000_000_000, "5m"),
        (3_600_000_000_001, "1h0.000000001s"),
    ],
)
def test_the_usual_notation_is_printed(duration_ns: int, text: str) -> None:
    assert durations.render(duration_ns) == text
