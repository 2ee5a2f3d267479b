"""The testbed itself, with nothing under test in it: what it measures and keeps can be believed."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.e2e.testbed.spans import KeptSpan, differences
from tests.e2e.testbed.truth import Truth, judge_all, length_ns
from tests.e2e.testbed.workload import Collector, Load, Service, Sink, drive


@dataclass(frozen=True, slots=True)
class PlainRun:
    """Service to collector to sink, and the same spans straight to a reference."""

    truth: list[Truth]
    reference: list[KeptSpan]
    subject: list[KeptSpan]


@pytest.fixture(scope="module")
def plain_run(programs: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[PlainRun]:
    directory = tmp_path_factory.mktemp("plain")
    with (
        Sink(directory, "subject") as subject,
        Sink(directory, "reference") as reference,
        Collector(directory, subject.port) as collector,
        Service(directory, collector.port, reference.port) as service,
    ):
        truth = drive(directory, service, Load(mix="all", sequences=500, rate=120.0))
        ids = [t.id for t in truth]
        yield PlainRun(truth, reference.wait_for(ids), subject.wait_for(ids))
        service.finish()


def test_every_span_arrives_at_both_receivers_once_and_alike(plain_run: PlainRun) -> None:
    problems = differences(plain_run.reference, plain_run.subject)
    assert not problems, "\n".join(problems[:5])


def test_every_span_has_its_measurement(plain_run: PlainRun) -> None:
    assert {t.id for t in plain_run.truth} == {kept.id for kept in plain_run.reference}
    assert len({t.id for t in plain_run.truth}) == len(plain_run.truth)


def test_without_an_enricher_all_that_blocked_is_missed_and_nothing_else_is_wrong(plain_run: PlainRun) -> None:
    judgement = judge_all(plain_run.truth, plain_run.subject)
    blocked = sum(t.blocked is True for t in plain_run.truth)
    assert len(judgement.of("missed")) == len(judgement.findings) == blocked > 0, judgement.table


@pytest.mark.parametrize(
    "cause",
    [
        *("upstream", "pipe_parked", "pipe_kernel", "flock", "slow_body", "post_slow", "child", "grandchild"),
        *("ended_by_child", "pool_span", "never_ended", "given_times", "client_http", "client_https", "database"),
    ],
)
def test_a_cause_blocks_inside_its_span_for_about_the_time_asked(plain_run: PlainRun, cause: str) -> None:
    measured = [t for t in plain_run.truth if t.cause == cause and t.name != "given times"]
    assert measured
    for truth in measured:
        assert len(truth.waits) == 1, truth
        assert truth.after_end_for.most_ns == 0, truth
        assert 20e6 < truth.blocked_for.least_ns <= truth.blocked_for.most_ns < 250e6, truth


@pytest.mark.parametrize("cause", ["flush", "flush_long", "pipe_flush"])
def test_a_flush_blocks_after_its_span_has_ended(plain_run: PlainRun, cause: str) -> None:
    measured = [t for t in plain_run.truth if t.cause == cause]
    assert measured
    for truth in measured:
        assert truth.after_end_for.least_ns > 10e6, truth
        assert truth.cut_off == (cause == "flush_long"), truth
        assert (truth.blocked_for == truth.after_end_for) == (cause != "pipe_flush"), truth


@pytest.mark.parametrize("cause", ["group", "fan_out", "nested", "client_http2", "client_grpc", "client_dial"])
def test_waits_of_several_add_up_to_a_time_between_the_longest_and_all_of_them(plain_run: PlainRun, cause: str) -> None:
    measured = [t for t in plain_run.truth if t.cause == cause and t.name == "server"]
    assert measured
    for truth in measured:
        lengths = [length_ns(wait.longest) for wait in truth.waits]
        assert len(lengths) > 1 or cause.startswith("client_"), truth
        assert 20e6 < truth.blocked_for.least_ns <= truth.blocked_for.most_ns <= sum(lengths), truth
        assert truth.blocked_for.most_ns >= max(lengths), truth


@pytest.mark.parametrize(
    "row",
    [
        "pool",
        "left_behind",
        "post_body",
        "handed_over (handed over)",
        "given_times (given times)",
        "fan_out (idle part)",
    ],
)
def test_what_belongs_to_nobody_is_measured_for_nobody(plain_run: PlainRun, row: str) -> None:
    measured = [t for t in plain_run.truth if t.row.partition(" ")[2] == row]
    assert measured
    assert not any(t.waits for t in measured)


@pytest.mark.parametrize("cause", ["nothing", "sleep", "busy"])
def test_a_cause_that_does_not_block_has_nothing_measured(plain_run: PlainRun, cause: str) -> None:
    measured = [t for t in plain_run.truth if t.cause == cause]
    assert measured
    assert not any(t.waits for t in measured)


def test_when_a_wait_was_over_is_known_within_5_percent_for_most(plain_run: PlainRun) -> None:
    """Only where the service had to wait for a core is it not: so the ranges ask for what they seem to ask for."""
    ranges = [t.blocked_for for t in plain_run.truth if t.blocked and t.cause != "slow_body"]
    wide = [r for r in ranges if r.most_ns - r.least_ns > 0.05 * r.most_ns]
    assert len(wide) < len(ranges) / 4, [str(r) for r in wide]
