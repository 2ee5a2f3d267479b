"""A recording is decided anew as it was decided; what is not is told by span and attribute."""

import json
import os
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from enricher._native import EvidenceIndex, Queue
from enricher.cli import main as cli
from enricher.cli.record import created
from enricher.evidence.records import RECORD_SIZE, Event, EventKind
from enricher.join.assembly import assembled
from enricher.otlp.native_receiver import Listening, NativeReceiver
from enricher.otlp.transport import Limits
from enricher.place import Place
from enricher.policy import Policy
from enricher.recording.entries import Arrival, ClockSample, Decision, End, EndReason, Entry, Evidence, Verdict
from enricher.recording.file import Recording, block, preamble
from enricher.recording.journal import Journal
from enricher.recording.limit import Limit
from enricher.recording.recorder import Recorder
from enricher.recording.replay import ContradictoryRecording, Replay, Replayed
from enricher.recording.trace import found_spans
from enricher.telemetry.health import Health
from enricher.telemetry.pages import Pages
from enricher.trace_answers import TraceAnswers
from enricher.workers import Report, State
from tests.unit.evidence_log import CLIENT, CLOCK_NS, MS, SPAN_ID, TRACE_ID, Log, process, span_end, wait, write
from tests.unit.test_recording_file import HEAD

S = 1000  # in ms
SERVER = Span.SPAN_KIND_SERVER
HEAD = replace(HEAD, max_waits=1000, max_span_ends=1024)


def body(
    start_ms: float, end_ms: float, *, kind: "Span.SpanKind.ValueType" = CLIENT, clock_ns: int = CLOCK_NS
) -> bytes:
    """One span of a service, given its times in kernel time."""
    request = ExportTraceServiceRequest()
    group = request.resource_spans.add()
    group.resource.attributes.add(key="service.name").value.string_value = "shop"
    span = group.scope_spans.add().spans.add()
    span.trace_id, span.span_id, span.name, span.kind = TRACE_ID, SPAN_ID, "GET /cart", kind
    span.start_time_unix_nano = clock_ns + int(start_ms * MS)
    span.end_time_unix_nano = clock_ns + int(end_ms * MS)
    return request.SerializeToString()


def evidence(*events: Event, watermark_ms: float) -> Evidence:
    at_ns = int(watermark_ms * MS)
    heartbeat = Event(kind=EventKind.HEARTBEAT, start_ns=at_ns, end_ns=at_ns)
    return Evidence(at_ns, b"".join(event.pack() for event in (*events, heartbeat)))


def recorded(path: Path, *entries: Entry) -> Path:
    path.write_bytes(preamble(HEAD) + block([*entries, End(EndReason.STOPPED)]))
    return path


def replayed(path: Path) -> list[Replayed]:
    with Recording(path) as recording:
        return list(Replay(recording.head).run(recording.entries()))


def claims(request: bytes) -> dict[str, object]:
    (span,) = ExportTraceServiceRequest.FromString(request).resource_spans[0].scope_spans[0].spans
    return {a.key: getattr(a.value, str(a.value.WhichOneof("value"))) for a in span.attributes}


BLOCKED = (process(), wait(120, 150), span_end(200))
ARRIVED = Arrival(1, 300 * MS, "ipv4:127.0.0.1:5", body(100, 200))
DECIDED = Decision(1, 400 * MS, None, Verdict.UNTOUCHED)


@dataclass
class Live:
    """A pipeline without its ends: a real policy, index and recorder."""

    log: Log
    directory: Path
    recorder: Recorder | None = None
    queue: Queue = field(default_factory=lambda: Queue(100, 1 << 20, 1 << 20))

    def __post_init__(self) -> None:
        self.index = EvidenceIndex(self.log.fd, HEAD.retention_ns, HEAD.max_waits, HEAD.max_span_ends)
        self.journal = Journal(self.index, self.recorder)
        joiner = assembled(self.index, enriching=True, stamp_all=False, host="")
        self.policy = Policy(
            self.index,
            joiner,
            self.queue,
            self.journal,
            tail_ns=HEAD.tail_ns,
            threshold_ns=HEAD.threshold_ns,
            max_body_bytes=HEAD.max_body_bytes,
        )
        self.policy.start()

    def stop(self) -> None:
        self.policy.stop(1)
        self.journal.close(5)

    def send(self, request: bytes) -> None:
        assert self.queue.offer(request, "ipv4:127.0.0.1:5555")[0] == 0

    def leaves(self) -> bytes:
        (entry,) = self.queue.take(1 << 20, 5.0)
        return entry.body

    def now_ms(self) -> float:
        return time.monotonic_ns() / MS


@pytest.fixture
def live(tmp_path: Path) -> Iterator[Callable[[], Live]]:
    made: list[Live] = []
    with Log() as log:

        def make() -> Live:
            recorder = Recorder(Limit(created(tmp_path / "live.rec"), 1 << 20), HEAD)
            made.append(Live(log, tmp_path, recorder))
            return made[-1]

        yield make
        for one in made:
            one.stop()


def test_what_a_policy_decides_is_decided_the_same_from_its_recording(live: Callable[[], Live], tmp_path: Path) -> None:
    world = live()
    now_ms = world.now_ms()
    clock_ns = time.time_ns() - time.monotonic_ns()
    began_ms, ended_ms = now_ms - 100, now_ms - 10
    world.log.write(process(), wait(began_ms + 10, began_ms + 50), span_end(ended_ms), watermark_ms=now_ms)
    world.send(body(began_ms, ended_ms, clock_ns=clock_ns))
    marked = world.leaves()
    # A tail that is open until a wait that goes on is over.
    server = body(began_ms, ended_ms, kind=SERVER, clock_ns=clock_ns)
    world.send(server)
    tail = write(ended_ms + 5, ended_ms + 200, tail_of_ms=ended_ms)
    world.log.write(tail, watermark_ms=ended_ms + 290, going_on_ms=ended_ms + 290)
    world.log.write(watermark_ms=ended_ms + 400, going_on_ms=ended_ms + 400)
    with_tail = world.leaves()
    world.stop()

    found = replayed(tmp_path / "live.rec")
    assert claims(marked)["ebpf.syscall.blocked.duration"] == pytest.approx(0.04)
    assert claims(with_tail)["ebpf.syscall.blocked.after_end"] == pytest.approx(0.195)
    assert [one.left_as for one in found] == [marked, with_tail]
    assert all(one.same for one in found)


def test_a_decision_that_is_made_otherwise_now_is_told_by_span_and_attribute(tmp_path: Path) -> None:
    path = recorded(
        tmp_path / "a.rec", ClockSample(0, CLOCK_NS), evidence(*BLOCKED, watermark_ms=300), ARRIVED, DECIDED
    )
    (one,) = replayed(path)
    assert not one.same
    told = one.differences()
    assert told[0] == "untouched then, changed now"
    assert f"span {SPAN_ID.hex()} 'GET /cart': ebpf.syscall.blocked.duration: absent then, 0.03 now" in told


def test_a_clock_that_was_set_between_a_span_and_its_arrival_does_not_move_its_evidence(tmp_path: Path) -> None:
    """The span's own times are of before the step, by an hour."""
    step: list[Entry] = [ClockSample(250 * MS, CLOCK_NS + 3600 * S * MS + 250 * MS)]
    entries: list[Entry] = [evidence(*BLOCKED, watermark_ms=300), ARRIVED, DECIDED]
    before: list[Entry] = [ClockSample(0, CLOCK_NS), ClockSample(249 * MS, CLOCK_NS + 249 * MS)]
    (one,) = replayed(recorded(tmp_path / "a.rec", *before, *step, *entries))
    assert claims(one.left_as)["ebpf.syscall.blocked.duration"] == pytest.approx(0.03)
    # Without what was sampled before the step nobody could know: the span is left alone.
    (one,) = replayed(recorded(tmp_path / "b.rec", *step, *entries))
    assert "ebpf.syscall.blocked.duration" not in claims(one.left_as)


def test_records_that_were_overtaken_are_lost_in_the_replay_too(tmp_path: Path) -> None:
    overtaken = Event(kind=EventKind.OVERTAKEN)
    entries: list[Entry] = [
        ClockSample(0, CLOCK_NS),
        evidence(process(), watermark_ms=50),
        evidence(overtaken, *BLOCKED[1:], watermark_ms=300),
    ]
    (one,) = replayed(recorded(tmp_path / "a.rec", *entries, ARRIVED, DECIDED))
    assert claims(one.left_as)["ebpf.complete"] is False


def test_requests_that_were_not_decided_are_counted_and_no_fault(tmp_path: Path) -> None:
    path = recorded(tmp_path / "a.rec", ClockSample(0, CLOCK_NS), ARRIVED, Decision(7, 1, None, Verdict.UNTOUCHED))
    with Recording(path) as recording:
        replay = Replay(recording.head)
        assert list(replay.run(recording.entries())) == []
    assert replay.undecided == 1


def record_bytes(kind: int, times: list[int], rest: bytes) -> bytes:
    """A record of that kind, of a process and span that others are of, too; otherwise anything."""
    made = bytearray(rest)
    made[0:32] = b"".join(time_ns.to_bytes(8, "little") for time_ns in times)
    made[32:36] = (42).to_bytes(4, "little")
    made[40:42] = kind.to_bytes(2, "little")
    made[80:104] = TRACE_ID + SPAN_ID
    return bytes(made)


numbers = st.sampled_from([0, 1, 7, 100 * MS, 200 * MS, 2**63, 2**64 - 1])
records = st.builds(
    record_bytes,
    st.sampled_from([*EventKind, 0, 99]),
    st.lists(numbers, min_size=4, max_size=4),
    st.binary(min_size=RECORD_SIZE, max_size=RECORD_SIZE),
)
bodies = st.binary(max_size=20) | st.just(ARRIVED.body)
any_entry = st.one_of(
    st.builds(Evidence, numbers, st.lists(records, max_size=8).map(b"".join)),
    st.builds(ClockSample, numbers, numbers),
    st.builds(Arrival, st.integers(1, 3), numbers, st.text(max_size=20), bodies),
    st.builds(
        Decision,
        st.integers(1, 3),
        numbers,
        st.none() | st.integers(0, 2**63 - 1),
        st.sampled_from(Verdict),
        numbers,
        bodies,
    ),
)


@given(st.lists(any_entry, max_size=30))
def test_whatever_a_recording_holds_it_is_replayed_and_its_differences_told(entries: list[Entry]) -> None:
    try:
        for one in Replay(HEAD).run(entries):
            assert one.same == (not one.differences())
            assert len(found_spans(one.then, TRACE_ID)) <= 1
    except ContradictoryRecording as error:
        assert error.fix  # noqa: PT017 - it need not be raised


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(cli.main, [str(argument) for argument in arguments], prog_name="enricher")


class TestReplayCommand:
    def test_it_sums_up_and_is_status_0_where_all_is_as_it_was(self, tmp_path: Path) -> None:
        entries: list[Entry] = [
            ClockSample(0, CLOCK_NS),
            evidence(process(), span_end(200), watermark_ms=300),
            ARRIVED,
            DECIDED,
        ]
        result = run("replay", recorded(tmp_path / "a.rec", *entries))
        assert result.exit_code == 0, result.output
        assert "1 requests, 1 spans decided" in result.stdout
        assert "1 matched by span_end" in result.stdout
        assert all(len(line) <= 80 for line in result.stdout.splitlines())

    def test_it_tells_differences_and_is_status_1(self, tmp_path: Path) -> None:
        entries: list[Entry] = [ClockSample(0, CLOCK_NS), evidence(*BLOCKED, watermark_ms=300), ARRIVED, DECIDED]
        result = run("replay", recorded(tmp_path / "a.rec", *entries))
        assert result.exit_code == 1
        assert "1 requests are decided otherwise than they were recorded" in result.stdout
        assert "absent then" in result.stdout

    def test_it_writes_the_requests_as_they_leave_now(self, tmp_path: Path) -> None:
        entries: list[Entry] = [ClockSample(0, CLOCK_NS), evidence(*BLOCKED, watermark_ms=300), ARRIVED, DECIDED]
        run("replay", recorded(tmp_path / "a.rec", *entries), "--output", tmp_path / "out.jsonl")
        (line,) = (tmp_path / "out.jsonl").read_text().splitlines()
        (span,) = json.loads(line)["resourceSpans"][0]["scopeSpans"][0]["spans"]
        assert (span["traceId"], span["spanId"], span["kind"]) == (TRACE_ID.hex(), SPAN_ID.hex(), 3)
        assert {"key": "ebpf.system_call_blocked", "value": {"boolValue": True}} in span["attributes"]

    def test_what_is_cut_off_is_replayed_so_far_and_said(self, tmp_path: Path) -> None:
        path = tmp_path / "a.rec"
        path.write_bytes(
            preamble(HEAD)
            + block([ClockSample(0, CLOCK_NS), evidence(process(), span_end(200), watermark_ms=300), ARRIVED, DECIDED])
        )
        result = run("replay", path)
        assert result.exit_code == 1
        assert "1 spans decided" in result.stdout
        assert "cut off" in result.stderr

    def test_another_file_is_one_line_and_no_traceback(self) -> None:
        result = run("replay", __file__)
        assert result.exit_code == 1
        assert result.stderr.startswith(f"enricher: {__file__}: this is no recording.")


class TestExplainCommand:
    def test_a_recording_explains_with_what_was_known_when_it_was_decided(self, tmp_path: Path) -> None:
        entries: list[Entry] = [ClockSample(0, CLOCK_NS), evidence(*BLOCKED, watermark_ms=300), ARRIVED, DECIDED]
        path = recorded(tmp_path / "a.rec", *entries, evidence(watermark_ms=100 * S))  # then it is forgotten
        result = run("explain", TRACE_ID.hex(), "--recording", path)
        assert result.exit_code == 0, result.output
        assert "GET /cart of shop (client, 100 ms)" in result.stdout
        assert "matched by span_end" in result.stdout
        assert "claimed: goroutine 7: read on 5 (socket), parked for 30 ms" in result.stdout
        assert all(len(line) <= 80 for line in result.stdout.splitlines()), result.stdout

    def test_json_holds_the_same(self, tmp_path: Path) -> None:
        entries: list[Entry] = [ClockSample(0, CLOCK_NS), evidence(*BLOCKED, watermark_ms=300), ARRIVED, DECIDED]
        path = recorded(tmp_path / "a.rec", *entries)
        tree = json.loads(run("explain", TRACE_ID.hex(), "--recording", path, "--json").stdout)
        (span,) = tree["spans"]
        assert span["explanation"]["claims"]["ebpf.syscall.blocked.count"] == 1
        assert span["left_with"] == {}  # that is what the recording says of the time when it was made

    def test_a_trace_that_is_not_there_is_told_with_what_to_do(self, tmp_path: Path) -> None:
        result = run("explain", "ab" * 16, "--recording", recorded(tmp_path / "a.rec"))
        assert result.exit_code == 1
        assert "no span of trace abab" in result.stderr

    @pytest.mark.parametrize("text", ["", "xyz", "00" * 16, "ab" * 15, "ab" * 17])
    def test_what_is_no_trace_id_is_a_wrong_command_line(self, text: str) -> None:
        result = run("explain", text)
        assert result.exit_code == 2
        assert "32 hex digits" in result.stderr

    def test_nobody_to_ask_is_told_with_what_to_do(self) -> None:
        result = run("explain", "ab" * 16, "--address", "127.0.0.1:1")
        assert result.exit_code == 1
        assert "no enricher answers there" in result.stderr
        assert "--address" in result.stderr

    def test_a_running_one_explains_what_has_left(self, live: Callable[[], Live]) -> None:
        world = live()
        now_ms = world.now_ms()
        clock_ns = time.time_ns() - time.monotonic_ns()
        world.log.write(process(), wait(now_ms - 90, now_ms - 50), span_end(now_ms - 10), watermark_ms=now_ms)
        world.send(body(now_ms - 100, now_ms - 10, clock_ns=clock_ns))
        left_with = claims(world.leaves())
        answers = TraceAnswers(world.policy, world.journal.recent, HEAD.tail_ns, HEAD.threshold_ns)
        pages = Pages(Place.alone().board, lambda: Report(os.getpid(), State.SERVING), list, answers, lambda: "live")
        listener = socket.create_server(("127.0.0.1", 0))
        address = f"127.0.0.1:{listener.getsockname()[1]}"
        health = Health(lambda: 0, serving=lambda: True, all_serving=lambda: True)
        receiver = NativeReceiver(None, [Listening(kind="pages", sockets=[listener], answer=pages)], Limits(), health)
        receiver.start()
        try:
            (span,) = json.loads(run("explain", TRACE_ID.hex(), "--address", address, "--json").stdout)["spans"]
            text = run("explain", TRACE_ID.hex(), "--address", address).stdout
            unknown = run("explain", "ab" * 16, "--address", address)
        finally:
            receiver.stop(1)
        assert span["left_with"] == span["explanation"]["claims"] == left_with
        assert "claimed: goroutine 7" in text
        assert unknown.exit_code == 1
        assert "Remembered are 1 requests" in unknown.stderr
        assert "enricher record FILE" in unknown.stderr
