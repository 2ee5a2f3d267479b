"""A real workload, recorded: spans flow as ever, everything can be explained, and the recording decides the same."""

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from tests.e2e.testbed.enricher import Enricher
from tests.e2e.testbed.processes import kill, wait_until
from tests.e2e.testbed.spans import KeptSpan, differences
from tests.e2e.testbed.truth import Truth
from tests.e2e.testbed.workload import Load, Service, Sink, drive

UNPRIVILEGED = ("setpriv", "--bounding-set=-all", "--inh-caps=-all", "--no-new-privs")
LOAD = Load(sequences=60, rate=40.0)


def command(*arguments: str, before: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*before, sys.executable, "-m", "enricher.cli.main", *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@dataclass(frozen=True, slots=True)
class Run:
    truth: list[Truth]
    reference: list[KeptSpan]
    subject: list[KeptSpan]
    live: dict[str, Any]  # the explanation of `asked`, while it ran
    live_text: str
    asked: KeptSpan
    recording: Path
    log: str


@pytest.fixture(scope="module")
def run(programs: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    directory = tmp_path_factory.mktemp("explain")
    recording = directory / "case.rec"
    with (
        Sink(directory, "subject") as subject,
        Sink(directory, "reference") as reference,
        Enricher(directory, subject.port, recording=recording) as enricher,
        Service(directory, enricher.port, reference.port) as service,
    ):
        enricher.wait_until_watching(service, subject)
        truth = drive(directory, service, LOAD)
        everything = [t.id for t in service.truth()]
        kept = reference.wait_for(everything), subject.wait_for(everything)
        ids = {t.id for t in truth if t.blocked}
        asked = next(span for span in reversed(kept[1]) if span.id in ids and span.claims)
        trace_id = asked.span.trace_id.hex()
        address = f"127.0.0.1:{enricher.metrics_port}"
        live = command("explain", trace_id, "--address", address, "--json")
        assert live.returncode == 0, enricher.complaint(live.stderr)
        text = command("explain", trace_id, "--address", address).stdout
        service.finish()
        enricher.stop()
        yield Run(truth, *kept, json.loads(live.stdout), text, asked, recording, enricher.log.read_text())


def test_spans_flow_as_ever_while_they_are_recorded(run: Run) -> None:
    assert differences(run.reference, run.subject) == []
    assert any(span.claims for span in run.subject)


def test_a_running_enricher_explains_a_span_with_the_claims_it_left_with(run: Run) -> None:
    (span,) = (s for s in run.live["spans"] if s["explanation"]["span_id"] == run.asked.span.span_id.hex())
    assert span["name"] == run.asked.span.name
    assert span["left_with"] == run.asked.claims
    assert span["explanation"]["claims"] == run.asked.claims
    assert span["explanation"]["method"] == run.asked.claims["ebpf.match.method"]
    (won,) = (trial for trial in span["explanation"]["trials"] if trial["matched"])
    assert any(wait["claimed"] for wait in won["considered"])
    assert "claimed: goroutine" in run.live_text


def test_a_recording_decides_the_same_with_no_privilege(run: Run) -> None:
    assert run.recording.stat().st_mode & 0o777 == 0o600
    result = command("replay", str(run.recording), before=UNPRIVILEGED)
    assert result.returncode == 0, result.stdout + result.stderr
    decided = len(run.subject)
    assert f" {decided} spans decided" in result.stdout
    assert "it ends as the enricher was stopped" in result.stdout


def test_a_recording_explains_every_span_as_it_left(run: Run) -> None:
    trace_id = run.asked.span.trace_id
    result = command("explain", trace_id.hex(), "--recording", str(run.recording), "--json")
    assert result.returncode == 0, result.stderr
    found = {s["explanation"]["span_id"]: s for s in json.loads(result.stdout)["spans"]}
    left = {kept.span.span_id.hex(): kept.claims for kept in run.subject if kept.span.trace_id == trace_id}
    assert {span_id: s["left_with"] for span_id, s in found.items()} == left
    assert {span_id: s["explanation"]["claims"] for span_id, s in found.items()} == left


def test_a_recording_ends_with_the_pipeline_and_spans_flow_on_through_the_next_one(tmp_path: Path) -> None:
    recording = tmp_path / "cut.rec"
    with (
        Sink(tmp_path, "subject") as subject,
        Enricher(tmp_path, subject.port, recording=recording) as enricher,
    ):
        first = enricher.wait_for_child("pipeline")
        with enricher.sender() as send:
            send(one_span(b"a" * 8))
        subject.wait_for([(b"t" * 16 + b"a" * 8).hex()])
        wait_until(lambda: "1 spans decided" in command("replay", str(recording)).stdout, "the span is recorded")
        kill(first)
        enricher.wait_for_child("pipeline", other_than=first)
        enricher.wait_listening(enricher.port)
        with enricher.sender() as send:
            send(one_span(b"b" * 8))
        subject.wait_for([(b"t" * 16 + b"b" * 8).hex()])
    result = command("replay", str(recording))
    assert (result.returncode, "cut off" in result.stderr) == (1, True), result
    assert "1 spans decided" in result.stdout


def one_span(span_id: bytes) -> bytes:
    request = ExportTraceServiceRequest()
    request.resource_spans.add().scope_spans.add().spans.add(trace_id=b"t" * 16, span_id=span_id, name="one")
    return request.SerializeToString()


def test_a_recording_that_is_full_ends_and_spans_flow_on(programs: Path, tmp_path: Path) -> None:
    recording = tmp_path / "small.rec"
    with (
        Sink(tmp_path, "subject") as subject,
        Sink(tmp_path, "reference", keep=False) as reference,
        Enricher(tmp_path, subject.port, recording=recording, record_options=("--max-size", "64KiB")) as enricher,
        Service(tmp_path, enricher.port, reference.port) as service,
    ):
        enricher.wait_until_watching(service, subject)
        pipeline = enricher.child("pipeline")
        drive(tmp_path, service, LOAD)
        wait_until(lambda: "the recording has ended" in enricher.log.read_text(), "the recording has ended")
        truth = drive(tmp_path, service, Load(label="after", sequences=5))
        spans = {kept.id: kept for kept in subject.wait_for(t.id for t in truth)}
        assert any(spans[t.id].claims for t in truth if t.blocked), enricher.complaint("nothing is marked")
        assert enricher.child("pipeline") == pipeline
    assert recording.stat().st_size <= 64 << 10
    result = command("replay", str(recording))
    assert result.returncode == 0, result.stdout + result.stderr
    assert "it ends as it has reached its greatest size" in result.stdout
