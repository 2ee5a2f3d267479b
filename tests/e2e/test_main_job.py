"""The main job: the spans of a Go service leave with what the kernel did to them, and with nothing else changed.

One run for all tests here: service, enricher, collector, sink, and the same spans straight to a reference.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.e2e.testbed.enricher import Enricher
from tests.e2e.testbed.spans import KeptSpan, differences
from tests.e2e.testbed.truth import Finding, Judgement, Truth, judge_all
from tests.e2e.testbed.workload import Collector, Load, Service, Sink, drive


@dataclass(frozen=True, slots=True)
class Run:
    truth: list[Truth]
    reference: list[KeptSpan]
    subject: list[KeptSpan]
    judgement: Judgement
    log: str  # the enricher's

    def told(self, findings: list[Finding]) -> str:
        """The message of a failure."""
        return f"{self.judgement.report(findings)}\n{self.log[-4000:]}"


@pytest.fixture(scope="module")
def run(programs: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    directory = tmp_path_factory.mktemp("main-job")
    with (
        Sink(directory, "subject") as subject,
        Sink(directory, "reference") as reference,
        Collector(directory, subject.port) as collector,
        Enricher(directory, collector.port) as enricher,
        Service(directory, enricher.port, reference.port) as service,
    ):
        enricher.wait_until_watching(service, subject)
        truth = drive(directory, service, Load())
        everything = [t.id for t in service.truth()]
        kept = reference.wait_for(everything), subject.wait_for(everything)
        service.finish()
        yield Run(truth, *kept, judge_all(truth, kept[1]), enricher.log.read_text())


def test_every_span_arrives_exactly_once_and_unchanged_but_for_claims(run: Run) -> None:
    problems = differences(run.reference, run.subject)
    assert not problems, f"{len(problems)} of {len(run.reference)} spans:\n" + "\n".join(problems[:5])


def test_every_span_whose_goroutine_was_blocked_is_marked(run: Run) -> None:
    assert sum(t.blocked is True for t in run.truth) > 300, run.judgement.table
    missed = run.judgement.of("missed")
    assert not missed, run.told(missed)


def test_no_other_span_is_marked(run: Run) -> None:
    """Among them: sleepers, the busy, neighbours on a connection, all beside goroutines that block all the time."""
    assert sum(t.blocked is False for t in run.truth) > 300, run.judgement.table
    wrongly = run.judgement.of("wrongly marked")
    assert not wrongly, run.told(wrongly)


def test_a_span_without_evidence_carries_no_claim_at_all(run: Run) -> None:
    innocent = {t.id for t in run.truth if t.blocked is False}
    stamped = [kept.claims for kept in run.subject if kept.id in innocent and kept.claims]
    assert not stamped, f"{len(stamped)} of {len(innocent)}: {stamped[:5]}\n{run.log[-4000:]}"


def test_durations_agree_with_the_programs_own_within_5_percent(run: Run) -> None:
    wrong = run.judgement.of("duration")
    assert not wrong, run.told(wrong)


def test_the_part_after_the_end_is_told_apart(run: Run) -> None:
    assert sum(t.after_end_for.most_ns > 0 for t in run.truth) > 50, run.judgement.table
    wrong = run.judgement.of("after end")
    assert not wrong, run.told(wrong)


def test_the_call_and_the_kind_of_wait_are_named(run: Run) -> None:
    wrong = run.judgement.of("call", "kind")
    assert not wrong, run.told(wrong)


def test_every_claim_says_that_the_match_was_exact_and_the_evidence_whole(run: Run) -> None:
    wrong = run.judgement.of("method", "completeness")
    assert not wrong, run.told(wrong)


def test_a_wait_that_outlasts_the_tail_is_said_to_be_incomplete(run: Run) -> None:
    ids = {t.id for t in run.truth if t.cut_off}
    claims = [kept.claims for kept in run.subject if kept.id in ids]
    assert claims
    assert all(c.get("ebpf.complete") is False for c in claims), claims
