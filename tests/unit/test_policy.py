"""What happens to a request, whatever becomes of the evidence: it is answered once, and it leaves."""

import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from types import SimpleNamespace

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from enricher._native import MalformedLog, Queue, encode_attributes
from enricher.causes import registry
from enricher.join.explanation import Trial
from enricher.join.joiner import Joiner
from enricher.join.methods.method import Match, Method, Request, Window
from enricher.policy import Policy
from enricher.recording.journal import Journal

MS = 1_000_000
DEADLINE_S = 5.0


ACCEPTED, MALFORMED, TOO_LARGE, BUSY = 0, 3, 8, 14  # gRPC's codes


@dataclass
class FakeIndex:
    """Evidence up to `watermark_ns`, with a heartbeat at every poll unless `silent`."""

    watermark_ns: int = 0
    going_on_ns: int = 0
    heartbeat_seen_ns: int = 0
    watched: int = 1
    silent: bool = False
    broken: bool = False
    clock_ns: int = 0

    def poll(self) -> int:
        if self.broken:
            raise MalformedLog("garbage")
        if not self.silent:
            self.heartbeat_seen_ns = time.monotonic_ns()
        return 0

    def sample_clock(self, monotonic_ns: int, realtime_ns: int) -> None:
        self.clock_ns = realtime_ns - monotonic_ns

    def kernel_time_ns(self, unix_ns: int) -> int:
        return max(0, unix_ns - self.clock_ns)

    def statistics(self) -> dict[str, int]:
        return {"waits": 0}


@dataclass
class FakeMethod:
    """Ties every span; `open_until_ns` and `fault` are what it answers with."""

    open_until_ns: int = 0
    fault: Exception | None = None
    matches: int = 0
    method: Method = field(default_factory=lambda: Method("fake", "", exact=True, needs=()))

    def saw(self, request: Request) -> None:
        pass

    def match(self, request: Request, unmatched: object, window: Window) -> Match:
        self.matches += 1
        if self.fault:
            raise self.fault
        if window.settled_ns is not None and self.open_until_ns > window.settled_ns:
            return Match(open_until_ns=self.open_until_ns)
        return Match(matched=request.scanned.span_count)

    def explain(self, request: Request, ordinal: int, window: Window) -> Trial:
        return Trial("fake", matched=True, why="")


@dataclass
class World:
    index: FakeIndex
    method: FakeMethod
    queue: Queue
    policy: Policy

    def send(self, body: bytes) -> int:
        """The code that the sender is told."""
        return self.queue.offer(body, "ipv4:127.0.0.1:1")[0]

    def leaves(self, timeout_s: float = DEADLINE_S) -> list[bytes]:
        """What is handed on next; [] if nothing is in that time."""
        taken = self.queue.take(1 << 20, timeout_s)
        self.queue.release(taken)
        return [entry.body for entry in taken]


def make_world(*, stamp_all: bool = False, max_body_bytes: int = 1 << 20, queue_size: int = 10) -> World:
    index, method, queue = FakeIndex(), FakeMethod(), Queue(queue_size, 128 << 20, max_body_bytes)
    joiner = Joiner([method], registry(), encode_attributes, stamp_all=stamp_all)
    policy = Policy(
        index,  # type: ignore[arg-type]
        joiner,
        queue,
        Journal(index),  # type: ignore[arg-type]
        tail_ns=300 * MS,
        threshold_ns=MS,
        max_body_bytes=max_body_bytes,
    )
    policy.start()
    return World(index, method, queue, policy)


@pytest.fixture
def world() -> Iterator[World]:
    made = make_world()
    yield made
    made.policy.stop(0)


def request(end_unix_ns: int | None = None) -> bytes:
    end = time.time_ns() if end_unix_ns is None else end_unix_ns
    made = ExportTraceServiceRequest()
    span = made.resource_spans.add().scope_spans.add().spans.add()
    span.trace_id, span.span_id, span.name = b"t" * 16, b"s" * 8, "GET /"
    span.start_time_unix_nano, span.end_time_unix_nano = end - 5 * MS, end
    return made.SerializeToString()


def test_a_request_leaves_as_it_came_once_the_watermark_has_passed_its_end(world: World) -> None:
    body = request()
    assert world.send(body) == ACCEPTED
    assert world.leaves(0.05) == []
    world.index.watermark_ns = time.monotonic_ns() + 1000 * MS
    assert world.leaves() == [body]


def test_a_request_whose_tail_is_open_waits_for_the_waits_that_go_on(world: World) -> None:
    now_ns = time.monotonic_ns()
    world.index.watermark_ns = now_ns + 1000 * MS
    world.index.going_on_ns = now_ns
    world.method.open_until_ns = now_ns + 200 * MS
    body = request()
    world.send(body)
    assert world.leaves(0.05) == []
    assert world.method.matches == 1  # once open, it is not looked at again before its time
    world.index.going_on_ns = now_ns + 200 * MS
    assert world.leaves() == [body]


@pytest.mark.parametrize("why", ["nobody is watched", "no heartbeat", "the log is garbage"])
def test_nothing_is_held_without_evidence(why: str) -> None:
    world = make_world()
    if why == "nobody is watched":
        world.index.watched = 0
    elif why == "no heartbeat":
        world.index.silent, world.index.heartbeat_seen_ns = True, 1
    else:
        world.index.broken, world.index.heartbeat_seen_ns = True, 1
    body = request()
    world.send(body)
    assert world.leaves() == [body]
    assert world.policy.working
    world.policy.stop(0)


def test_spans_from_the_future_leave_after_the_longest_hold(world: World) -> None:
    body = request(end_unix_ns=2**63)
    world.send(body)
    assert world.leaves() == [body]


def test_malformed_requests_are_told_so_and_nothing_leaves(world: World) -> None:
    assert world.send(b"\xff") == MALFORMED
    assert world.leaves(0.05) == []


def test_an_empty_request_is_accepted_and_nothing_leaves(world: World) -> None:
    assert world.send(b"") == ACCEPTED
    assert world.leaves(0.05) == []


def test_a_request_of_more_spans_than_its_size_can_hold_is_refused() -> None:
    world = make_world(max_body_bytes=1024)
    made = ExportTraceServiceRequest()
    scope = made.resource_spans.add().scope_spans.add()
    for _ in range(65):
        scope.spans.add()
    body = made.SerializeToString()
    assert len(body) < 1024
    assert world.send(body) == TOO_LARGE
    world.policy.stop(0)


def test_a_full_queue_says_busy_and_counts() -> None:
    world = make_world(queue_size=1)
    assert world.send(request()) == ACCEPTED
    assert world.send(request()) == BUSY
    world.policy.stop(0)


def test_a_rule_that_fails_costs_the_claims_and_not_the_spans(world: World) -> None:
    world.method.fault = ZeroDivisionError()
    world.index.watched = 0
    body = request()
    world.send(body)
    assert world.leaves() == [body]
    assert {s.name: s.values for s in world.policy.series()}["join_failed_decisions"] == {"": 1}


def test_claims_that_would_make_a_request_too_large_are_left_off() -> None:
    body = request()
    world = make_world(stamp_all=True, max_body_bytes=len(body))
    world.index.watched = 0
    world.send(body)
    assert world.leaves() == [body]
    assert {s.name: s.values for s in world.policy.series()}["join_too_large"] == {"": 1}
    world.policy.stop(0)


def test_stamp_all_says_of_every_span_that_it_was_observed() -> None:
    world = make_world(stamp_all=True)
    world.index.watched = 0
    world.send(request())
    (body,) = world.leaves()
    (span,) = ExportTraceServiceRequest.FromString(body).resource_spans[0].scope_spans[0].spans
    assert {a.key: a.value.WhichOneof("value") for a in span.attributes} == {
        "ebpf.match.method": "string_value",
        "ebpf.complete": "bool_value",
        "ebpf.observed": "bool_value",
    }
    world.policy.stop(0)


def test_what_comes_together_leaves_joined_and_each_span_once(world: World) -> None:
    world.index.silent, world.index.heartbeat_seen_ns = True, 1
    began, go_on = threading.Event(), threading.Event()
    world.policy.ask(lambda _joiner: (began.set(), go_on.wait(DEADLINE_S)))
    assert began.wait(DEADLINE_S)
    bodies = [request(end_unix_ns=number) for number in range(10**9, 10**9 + 5)]
    for body in bodies:
        world.send(body)
    go_on.set()
    assert world.leaves() == [b"".join(bodies)]


def test_stop_hands_on_what_is_held(world: World) -> None:
    body = request()
    world.send(body)
    world.policy.stop(0.05)
    assert world.leaves() == [body]


def test_a_question_is_answered_on_the_policys_own_thread(world: World) -> None:
    thread = world.policy.ask(lambda _joiner: threading.current_thread().name).result(DEADLINE_S)
    assert thread == "policy"


def test_a_question_that_fails_is_the_askers_trouble_alone(world: World) -> None:
    with pytest.raises(ZeroDivisionError):
        world.policy.ask(lambda _joiner: 1 // 0).result(DEADLINE_S)
    assert world.policy.ask(lambda _joiner: "well").result(DEADLINE_S) == "well"


def test_spans_leave_while_many_questions_wait(world: World) -> None:
    """A turn has so much time for questions, and no more."""
    waiting = [world.policy.ask(lambda _joiner: time.sleep(0.004)) for _ in range(1000)]
    world.index.watched = 0
    body = request()
    world.send(body)
    assert world.leaves() == [body]
    assert not waiting[-1].done()
    for answer in waiting:
        answer.cancel()


def test_clocks_between_which_the_thread_was_set_aside_are_read_again(monkeypatch: pytest.MonkeyPatch) -> None:
    world = make_world()
    world.policy.stop(0)
    late = iter([0, 50 * MS, 100 * MS, 100 * MS + 1000])
    monkeypatch.setattr(world.policy, "_clock_ns", lambda: next(late))
    monkeypatch.setattr("enricher.policy.time", SimpleNamespace(time_ns=iter([7, 8]).__next__))
    assert world.policy._clocks() == (100 * MS + 500, 8)
