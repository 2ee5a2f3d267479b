"""Spans with evidence stay, others are left out, and every span is counted once."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from enricher._native import EvidenceIndex, Queue
from enricher.cli.record import created
from enricher.config.model import Sampling
from enricher.join.assembly import assembled
from enricher.join.joiner import Joined, Joiner
from enricher.join.methods.method import Request
from enricher.policy import Policy
from enricher.recording.entries import Verdict
from enricher.recording.file import Recording
from enricher.recording.journal import Journal
from enricher.recording.limit import Limit
from enricher.recording.recorder import Recorder
from enricher.recording.replay import Replay, Replayed
from enricher.recording.trace import SAMPLED_OUT, found_spans
from enricher.sampling.sampler import Sampler
from tests.e2e.testbed.processes import wait_until
from tests.unit.evidence_log import FULL, Log, loss, process, span_end, wait
from tests.unit.span_requests import WINDOW, Sent, request
from tests.unit.test_recording_file import HEAD as RECORDING_HEAD
from tests.unit.wire_bytes import spans_of

A, B, C = (name * 8 for name in (b"a", b"b", b"c"))
HEAD = replace(RECORDING_HEAD, max_waits=1000, max_span_ends=1024)
# The threshold of a half is 8: of these two traces one is kept, the other is not.
KEPT, LEFT_OUT = b"\xff" * 16, b"\x11" * 16
HALF = Sampling(ratio=0.5)
NONE_OF_THE_REST = Sampling(ratio=0)


@pytest.fixture
def log() -> Iterator[Log]:
    with Log() as made:
        yield made


def joiner(log: Log, sampling: Sampling, *, stamp_all: bool = False) -> Joiner:
    return assembled(log.index, enriching=True, stamp_all=stamp_all, sampler=Sampler(sampling))


def decided(made: Joiner, sent: Request) -> Joined:
    made.saw(sent)
    joined = made.decide(sent, WINDOW)
    assert isinstance(joined, Joined)
    return joined


def left(made: Joiner, sent: Request) -> dict[bytes, str]:
    """Span id and tracestate of what leaves."""
    body = decided(made, sent).body
    spans = spans_of(ExportTraceServiceRequest.FromString(sent.scanned.body if body is None else body))
    return {span.span_id: span.trace_state for span in spans}


def blocked(log: Log) -> None:
    """Span A from 100 to 150 was blocked."""
    log.write(process(flags=FULL), wait(110, 140), span_end(150, span_id=A), watermark_ms=500)


def test_a_span_with_evidence_stays_with_its_claims_and_the_others_do_not(log: Log) -> None:
    blocked(log)
    sent = request(Sent(A, 100, 150), Sent(B, 100, 150))
    assert left(joiner(log, NONE_OF_THE_REST), sent) == {A: ""}
    joined = decided(joiner(log, NONE_OF_THE_REST), sent)
    assert joined.sampled
    assert (joined.sampled.kept_evidence, joined.sampled.sampled_out) == (1, 1)
    assert joined.body
    assert b"ebpf.system_call_blocked" in joined.body


def test_evidence_need_not_be_kept(log: Log) -> None:
    blocked(log)
    sent = request(Sent(A, 100, 150, trace_id=LEFT_OUT))
    assert left(joiner(log, replace(HALF, keep_evidence=False)), sent) == {}


def test_that_evidence_was_lost_is_no_evidence(log: Log) -> None:
    log.write(process(flags=FULL), span_end(60, span_id=C), watermark_ms=70)
    made = joiner(log, NONE_OF_THE_REST)
    assert left(made, request(Sent(C, 50, 60))) == {}  # and the resource is known
    log.write(loss(140, 160), watermark_ms=500)
    assert left(made, request(Sent(A, 100, 150))) == {}
    assert made.tally.missed == 1


def test_a_stamp_is_no_evidence_and_stays_on_what_is_kept(log: Log) -> None:
    blocked(log)
    made = joiner(log, HALF, stamp_all=True)
    sent = request(*(Sent(span_id, 100, 150, trace_id=trace) for span_id, trace in ((B, KEPT), (C, LEFT_OUT))))
    joined = decided(made, sent)
    assert joined.body
    (span,) = spans_of(ExportTraceServiceRequest.FromString(joined.body))
    assert (span.span_id, span.trace_state) == (B, "ot=th:8")
    assert [attribute.key for attribute in span.attributes] == ["ebpf.observed"]


def test_with_a_ratio_of_one_a_request_leaves_as_the_same_bytes(log: Log) -> None:
    blocked(log)
    made = joiner(log, Sampling(ratio=1))
    joined = decided(made, request(Sent(B, 100, 150, trace_id=LEFT_OUT)))
    assert (joined.body, joined.sampled) == (None, None)


def test_slow_spans_stay(log: Log) -> None:
    log.write(process(flags=FULL), watermark_ms=5000)
    made = joiner(log, replace(NONE_OF_THE_REST, slow_ns=1_000_000_000))
    assert left(made, request(Sent(A, 0, 999.999), Sent(B, 0, 1000), Sent(C, 0, 2000))) == {B: "", C: ""}


@dataclass
class InForce:
    sampling: Sampling | None = None


@dataclass
class Board:
    """Settings that change while everything runs."""

    now: InForce = field(default_factory=InForce)

    def get(self) -> InForce:
        return self.now


class World:
    """A policy between a queue's two ends."""

    def __init__(self, log: Log, sampler: Sampler, recorder: Recorder | None = None) -> None:
        self.sampler = sampler
        self.queue = Queue(100, 1 << 20, 1 << 20)
        index = EvidenceIndex(log.fd, HEAD.retention_ns, HEAD.max_waits, HEAD.max_span_ends)
        self.journal = Journal(index, recorder)
        self.policy = Policy(
            index,
            assembled(index, enriching=True, stamp_all=False, sampler=sampler),
            self.queue,
            self.journal,
            tail_ns=HEAD.tail_ns,
            threshold_ns=HEAD.threshold_ns,
            max_body_bytes=HEAD.max_body_bytes,
        )
        self.policy.start()

    def send(self, *spans: Sent) -> None:
        assert self.queue.offer(request(*spans).scanned.body, "ipv4:127.0.0.1:5555")[0] == 0

    def leaves(self) -> list[bytes]:
        """Span ids of what leaves next."""
        entries = self.queue.take(1 << 20, 5.0)
        assert entries
        spans = [span for entry in entries for span in spans_of(ExportTraceServiceRequest.FromString(entry.body))]
        assert sum(entry.spans for entry in entries) == len(spans)
        self.queue.release(entries)
        return [span.span_id for span in spans]

    def stop(self) -> None:
        self.policy.stop(0)
        self.journal.close(5)


@pytest.fixture
def world(log: Log) -> Iterator[World]:
    made = World(log, Sampler(HALF))
    yield made
    made.stop()


def test_every_accepted_span_has_left_or_is_counted_as_sampled_out(world: World) -> None:
    world.send(Sent(A, 0, 1, trace_id=KEPT), Sent(B, 0, 1, trace_id=LEFT_OUT))
    assert world.leaves() == [A]
    assert world.sampler.sampled_out == 1
    assert world.sampler.kept == {"ratio": 1, "evidence": 0, "error": 0, "slow": 0, "undecidable": 0}
    assert world.queue.statistics()["accepted_spans"] == 2
    assert world.queue.statistics()["spans"] == 0


def test_of_a_request_with_no_span_left_nothing_leaves_and_its_place_is_free(world: World) -> None:
    world.send(Sent(A, 0, 1, trace_id=LEFT_OUT), Sent(B, 0, 1, trace_id=LEFT_OUT))
    wait_until(lambda: world.queue.statistics()["requests"] == 0, "its place is free", 5.0)
    assert world.queue.statistics()["spans"] == 0
    assert world.queue.statistics()["ready"] == 0
    assert world.sampler.sampled_out == 2
    world.send(Sent(C, 0, 1, trace_id=KEPT))
    assert world.leaves() == [C]


def test_what_was_counted_is_told(world: World) -> None:
    world.send(Sent(A, 0, 1, trace_id=KEPT), Sent(B, 0, 1, trace_id=LEFT_OUT))
    world.leaves()
    told = {series.name: series.values for series in world.policy.series()}
    assert told["sampling_sampled_out_spans"] == {"": 1}
    assert told["sampling_kept_spans"] == {"evidence": 0, "error": 0, "slow": 0, "undecidable": 0, "ratio": 1}
    assert told["sampling_ratio"] == {"": 0.5}


def test_a_change_holds_from_the_next_request_on(log: Log) -> None:
    board = Board()
    world = World(log, Sampler(Sampling(ratio=1), board))
    try:
        world.send(Sent(A, 0, 1, trace_id=LEFT_OUT))
        assert world.leaves() == [A]
        board.now = InForce(HALF)
        world.send(Sent(B, 0, 1, trace_id=LEFT_OUT), Sent(C, 0, 1, trace_id=KEPT))
        assert world.leaves() == [C]
        board.now = InForce(Sampling(ratio=1))
        world.send(Sent(B, 0, 1, trace_id=LEFT_OUT))
        assert world.leaves() == [B]
    finally:
        world.stop()


def recorded_run(log: Log, tmp_path: Path) -> list[Replayed]:
    """Two requests with a change of the ratio between them, replayed from their recording."""
    board = Board()
    recorder = Recorder(Limit(created(tmp_path / "sampled.rec"), 1 << 20), HEAD)
    world = World(log, Sampler(HALF, board), recorder)
    try:
        world.send(Sent(A, 0, 1, trace_id=LEFT_OUT), Sent(B, 0, 1, trace_id=KEPT))
        world.leaves()
        board.now = InForce(NONE_OF_THE_REST)
        world.send(Sent(C, 0, 1, trace_id=KEPT))
        wait_until(lambda: world.sampler.sampled_out == 2, "the second is decided", 5.0)
    finally:
        world.stop()
    with Recording(tmp_path / "sampled.rec") as recording:
        return list(Replay(recording.head).run(recording.entries()))


def test_what_was_sampled_is_sampled_the_same_from_its_recording(log: Log, tmp_path: Path) -> None:
    first, second = recorded_run(log, tmp_path)
    assert first.same
    assert [span.span_id for span in spans_of(ExportTraceServiceRequest.FromString(first.left_as))] == [B]
    assert second.same
    assert (second.verdict, second.left_as) == (Verdict.CHANGED, b"")


def test_a_span_that_was_sampled_out_is_explained_as_such(log: Log, tmp_path: Path) -> None:
    then = recorded_run(log, tmp_path)[0].then
    (gone,) = found_spans(then, LEFT_OUT)
    assert (gone.ordinal, gone.verdict, gone.left_with) == (0, SAMPLED_OUT, {})
    (kept,) = found_spans(then, KEPT)
    assert kept.ordinal == 1
    assert kept.verdict != SAMPLED_OUT


def test_settings_without_a_change_leave_what_the_file_says() -> None:
    sampler = Sampler(HALF, Board())
    sampler.refresh()
    assert sampler.settings is HALF
