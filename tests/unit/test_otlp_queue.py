"""The queue from Python: what its bounds promise wherever a request is, and from many threads at once."""

from threading import Thread

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from enricher._native import Entry, MalformedRequest, Queue
from enricher.otlp.queue import series
from enricher.otlp.transport import Outcome
from tests.queue_entries import ready

OK, UNAVAILABLE = 0, 14


def request(spans: int = 1, padding: int = 0) -> bytes:
    made = ExportTraceServiceRequest()
    scope = made.resource_spans.add().scope_spans.add()
    for number in range(spans):
        scope.spans.add(span_id=number.to_bytes(8, "big"), name="x" * padding)
    return made.SerializeToString()


def test_a_place_is_taken_from_admission_until_release_wherever_the_request_is() -> None:
    queue = Queue(1, 1 << 20, 1 << 20)
    body = request(2)
    assert queue.offer(body, "")[0] == OK
    (held,) = queue.take_new(0, 0)
    assert queue.offer(body, "") == (UNAVAILABLE, "the queue is full", 1_000_000_000)  # held by the join
    queue.put([held])
    assert queue.offer(body, "")[0] == UNAVAILABLE  # ready
    taken = queue.take(1 << 20)
    assert [(entry.body, entry.spans, entry.requests) for entry in taken] == [(body, 2, 1)]
    assert queue.offer(body, "")[0] == UNAVAILABLE  # being sent, or in retry
    queue.release(taken)
    assert queue.offer(body, "")[0] == OK


def test_what_comes_in_is_joined_and_its_senders_are_known_by_span() -> None:
    queue = Queue(10, 1 << 20, 1 << 20)
    for peer, spans in (("a", 2), ("a", 1), ("b", 1)):
        queue.offer(request(spans), peer)
    (entry,) = queue.take_new(0, 1 << 20)
    assert entry.body == request(2) + request(1) + request(1)
    assert (entry.requests, entry.spans, entry.peers) == (3, 4, [(0, "a"), (3, "b")])
    assert entry.request is not None
    assert entry.request.body == entry.body
    assert [span.span_id[-1] for span in entry.request.spans()] == [0, 1, 0, 0]


def test_a_body_can_be_dropped_from_memory_and_given_back() -> None:
    queue = Queue(10, 1 << 20, 1 << 20)
    (entry,) = ready(queue, request())
    entry.replace_body(None)
    assert entry.size == 0
    with pytest.raises(LookupError):
        entry.body  # noqa: B018 - it is read to fail
    entry.replace_body(b"again")
    assert entry.body == b"again"


def test_a_sender_waits_for_a_late_answer_and_not_beyond_the_end() -> None:
    queue = Queue(10, 1 << 20, 1 << 20, answers_late=True)
    told: list[tuple[int, str, int | None]] = []
    senders = [Thread(target=lambda: told.append(queue.offer(request(), ""))) for _ in range(2)]
    entries: list[Entry] = []
    for number, sender in enumerate(senders):
        sender.start()
        while len(entries) == number:
            entries += queue.take_new(10, 0)
    entries.pop(0).answer(7, "no", 5)
    senders[0].join(10)
    assert told == [(7, "no", 5)]
    del entries[:]
    senders[1].join(10)
    assert told[1] == (UNAVAILABLE, "shutting down", None)


def test_what_was_stored_is_checked_like_what_comes() -> None:
    queue = Queue(10, 1 << 20, 1 << 20)
    with pytest.raises(MalformedRequest):
        queue.restore(b"\xff", 1)
    assert queue.restore(request(), 5)
    (entry,) = queue.take_new(0, 1 << 20)
    assert (entry.id, entry.peers) == (5, [(0, "")])


def test_everything_is_counted_by_what_the_answer_was() -> None:
    queue = Queue(1, 1 << 20, 1 << 20)
    for body in (request(2), request(3), b"\xff", b""):
        queue.offer(body, "")
    queue.refused(Outcome.UNAUTHENTICATED.value)
    shown = {one.name: one.values for one in series(queue)}
    assert {outcome: count for outcome, count in shown["receiver_requests"].items() if count} == {
        "accepted": 2,
        "busy": 1,
        "malformed": 1,
        "unauthenticated": 1,
    }
    assert shown["receiver_accepted_spans"] == {"": 2}
    assert shown["receiver_refused_spans"] == {"busy": 3}
    assert shown["exporter_queue_spans"] == {"": 2}
    assert set(shown["receiver_requests"]) == {outcome.value for outcome in Outcome}
    with pytest.raises(ValueError, match="no outcome"):
        queue.refused("nonsense")


def test_many_threads_lose_and_double_nothing() -> None:
    queue = Queue(10_000, 1 << 28, 1 << 20)
    taken: list[int] = []

    def produce() -> None:
        for number in range(1, 301):
            assert queue.offer(request(number % 7 + 1), "")[0] == OK

    def consume() -> None:
        while batch := queue.take(4096):
            taken.extend(entry.spans for entry in batch)
            queue.release(batch)

    consumers = [Thread(target=consume) for _ in range(4)]
    producers = [Thread(target=produce) for _ in range(4)]
    for thread in (*consumers, *producers):
        thread.start()
    while any(thread.is_alive() for thread in producers) or queue.statistics()["requests"]:
        queue.put(queue.take_new(0.01, 1024))
    queue.close()
    for thread in consumers:
        thread.join(30)
    assert sum(taken) == 4 * sum(number % 7 + 1 for number in range(1, 301))
    assert queue.statistics()["spans"] == 0


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(1, 5), st.booleans()), max_size=60))
def test_in_any_order_of_steps_the_bounds_hold_and_the_counts_are_of_what_is_there(
    steps: list[tuple[int, int, bool]],
) -> None:
    queue = Queue(5, 200, 1 << 20)
    there: list[Entry] = []
    for padding, spans, release in steps:
        if release and there:
            queue.release([there.pop(padding % len(there))])
        elif queue.offer(request(spans, padding), "")[0] == OK:
            there += queue.take_new(0, 0)
        now = queue.statistics()
        assert now["requests"] == len(there) <= 5
        assert now["bytes"] == sum(entry.size for entry in there)
        assert now["bytes"] <= 200 or len(there) == 1
        assert now["spans"] == sum(entry.spans for entry in there)
