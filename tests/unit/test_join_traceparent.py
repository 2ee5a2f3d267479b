"""The header of a request, seen on its connection, names a span: the goroutine or the connection is that span's."""

from collections.abc import Iterator
from dataclasses import replace

import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from enricher.evidence.records import Event, EventFlag, EventKind, SpanIds
from enricher.join.methods.method import Match
from enricher.join.methods.origin import Origins
from enricher.join.methods.traceparent import TraceparentHeader
from tests.unit.evidence_log import MS, PARENT_ID, SPAN_ID, TGID, TRACE_ID, Log, process, wait
from tests.unit.span_requests import WINDOW, Sent, request

GO_ONLY = EventFlag.PROCESS_HAS_GOROUTINES
WRITTEN = EventFlag.TRACEPARENT_WRITTEN
HTTP2 = EventFlag.CALL_MULTIPLEXED
HANDLER, CONNECTION, UPSTREAM, READ_LOOP = 7, 5, 6, 12
SERVED = Sent(SPAN_ID, 100, 150, PARENT_ID, Span.SPAN_KIND_SERVER)
CALLED = Sent(SPAN_ID, 100, 150, PARENT_ID, Span.SPAN_KIND_CLIENT)


@pytest.fixture
def log() -> Iterator[Log]:
    with Log() as made:
        made.write(process(flags=GO_ONLY))
        yield made


def header(at_ms: float, span_id: bytes, *, flags: int = 0, fd: int = CONNECTION, goid: int = HANDLER) -> Event:
    at_ns = int(at_ms * MS)
    return Event(
        kind=EventKind.TRACEPARENT,
        start_ns=at_ns,
        end_ns=at_ns,
        tgid=TGID,
        goid=goid,
        fd=fd,
        flags=flags,
        detail=SpanIds(trace_id=TRACE_ID, span_id=span_id).pack(),
    )


def read(at_ms: float = 99.9, **more: int) -> Event:
    return header(at_ms, PARENT_ID, **more)


def written(at_ms: float = 100.1, *, flags: int = 0, span_id: bytes = SPAN_ID) -> Event:
    return header(at_ms, span_id, flags=flags | WRITTEN, fd=UPSTREAM, goid=13)


def answer(start_ms: float, end_ms: float) -> Event:
    """The connection's own goroutine reads."""
    return wait(start_ms, end_ms, goid=READ_LOOP, fd=UPSTREAM)


def matched(log: Log, *spans: Sent) -> Match:
    return TraceparentHeader(log.index, Origins(log.index, "")).match(request(*spans), range(len(spans)), WINDOW)


def why(log: Log, span: Sent) -> str:
    return TraceparentHeader(log.index, Origins(log.index, "")).explain(request(span), 0, WINDOW).why


def blocked_ms(match: Match) -> dict[int, float]:
    return {evidence.ordinal: evidence.blocked_ns / MS for evidence in match.evidence}


def test_what_the_reader_of_a_request_waits_for_is_the_server_spans(log: Log) -> None:
    log.write(read(), wait(110, 140, fd=9), watermark_ms=500)
    match = matched(log, SERVED)
    assert blocked_ms(match) == {0: 30}
    assert match.evidence[0].complete


def test_so_is_what_it_waits_for_on_the_connection_itself(log: Log) -> None:
    log.write(wait(50, 99.9, fd=CONNECTION), read(), wait(110, 140, fd=CONNECTION), watermark_ms=500)
    assert blocked_ms(matched(log, SERVED)) == {0: 30}


def test_and_what_goroutines_wait_for_that_it_made(log: Log) -> None:
    log.write(read(), replace(wait(110, 140, goid=20, fd=9), parent_goid=HANDLER), watermark_ms=500)
    assert blocked_ms(matched(log, SERVED)) == {0: 30}


def test_the_connection_of_a_client_span_waits_for_it(log: Log) -> None:
    # The reader of the idle connection has waited since before the call.
    log.write(written(), answer(40, 140), watermark_ms=500)
    match = matched(log, CALLED)
    assert blocked_ms(match) == {0: 40}
    assert match.evidence[0].complete


def test_what_was_answered_before_the_request_was_written_is_anothers(log: Log) -> None:
    log.write(answer(101, 119), written(120), answer(120.1, 140), watermark_ms=500)
    match = matched(log, CALLED)
    assert blocked_ms(match) == {0: 19.9}
    assert not match.evidence[0].complete  # for 20 ms there was no connection: what for is not seen


def test_so_is_what_is_answered_after_the_next_one_was(log: Log) -> None:
    log.write(written(), answer(100.2, 120), written(125, span_id=b"n" * 8), answer(120.1, 145), watermark_ms=500)
    assert blocked_ms(matched(log, CALLED)) == {0: 19.8}


def test_a_wait_that_outlasts_the_span_is_for_the_next_call(log: Log) -> None:
    log.write(written(), answer(120, 190), watermark_ms=500)
    assert blocked_ms(matched(log, CALLED)) == {}


@pytest.mark.parametrize(
    ("span", "seen", "expected"),
    [
        (SERVED, [], "was seen to be read"),
        (SERVED, [read(), read(99.95)], "was seen to be read"),
        (SERVED, [read(flags=HTTP2)], "HTTP/2"),
        (SERVED, [read(goid=0)], "by which goroutine"),
        (SERVED, [read(120)], "only after"),
        (SERVED, [written()], "was seen to be read"),
        (replace(SERVED, parent_id=b""), [read()], "no parent"),
        (replace(SERVED, trace_id=b""), [read()], "no ids"),
        (replace(SERVED, kind=Span.SPAN_KIND_INTERNAL), [read()], "neither"),
        (CALLED, [], "was seen to be written"),
        (CALLED, [written(), written()], "was seen to be written"),
        (CALLED, [written(flags=HTTP2)], "HTTP/2"),
        (CALLED, [written(90)], "another time"),
        (CALLED, [written(170)], "another time"),
    ],
)
def test_without_one_request_over_http1_there_is_no_match(
    log: Log, span: Sent, seen: list[Event], expected: str
) -> None:
    log.write(*seen, wait(110, 140, fd=9), answer(110, 140), watermark_ms=500)
    assert list(matched(log, span).unmatched) == [0]
    assert expected in why(log, span)
