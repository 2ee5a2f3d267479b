"""What a benchmark calls reached."""

import pytest

from benchmarks.pipeline.goals import GOALS, Goal, verdict

RATIO = Goal(figure="ratio", of="subject", against="yardstick", key="spans_per_cpu_s", is_at="least", goal=2.0)
MOST = Goal(figure="most", of="subject", key="added_p50_ms", is_at="most", goal=0.5)


def rows(key: str, **values: list[float]) -> dict[str, list[dict[str, float]]]:
    return {name: [{key: value} for value in found] for name, found in values.items()}


def test_a_ratio_is_of_two_figures_of_the_same_round() -> None:
    measured = rows("spans_per_cpu_s", subject=[30.0, 8.0, 100.0], yardstick=[10.0, 4.0, 200.0])
    assert RATIO.reached(measured) == [3.0, 2.0, 0.5]


@pytest.mark.parametrize(
    ("goal", "values", "met"),
    [
        (RATIO, [1.0, 2.0, 9.0], True),
        (RATIO, [1.0, 1.9, 9.0], False),
        (MOST, [0.1, 0.5, 9.0], True),
        (MOST, [0.1, 0.6, 0.7], False),
    ],
)
def test_the_median_over_the_rounds_decides(goal: Goal, values: list[float], met: bool) -> None:
    assert goal.is_met(values) is met


def test_a_goal_that_was_not_measured_is_neither_told_of_nor_failed() -> None:
    told, met = verdict(rows("added_p50_ms", **{"native 512": [0.4]}))
    assert met
    assert [line.split(",")[0] for line in told.splitlines()[1:]] == ["added at half load"]


def test_one_goal_that_is_not_reached_is_named_and_fails_the_whole() -> None:
    measured = rows("added_p50_ms", **{"native 512": [0.6]}) | rows("idle_mib", **{"native-evidence": [40.0]})
    told, met = verdict(measured)
    assert not met
    assert [line.startswith("added") for line in told.splitlines() if "NOT REACHED" in line] == [True]


def test_no_figure_is_named_twice() -> None:
    assert len({goal.figure for goal in GOALS}) == len(GOALS)
