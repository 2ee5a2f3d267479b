"""The truth benchmark in short: the figures hold at 64 requests at once, and with evidence lost nothing is false."""

from pathlib import Path

from benchmarks.truth import SHORT, forced_loss, loss_shortcomings, measure, problems_of, report
from tests.e2e.testbed.line import line

SECONDS = 2.0
SEED = 7


def test_the_figures_hold(programs: Path, tmp_path: Path) -> None:
    with line(tmp_path) as on:
        on.wait_until_watching()
        tallies = measure(on, SHORT, rounds=1, seconds=SECONDS, seed=SEED)
    problems = problems_of(tallies)
    assert not problems, "\n".join([*problems, report(tallies, None)])


def test_with_evidence_lost_nothing_is_false_and_what_is_missing_is_said(programs: Path, tmp_path: Path) -> None:
    problems = loss_shortcomings(forced_loss(tmp_path, SECONDS, SEED))
    assert not problems, "\n".join(problems)
