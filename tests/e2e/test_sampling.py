"""A real service's spans, sampled while two workers run, and by a ratio that is changed under them."""

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Status

from tests.e2e.testbed.enricher import Enricher
from tests.e2e.testbed.processes import free_port, wait_until
from tests.e2e.testbed.spans import KeptSpan, differences
from tests.e2e.testbed.truth import Truth
from tests.e2e.testbed.workload import Load, Service, Sink, drive

SLOW_NS = 1_000_000_000
HALF = 1 << 55


@dataclass(frozen=True, slots=True)
class Outcome:
    """Of one load."""

    truth: list[Truth]
    came: dict[str, KeptSpan]  # as the service has sent them
    left: dict[str, KeptSpan]

    @property
    def blocked(self) -> set[str]:
        return {t.id for t in self.truth if t.blocked is True}


@dataclass(frozen=True, slots=True)
class Line:
    directory: Path
    enricher: Enricher
    service: Service
    reference: Sink
    subject: Sink
    control_port: int

    def total(self, name: str) -> float:
        """Over all workers and labels."""
        series = self.enricher.metrics().items()
        return sum(value for key, value in series if key.partition("{")[0] == f"enricher_{name}")

    def wait_until_settled(self) -> None:
        """Until all that the service has sent has left, or is counted as sampled out."""

        def settled() -> bool:
            accepted = self.total("receiver_accepted_spans_total")
            gone = self.total("exporter_sent_spans_total") + self.total("sampling_sampled_out_spans_total")
            return accepted == len(self.reference.spans()) == gone

        wait_until(settled, "every accepted span has left or is counted", 30.0)
        assert self.total("exporter_send_failed_spans_total") == 0

    def run(self, label: str) -> Outcome:
        before = {kept.id for kept in self.reference.spans()}
        truth = drive(self.directory, self.service, Load(label=label, sequences=200, rate=100.0))
        self.reference.wait_for(t.id for t in truth)
        self.wait_until_settled()
        came, left = (
            {kept.id: kept for kept in sink.spans() if kept.id not in before} for sink in (self.reference, self.subject)
        )
        return Outcome(truth, came, left)

    def sampling(self, *arguments: str) -> dict[str, object]:
        """What `enricher sampling` says."""
        address = f"127.0.0.1:{self.control_port}"
        command = [sys.executable, "-m", "enricher.cli.main", "sampling", "--address", address, "--json", *arguments]
        told: dict[str, object] = json.loads(subprocess.check_output(command, text=True, timeout=30))
        return told


@pytest.fixture(scope="module")
def line(programs: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Line]:
    directory, control_port = tmp_path_factory.mktemp("sampling"), free_port()
    service = {"workers": 2, "control": {"endpoint": f"127.0.0.1:{control_port}"}}
    with (
        Sink(directory, "subject") as subject,
        Sink(directory, "reference") as reference,
        Enricher(directory, subject.port, service=service, sampling={"ratio": 1, "slow": "1s"}) as enricher,
        Service(directory, enricher.port, reference.port) as program,
    ):
        made = Line(directory, enricher, program, reference, subject, control_port)
        enricher.wait_until_watching(program, subject)
        made.wait_until_settled()
        yield made


def is_kept_anyway(kept: KeptSpan) -> bool:
    """As it left, or as it came if it did not."""
    if "ebpf.system_call_blocked" in kept.claims:  # not: that evidence is missing
        return True
    took_ns = kept.span.end_time_unix_nano - kept.span.start_time_unix_nano
    return took_ns >= SLOW_NS or kept.span.status.code == Status.STATUS_CODE_ERROR


def randomness(kept: KeptSpan) -> int:
    return int.from_bytes(kept.span.trace_id[9:])


def test_with_a_ratio_of_zero_the_spans_with_evidence_leave_and_only_they(line: Line) -> None:
    workers = line.enricher.workers()
    assert line.sampling("--ratio", "0")["ratio"] == 0
    outcome = line.run("zero")
    assert len(outcome.blocked) > 50
    assert outcome.blocked <= outcome.left.keys()
    others = [kept.id for kept in outcome.left.values() if not is_kept_anyway(kept)]
    assert not others, f"{len(others)} of {len(outcome.left)}"
    assert len(outcome.left) < len(outcome.came)
    assert line.enricher.workers() == workers, "no worker was started anew"


def test_with_a_ratio_of_a_half_the_traces_above_its_threshold_leave_whole_and_say_so(line: Line) -> None:
    workers = line.enricher.workers()
    told = line.sampling("--ratio", "0.5")
    assert (told["threshold"], line.sampling()) == ("8", told)
    outcome = line.run("half")
    assert outcome.blocked <= outcome.left.keys()
    for span_id, came in outcome.came.items():
        left = outcome.left.get(span_id)
        if left is None:
            assert randomness(came) < HALF
            assert not is_kept_anyway(came)
        elif is_kept_anyway(left):
            assert left.span.trace_state == came.span.trace_state
        else:
            assert randomness(came) >= HALF
            assert left.span.trace_state == "ot=th:8"
    by_ratio = [kept for kept in outcome.left.values() if kept.span.trace_state]
    # Each stands for two; five standard deviations.
    rest = len(by_ratio) + len(outcome.came) - len(outcome.left)
    traces = len({came.span.trace_id for came in outcome.came.values()})
    assert abs(2 * len(by_ratio) - rest) <= 5 * rest / traces**0.5
    assert line.enricher.workers() == workers


def test_with_a_ratio_of_one_again_all_leave_and_nothing_is_changed(line: Line) -> None:
    line.sampling("--ratio", "1")
    outcome = line.run("one")
    assert not differences(list(outcome.came.values()), list(outcome.left.values()))


def test_a_reload_of_the_file_changes_it_too_and_starts_nothing_anew(line: Line) -> None:
    workers = line.enricher.workers()
    service = {"workers": 2, "control": {"endpoint": f"127.0.0.1:{line.control_port}"}}
    line.enricher.configure(line.subject.port, service=service, sampling={"ratio": 0.25, "slow": "2s"})
    line.enricher.reload()
    wait_until(lambda: line.sampling()["threshold"] == "c", "the file's ratio is in force", 30.0)
    assert line.sampling()["slow"] == "2s"
    assert line.enricher.workers() == workers
