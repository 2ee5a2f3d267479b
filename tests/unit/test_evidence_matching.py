"""The evidence index ties spans to what their goroutines were blocked in."""

from collections.abc import Iterator

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from enricher._native import Matched, Request
from enricher.evidence.records import Event, EventFlag, EventKind, WaitKind
from tests.unit.evidence_log import (
    CLOCK_NS,
    FD,
    GOID,
    MS,
    PARENT_ID,
    SPAN_ID,
    TAIL_NS,
    TGID,
    TRACE_ID,
    Log,
    going_on,
    loss,
    process,
    process_exit,
    span_end,
    wait,
    write,
)

CLIENT, SERVER, CONSUMER = Span.SPAN_KIND_CLIENT, Span.SPAN_KIND_SERVER, Span.SPAN_KIND_CONSUMER


@pytest.fixture
def log() -> Iterator[Log]:
    with Log() as made:
        yield made


def request_of(
    span_ids: list[bytes], kind: "Span.SpanKind.ValueType" = CLIENT, parent_id: bytes = PARENT_ID
) -> Request:
    """Spans from 100 to 200 ms."""
    made = ExportTraceServiceRequest()
    spans = made.resource_spans.add().scope_spans.add().spans
    for span_id in span_ids:
        times = {"start_time_unix_nano": CLOCK_NS + 100 * MS, "end_time_unix_nano": CLOCK_NS + 200 * MS}
        spans.add(trace_id=TRACE_ID, span_id=span_id, parent_span_id=parent_id, kind=kind, **times)
    return Request.scan(made.SerializeToString())


def blocked_ms(matched: Matched) -> list[float]:
    return [evidence.blocked_ns / MS for evidence in matched.evidence]


def test_a_wait_of_the_goroutine_inside_the_span_is_the_spans(log: Log) -> None:
    log.write(process(), wait(120, 150), span_end(200), watermark_ms=1000)
    matched = log.match(100, 200)
    (evidence,) = matched.evidence
    assert (matched.matched, matched.unmatched, matched.incomplete) == (1, [], [])
    assert (evidence.ordinal, evidence.tgid, evidence.goid) == (0, TGID, GOID)
    assert (evidence.start_ns, evidence.end_ns, evidence.tail_end_ns) == (100 * MS, 200 * MS, 200 * MS)
    assert (evidence.blocked_ns, evidence.blocked_after_end_ns, evidence.blocked_count) == (30 * MS, 0, 1)
    assert evidence.complete
    assert evidence.kinds == WaitKind.PARKED
    assert [(w.start_ns, w.end_ns, w.fd, w.goid) for w in evidence.waits] == [(120 * MS, 150 * MS, FD, GOID)]


@pytest.mark.parametrize(
    ("clock_error_ms", "why"),
    [
        (0, "the clocks agree"),
        (-40, "the clock was set forward since: the start it was given is too early"),
        (101, "the clock was set back since: the start it was given is after its end"),
    ],
)
def test_times_are_those_of_the_kernel_and_only_the_duration_is_the_spans(
    log: Log, clock_error_ms: float, why: str
) -> None:
    log.write(process(), wait(120, 150), span_end(200), watermark_ms=1000)
    (evidence,) = log.match(100, 200, clock_error_ms=clock_error_ms).evidence
    assert (evidence.start_ns, evidence.end_ns) == (100 * MS, 200 * MS), why


def test_a_span_whose_thread_lost_the_cpu_in_its_end_does_not_reach_back_before_its_start(log: Log) -> None:
    # It began at 100 and came to End() at 110, but the SDK read its clock at 170 only: 70 ms, it says.
    request = wait(60, 99)
    log.write(process(), request, span_end(110), watermark_ms=1000)
    assert log.match(100, 170).evidence == []
    log.write(wait(102, 108), watermark_ms=1001)
    (evidence,) = log.match(100, 170).evidence
    assert (evidence.start_ns, evidence.end_ns, evidence.blocked_ns) == (100 * MS, 110 * MS, 6 * MS)


def test_what_the_goroutine_waits_for_after_its_end_is_not_the_spans_however_late_the_sdk_says_it_ended(
    log: Log,
) -> None:
    log.write(process(), span_end(110), wait(120, 160), watermark_ms=1000)
    assert log.match(100, 170).evidence == []


def test_of_a_span_that_was_given_another_end_nothing_is_known(log: Log) -> None:
    """Or the clock was set since it ended: its own times would point at what its goroutine did for another span."""
    log.write(process(), wait(120, 150), wait(1120, 1130), span_end(1500), watermark_ms=2000)
    matched = log.match(100, 200)
    assert (matched.matched, matched.evidence, matched.incomplete, matched.unmatched) == (0, [], [], [0])


def test_a_span_that_was_handed_to_a_goroutine_that_waited_for_something_else_is_not_told_that_wait(log: Log) -> None:
    log.write(process(), wait(50, 150), span_end(200), watermark_ms=1000)
    matched = log.match(100, 200)
    assert (matched.evidence, matched.incomplete) == ([], [0])


def test_a_sleep_inside_the_call_that_ends_a_wait_does_not_hide_the_wait(log: Log) -> None:
    log.write(process(), wait(196, 198, fd=9), wait(110, 199, fd=8), span_end(200), watermark_ms=1000)
    (evidence,) = log.match(100, 200).evidence
    assert (evidence.blocked_ns, evidence.longest.fd) == (89 * MS, 8)


def test_a_span_that_began_before_what_is_remembered_is_incomplete(log: Log) -> None:
    log.write(process(), wait(120, 150), watermark_ms=151)
    log.write(watermark_ms=31_000)  # the wait is older than the retention time
    log.write(wait(30_900, 30_950, goid=9), span_end(31_500), watermark_ms=32_000)
    assert log.match(100, 31_500).incomplete == [0]
    assert log.match(200, 31_500).incomplete == []


@pytest.mark.parametrize(
    ("event", "why"),
    [
        (wait(120, 150, goid=8), "another goroutine"),
        (wait(120, 150, goid=0), "a thread whose goroutine is not known"),
        (wait(120, 150, tgid=43), "another process"),
        (wait(50, 99), "before the span"),
        (wait(201, 240), "after the span"),
        (wait(120, 120.5), "shorter than the threshold"),
        (wait(50, 100.5), "its part inside is shorter than the threshold"),
    ],
)
def test_other_waits_are_not_the_spans(log: Log, event: Event, why: str) -> None:
    log.write(process(), process(tgid=43), event, span_end(200), watermark_ms=1000)
    matched = log.match(100, 200)
    assert (matched.matched, matched.evidence, matched.incomplete) == (1, [], []), why


def test_a_goroutine_that_is_not_known_has_no_waits(log: Log) -> None:
    log.write(process(), wait(120, 150, goid=0), span_end(200, goid=0), watermark_ms=1000)
    assert log.match(100, 200).evidence == []


def test_overlapping_waits_count_once_and_are_clipped(log: Log) -> None:
    log.write(process(), wait(50, 110, fd=1), wait(120, 160, fd=2), wait(150, 170, fd=3), span_end(200))
    log.write(watermark_ms=1000)
    (evidence,) = log.match(100, 200).evidence
    assert (evidence.blocked_ns, evidence.blocked_count) == (60 * MS, 3)
    assert [w.fd for w in evidence.waits] == [1, 2, 3]
    assert evidence.longest.fd == 2  # the first is longer, but not inside the span


@pytest.mark.parametrize(
    "event",
    [wait(50, 100.5, fd=9), wait(199.5, 230, fd=9), write(10, 100.9), going_on(199.1, 210, fd=9)],
)
def test_a_wait_of_which_less_than_the_threshold_is_inside_is_no_part_of_the_evidence(log: Log, event: Event) -> None:
    log.write(process(), wait(120, 150), event, watermark_ms=1000)
    log.write(span_end(200), watermark_ms=1000)
    (evidence,) = log.match(100, 200).evidence
    assert (evidence.blocked_ns, evidence.blocked_count, evidence.complete) == (30 * MS, 1, True)
    assert (evidence.kinds, evidence.longest.fd, len(evidence.waits)) == (WaitKind.PARKED, FD, 1)


def test_of_a_tail_too_only_waits_as_long_as_the_threshold_count(log: Log) -> None:
    log.write(process(), span_end(200), write(210, 260, tail_of_ms=200), write(499.5, 900, tail_of_ms=200))
    log.write(watermark_ms=1000)
    (evidence,) = log.match(100, 200, kind=SERVER).evidence
    assert (evidence.blocked_after_end_ns, evidence.blocked_count, evidence.complete) == (50 * MS, 1, True)


def test_waits_shorter_than_the_threshold_do_not_add_up_to_evidence(log: Log) -> None:
    log.write(process(), wait(50, 100.9), wait(199.2, 230, fd=9), span_end(200), watermark_ms=1000)
    assert log.match(100, 200).evidence == []


def test_both_kinds_of_blocking_show(log: Log) -> None:
    log.write(process(), wait(110, 120), write(130, 140), span_end(200), watermark_ms=1000)
    (evidence,) = log.match(100, 200).evidence
    assert evidence.kinds == WaitKind.PARKED | WaitKind.KERNEL


def test_only_the_span_whose_trace_and_span_id_are_equal_is_matched(log: Log) -> None:
    log.write(process(), wait(120, 150), span_end(200, trace_id=b"x" * 16), watermark_ms=1000)
    matched = log.match(100, 200)
    assert (matched.matched, matched.unmatched) == (0, [0])


@pytest.mark.parametrize("span_id", [b"", b"sssssss", b"sssssssss"])
def test_ids_of_another_length_match_nothing(log: Log, span_id: bytes) -> None:
    log.write(process(), wait(120, 150), span_end(200), span_end(200, span_id=bytes(8)), watermark_ms=1000)
    assert log.match(100, 200, span_id=span_id).unmatched == [0]


def test_the_first_end_of_a_span_counts(log: Log) -> None:
    log.write(process(), wait(120, 150), span_end(200), span_end(900, goid=9), watermark_ms=1000)
    assert blocked_ms(log.match(100, 200)) == [30]
    assert log.index.statistics()["span_ends_repeated_total"] == 1


def test_spans_are_found_in_whatever_order_they_are_exported(log: Log) -> None:
    ids = [bytes([n]) * 8 for n in range(100)]
    log.write(process(), wait(120, 150), *(span_end(200, span_id=span_id) for span_id in ids), watermark_ms=1000)
    orders = (ids, ids[::-1], [*ids[::2], b"unknown!", *ids[1::2]], [*ids, *ids])
    for order in orders:
        matched = log.index.match(request_of(order), TAIL_NS, MS)
        unknown = [at for at, span_id in enumerate(order) if span_id not in ids]
        assert (matched.matched, matched.unmatched) == (len(order) - len(unknown), unknown)
        assert [evidence.ordinal for evidence in matched.evidence] == [n for n in range(len(order)) if n not in unknown]


# Tail


def is_open(
    log: Log,
    settled_ms: int,
    kind: "Span.SpanKind.ValueType" = SERVER,
    parent_id: bytes = PARENT_ID,
) -> bool:
    """Whether it is too early at `settled_ms` for a span from 100 to 200, whose tail ends at 500 ms."""
    request = request_of([SPAN_ID], kind, parent_id)
    matched = log.index.match(request, TAIL_NS, MS, settled_ms * MS)
    if matched.open_until_ns:
        assert matched.open_until_ns == 500 * MS
        assert (matched.matched, matched.evidence, matched.incomplete, matched.unmatched) == (0, [], [], [])
    return bool(matched.open_until_ns)


@pytest.mark.parametrize(
    ("kind", "parent_id", "has_tail"),
    [
        (SERVER, PARENT_ID, True),
        (5, PARENT_ID, False),
        (CLIENT, b"", False),
        (CLIENT, PARENT_ID, False),
        (Span.SPAN_KIND_UNSPECIFIED, PARENT_ID, False),
    ],
)
def test_a_blocked_write_after_the_end_is_the_tail_of_spans_that_can_have_one(
    log: Log, kind: "Span.SpanKind.ValueType", parent_id: bytes, has_tail: bool
) -> None:
    log.write(process(), span_end(200), write(201, 251, tail_of_ms=200), watermark_ms=1000)
    assert is_open(log, 499, kind=kind, parent_id=parent_id) == has_tail
    matched = log.match(100, 200, kind=kind, parent_id=parent_id)
    assert blocked_ms(matched) == ([50] if has_tail else [])
    for evidence in matched.evidence:
        assert (evidence.tail_end_ns, evidence.blocked_after_end_ns) == (500 * MS, 50 * MS)


@pytest.mark.parametrize(
    ("event", "why"),
    [
        (write(201, 251, tail_of_ms=150), "the tail of another span"),
        (write(201, 251), "in no tail: something was read before"),
        (wait(201, 251, tail_of_ms=200), "a read"),
        (write(501, 551, tail_of_ms=200), "too late"),
    ],
)
def test_other_waits_after_the_end_are_not_the_tail(log: Log, event: Event, why: str) -> None:
    log.write(process(), span_end(200), event, watermark_ms=1000)
    assert log.match(100, 200, kind=SERVER).evidence == [], why


def test_a_wait_that_reaches_beyond_the_tail_is_clipped_and_says_so(log: Log) -> None:
    log.write(process(), span_end(200), write(210, 900, tail_of_ms=200), watermark_ms=1000)
    (evidence,) = log.match(100, 200, kind=SERVER).evidence
    assert (evidence.blocked_ns, evidence.complete) == (290 * MS, False)


@pytest.mark.parametrize(
    ("event", "is_over"),
    [
        (wait(210, 220, tail_of_ms=200), True),  # it has read
        (wait(210, 220, tail_of_ms=200, error=11), False),  # it tried to
        (wait(210, 220, tail_of_ms=200, kind=EventKind.WAIT_GOING_ON), False),
        (write(210, 220, tail_of_ms=200), False),
        (write(210, 220), True),  # it has read, fast, and writes the next response
        (write(210, 220, tail_of_ms=205), True),  # another span ended
    ],
)
def test_a_tail_is_over_when_the_goroutine_has_read_or_ended_another_span(
    log: Log, event: Event, is_over: bool
) -> None:
    log.write(process(), span_end(200), event, watermark_ms=230)
    assert is_open(log, 499) != is_over
    assert not is_open(log, 500)
    matched = log.match(100, 200, kind=SERVER)
    incomplete = [evidence.ordinal for evidence in matched.evidence if not evidence.complete] + matched.incomplete
    assert incomplete == ([] if is_over else [0])


# Waits that go on


def test_a_wait_that_goes_on_fills_the_rest_of_the_span(log: Log) -> None:
    log.write(
        process(),
        span_end(200),
        write(250, 260, tail_of_ms=200, kind=EventKind.WAIT_GOING_ON),
        watermark_ms=1000,
    )
    (evidence,) = log.match(100, 200, kind=SERVER).evidence
    assert (evidence.blocked_ns, evidence.blocked_after_end_ns) == (250 * MS, 250 * MS)
    assert not evidence.complete
    assert evidence.longest.going_on


def test_the_end_of_a_wait_replaces_the_report_that_it_goes_on(log: Log) -> None:
    log.write(process(), going_on(120, 130), wait(120, 150), span_end(200), watermark_ms=1000)
    (evidence,) = log.match(100, 200).evidence
    assert (evidence.blocked_ns, evidence.blocked_count, evidence.complete) == (30 * MS, 1, True)


def test_a_wait_that_is_sent_again_is_one_wait(log: Log) -> None:
    log.write(process(), wait(120, 130), wait(120, 140), going_on(120, 145), wait(120, 150), span_end(200))
    log.write(watermark_ms=1000)
    (evidence,) = log.match(100, 200).evidence
    assert (evidence.blocked_ns, evidence.blocked_count) == (30 * MS, 1)
    assert log.index.statistics()["waits"] == 1


def test_a_report_of_going_on_that_comes_late_does_not_undo_the_end(log: Log) -> None:
    log.write(process(), wait(120, 150), going_on(120, 149), span_end(200), watermark_ms=1000)
    assert blocked_ms(log.match(100, 200)) == [30]


def test_a_wait_of_unknown_end_takes_back_what_was_reported(log: Log) -> None:
    unknown = wait(120, 180, flags=EventFlag.WAIT_END_UNKNOWN)
    log.write(process(), going_on(120, 130), unknown, span_end(200), watermark_ms=1000)
    matched = log.match(100, 200)
    assert (matched.evidence, matched.incomplete) == ([], [])
    assert log.index.statistics()["waits_end_unknown_total"] == 1


@pytest.mark.parametrize(
    "sign",
    [
        span_end(160),
        wait(160, 161, fd=9),
        going_on(160, 161, fd=9),
        loss(155, 165),
        loss(155, 165, tgid=TGID),
    ],
)
def test_what_shows_that_a_wait_is_over_takes_back_that_it_goes_on(log: Log, sign: Event) -> None:
    log.write(process(), going_on(120, 130), sign, watermark_ms=1000)
    log.write(span_end(400, span_id=b"2" * 8), watermark_ms=1000)
    assert log.match(300, 400, span_id=b"2" * 8).evidence == []
    assert log.index.statistics()["wait_owners_going_on"] == 0


def test_another_goroutine_takes_back_nothing(log: Log) -> None:
    other = [span_end(160, goid=8), wait(160, 161, goid=8), loss(155, 165, tgid=43)]
    log.write(process(), going_on(120, 130), *other, watermark_ms=1000)
    assert log.index.statistics()["waits_contradicted_total"] == 0
    assert log.index.statistics()["wait_owners_going_on"] == 1


def test_with_its_process_a_wait_ends(log: Log) -> None:
    log.write(
        process(),
        span_end(200),
        write(210, 220, tail_of_ms=200, kind=EventKind.WAIT_GOING_ON),
        process_exit(260),
    )
    log.write(watermark_ms=1000)
    (evidence,) = log.match(100, 200, kind=SERVER).evidence
    assert (evidence.blocked_ns, evidence.complete) == (50 * MS, True)


# Complete


@pytest.mark.parametrize(
    ("events", "watermark_ms", "why"),
    [
        ([process(), span_end(200)], 150, "not all of its events are known yet"),
        ([process(150), span_end(200)], 1000, "watched only since its middle"),
        ([span_end(200)], 1000, "not watched"),
        ([process(), loss(150, 160), span_end(200)], 1000, "events of any process lost"),
        ([process(), loss(150, 160, tgid=TGID), span_end(200)], 1000, "events of its process lost"),
        ([process(), loss(50, 100), span_end(200)], 1000, "lost up to its start"),
    ],
)
def test_a_span_whose_evidence_is_not_whole_is_incomplete(
    log: Log, events: list[Event], watermark_ms: float, why: str
) -> None:
    log.write(*events, watermark_ms=watermark_ms)
    assert log.match(100, 200).incomplete == [0], why
    log.write(wait(120, 150))
    (evidence,) = log.match(100, 200).evidence
    assert not evidence.complete, why


@pytest.mark.parametrize("event", [loss(50, 99), loss(201, 300), loss(150, 160, tgid=43)])
def test_a_loss_elsewhere_leaves_it_complete(log: Log, event: Event) -> None:
    log.write(process(), event, span_end(200), watermark_ms=1000)
    assert log.match(100, 200).incomplete == []


def test_an_open_tail_needs_to_know_what_goes_on_at_its_end(log: Log) -> None:
    log.write(process(), span_end(200), watermark_ms=1000, going_on_ms=499)
    assert log.match(100, 200, kind=SERVER).incomplete == [0]
    log.write(watermark_ms=1001, going_on_ms=500)
    assert log.match(100, 200, kind=SERVER).incomplete == []
