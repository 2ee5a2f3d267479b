"""Recorded reality, decided anew: claims agree with what the program measured of its spans, and are those of before.

Cases are made by `python -m tests.replay.record`; after a change of the join that is meant, `python -m
tests.replay.accept` writes down what is decided now.
"""

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

from enricher.recording.file import Recording
from enricher.recording.replay import Replay, Replayed
from tests.e2e.testbed.spans import spans_of
from tests.e2e.testbed.truth import Judgement, Truth, judge_all, read_truths
from tests.replay.record import CASES, MOST_BYTES

PATHS = sorted(CASES.glob("*.rec"))
case = pytest.mark.parametrize("path", PATHS, ids=[path.stem for path in PATHS])


@dataclass(frozen=True, slots=True)
class Case:
    replayed: list[Replayed]
    truth: list[Truth]
    judgement: Judgement


@cache
def decided_anew(path: Path) -> Case:
    with Recording(path) as recording:
        replayed = list(Replay(recording.head).run(recording.entries()))
    truth = read_truths(path.with_suffix(".truth.jsonl").read_text().splitlines())
    spans = [span for one in replayed for span in spans_of(one.left_as)]
    return Case(replayed, truth, judge_all(truth, spans))


def test_there_are_cases_and_they_are_small() -> None:
    assert PATHS
    assert all(path.stat().st_size <= MOST_BYTES for path in PATHS)


@case
def test_claims_agree_with_what_the_program_measured(path: Path) -> None:
    judgement = decided_anew(path).judgement
    assert sum(t.blocked is True for t in decided_anew(path).truth) >= 5, judgement.table
    assert not judgement.findings, judgement.report(list(judgement.findings))


@case
def test_every_request_is_decided_as_it_was(path: Path) -> None:
    differences = [
        f"request {one.then.decision.number}: {line}"
        for one in decided_anew(path).replayed
        for line in one.differences()
    ]
    assert not differences, "\n".join(differences[:40])
