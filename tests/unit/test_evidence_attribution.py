"""Whose a wait is: goroutines made inside a span, connections taken by its calls, spans inside of spans, hand-overs."""

import pytest

from enricher._native import SpanEvidence
from enricher.evidence.records import Event, EventFlag, EventKind
from tests.unit.evidence_log import (
    CLIENT,
    GOID,
    MS,
    TAIL_NS,
    Log,
    call,
    goroutine_exit,
    inet,
    loss,
    process,
    span,
    wait,
)

CHILD, GRANDCHILD, READER, OTHER = 21, 22, 31, 41
INNER = b"i" * 8
UPSTREAM = inet("10.0.0.9", 443)
END_OF_FILE = EventFlag.WAIT_END_OF_FILE


def found(log: Log, start_ms: float, end_ms: float, *, span_id: bytes = b"s" * 8) -> SpanEvidence | None:
    matched = log.match(start_ms, end_ms, span_id=span_id)
    assert matched.matched == 1
    return matched.evidence[0] if matched.evidence else None


def incomplete(log: Log, start_ms: float, end_ms: float) -> bool:
    return log.match(start_ms, end_ms).incomplete == [0]


@pytest.fixture
def log() -> Log:
    log = Log()
    log.write(process())
    return log


def test_a_goroutine_made_inside_the_span_and_done_before_its_end_counts(log: Log) -> None:
    log.write(wait(110, 140, goid=CHILD, root=(GOID, 105)), span(100, 200), watermark_ms=500)
    evidence = found(log, 100, 200)
    assert evidence is not None
    assert (evidence.blocked_ns, evidence.blocked_count, evidence.complete) == (30 * MS, 1, True)
    assert evidence.via == "goroutine"
    assert evidence.direct_ns == 30 * MS


def test_waits_of_several_goroutines_at_once_count_once(log: Log) -> None:
    log.write(
        wait(110, 140, goid=CHILD, root=(GOID, 105)),
        wait(120, 150, goid=GRANDCHILD, root=(GOID, 105)),
        wait(145, 160),
        span(100, 200),
        watermark_ms=500,
    )
    evidence = found(log, 100, 200)
    assert evidence is not None
    assert (evidence.blocked_ns, evidence.blocked_count) == (50 * MS, 3)


def test_a_goroutine_made_before_the_span_is_not_its_own(log: Log) -> None:
    log.write(wait(110, 140, goid=CHILD, root=(GOID, 95)), span(100, 200), watermark_ms=500)
    assert found(log, 100, 200) is None
    assert not incomplete(log, 100, 200)


def test_a_goroutine_made_inside_another_span_of_its_maker_is_not_its_own(log: Log) -> None:
    log.write(wait(250, 280, goid=CHILD, root=(GOID, 105)), span(210, 300), watermark_ms=500)
    assert found(log, 210, 300) is None


def test_a_goroutine_that_is_blocked_when_the_span_ends_works_on_its_own(log: Log) -> None:
    log.write(
        wait(110, 140, goid=CHILD, root=(GOID, 105)),
        span(100, 200),
        wait(150, 260, goid=CHILD, root=(GOID, 105)),
        watermark_ms=500,
    )
    assert found(log, 100, 200) is None


def test_that_it_is_blocked_then_is_waited_for(log: Log) -> None:
    log.write(wait(110, 140, goid=CHILD, root=(GOID, 105)), span(100, 200), watermark_ms=200, going_on_ms=150)
    request = log.request(100, 200)
    matched = log.index.match(request, TAIL_NS, MS, log.index.going_on_ns)
    assert matched.open_until_ns == 250 * MS
    going_on = wait(150, 255, goid=CHILD, root=(GOID, 105), kind=EventKind.WAIT_GOING_ON)
    log.write(going_on, watermark_ms=255, going_on_ms=255)
    matched = log.index.match(request, TAIL_NS, MS, log.index.going_on_ns)
    assert not matched.open_until_ns
    assert not matched.evidence


EXITS = EventFlag.PROCESS_HAS_GOROUTINES | EventFlag.PROCESS_HAS_SPAN_ENDS | EventFlag.PROCESS_HAS_EXITS


@pytest.mark.parametrize(
    ("exit_ms", "is_claimed", "why"),
    [
        (150, True, "it ended inside the span"),
        (230, True, "it says that it is done before it ends"),
        (300, False, "it went on to something else"),
        (None, False, "it is there still"),
    ],
)
def test_where_ends_of_goroutines_are_seen_those_that_live_on_work_on_their_own(
    exit_ms: float | None, is_claimed: bool, why: str
) -> None:
    log = Log()
    log.write(process(flags=EXITS), wait(110, 140, goid=CHILD, root=(GOID, 105)), span(100, 200))
    if exit_ms is not None:
        log.write(goroutine_exit(exit_ms, goid=CHILD))
    log.write(watermark_ms=500)
    assert (found(log, 100, 200) is not None) == is_claimed, why


def test_the_connection_of_a_call_is_blocked_from_the_call_to_the_answer(log: Log) -> None:
    """Its reader waits since before the call."""
    log.write(call(110, peer=UPSTREAM), wait(20, 140, goid=READER, peer=UPSTREAM), span(100, 150), watermark_ms=500)
    evidence = found(log, 100, 150)
    assert evidence is not None
    assert (evidence.blocked_ns, evidence.via) == (30 * MS, "connection")
    assert evidence.longest.peer() == "10.0.0.9:443"


def test_a_reader_that_idles_between_two_calls_blocks_nobody(log: Log) -> None:
    """A handler that calls, works for itself, and calls again on the same connection."""
    log.write(
        call(110, peer=UPSTREAM),
        wait(20, 115, goid=READER, peer=UPSTREAM),
        call(180, peer=UPSTREAM),
        wait(116, 190, goid=READER, peer=UPSTREAM),
        span(100, 200),
        watermark_ms=500,
    )
    evidence = found(log, 100, 200)
    assert evidence is not None
    assert evidence.blocked_ns == 15 * MS


def test_a_connection_that_was_given_back_blocks_nobody(log: Log) -> None:
    """However its idling ends: the other end may close it, or send what nobody has asked for."""
    log.write(
        call(110, peer=UPSTREAM),
        wait(20, 115, goid=READER, peer=UPSTREAM),
        call(116, peer=UPSTREAM, goid=READER, flags=EventFlag.CALL_OVER),
        wait(116, 190, goid=READER, peer=UPSTREAM, flags=END_OF_FILE),
        span(100, 200),
        watermark_ms=500,
    )
    evidence = found(log, 100, 200)
    assert evidence is not None
    assert evidence.blocked_ns == 5 * MS


def test_an_answer_that_ends_with_the_connection_was_waited_for(log: Log) -> None:
    log.write(
        call(110, peer=UPSTREAM),
        wait(20, 115, goid=READER, peer=UPSTREAM),
        wait(116, 190, goid=READER, peer=UPSTREAM, flags=END_OF_FILE),
        span(100, 200),
        watermark_ms=500,
    )
    evidence = found(log, 100, 200)
    assert evidence is not None
    assert evidence.blocked_ns == (5 + 74) * MS


def answered(log: Log, end_ms: float, *later: Event) -> None:
    log.write(
        call(110, peer=UPSTREAM, flags=EventFlag.CALL_MULTIPLEXED),
        wait(20, 150, goid=READER, peer=UPSTREAM),
        span(100, end_ms, flags=int(EventFlag.SPAN_OF_CLIENT)),
        *later,
        watermark_ms=500,
    )


@pytest.mark.parametrize("end_ms", [151, 155])
def test_a_clients_span_ends_with_its_answer(log: Log, end_ms: float) -> None:
    answered(log, end_ms)
    evidence = found(log, 100, end_ms)
    assert evidence is not None
    assert (evidence.blocked_ns, evidence.complete) == (40 * MS, True)


def test_one_that_goes_on_while_the_connection_idles_does_not_wait_for_it(log: Log) -> None:
    answered(log, 230, wait(150.5, 300, goid=READER, peer=UPSTREAM))
    assert found(log, 100, 230) is None
    assert incomplete(log, 100, 230)


def test_one_that_is_late_on_a_busy_connection_says_that_it_may_not_be_whole(log: Log) -> None:
    answered(log, 230)
    evidence = found(log, 100, 230)
    assert evidence is not None
    assert (evidence.blocked_ns, evidence.complete) == (40 * MS, False)


def test_where_evidence_was_lost_only_what_the_span_itself_waited_for_is_claimed(log: Log) -> None:
    """That a goroutine lives on, or that a connection was given back, may be among the lost."""
    log.write(
        wait(110, 140, goid=CHILD, root=(GOID, 105)),
        call(110, peer=UPSTREAM),
        wait(20, 130, goid=READER, peer=UPSTREAM),
        wait(150, 160),
        span(100, 200),
        loss(210, 220),
        watermark_ms=500,
    )
    evidence = found(log, 100, 200)
    assert evidence is not None
    assert (evidence.blocked_ns, evidence.complete) == (10 * MS, False)


def test_a_time_that_the_span_was_given_makes_it_shorter(log: Log) -> None:
    log.write(wait(120, 140), wait(160, 190), span(100, 200), watermark_ms=500)
    evidence = found(log, 150, 200)
    assert evidence is not None
    assert (evidence.start_ns, evidence.blocked_ns) == (150 * MS, 30 * MS)
    evidence = found(log, 100, 150)
    assert evidence is not None
    assert (evidence.end_ns, evidence.blocked_ns) == (150 * MS, 20 * MS)


def test_a_descriptor_that_is_another_connection_by_now_is_not_that_of_the_call(log: Log) -> None:
    log.write(
        call(110, peer=UPSTREAM),
        wait(120, 140, goid=READER, peer=inet("10.0.0.8", 80)),
        span(100, 150),
        watermark_ms=500,
    )
    assert found(log, 100, 150) is None


def test_a_connection_that_is_older_than_the_watching_may_have_been_waited_for(log: Log) -> None:
    """Its reader said EAGAIN before anybody listened."""
    log.write(call(110, peer=UPSTREAM), span(100, 150), call(210, peer=UPSTREAM), span(200, 250, span_id=INNER))
    log.write(watermark_ms=500)
    assert incomplete(log, 100, 150)
    assert not log.match(200, 250, span_id=INNER).incomplete
    log.write(call(130_000, peer=inet("10.0.0.8", 80)), span(129_990, 130_100, span_id=b"3" * 8), watermark_ms=131_000)
    assert not log.match(129_990, 130_100, span_id=b"3" * 8).incomplete


def test_a_call_is_that_of_the_innermost_span(log: Log) -> None:
    """The outer one has it by way of the inner one, and only as far as that reaches."""
    log.write(
        call(110, peer=UPSTREAM),
        wait(20, 140, goid=READER, peer=UPSTREAM),
        span(105, 145, span_id=INNER, parent_id=b"s" * 8),
        wait(141, 190, goid=READER, peer=UPSTREAM),
        span(100, 200),
        watermark_ms=500,
    )
    inner, outer = found(log, 105, 145, span_id=INNER), found(log, 100, 200)
    assert inner is not None
    assert outer is not None
    assert (inner.blocked_ns, inner.via, inner.direct_ns) == (30 * MS, "connection", 30 * MS)
    assert (outer.blocked_ns, outer.direct_ns) == (30 * MS, 0)


@pytest.mark.parametrize("flags", [0, int(EventFlag.SPAN_OF_CLIENT)])
def test_a_connection_for_many_calls_counts_for_spans_of_clients_only(log: Log, flags: int) -> None:
    log.write(
        call(110, peer=UPSTREAM, flags=EventFlag.CALL_MULTIPLEXED),
        call(111, peer=UPSTREAM, flags=EventFlag.CALL_MULTIPLEXED, goid=OTHER),
        wait(20, 140, goid=READER, peer=UPSTREAM),
        wait(141, 150, goid=READER, peer=UPSTREAM),
        span(100, 151, flags=flags),
        watermark_ms=500,
    )
    evidence = found(log, 100, 151)
    assert (evidence.blocked_ns if evidence else 0) == (39 * MS if flags else 0)


def test_a_child_span_on_a_worker_counts_for_its_parent(log: Log) -> None:
    log.write(
        wait(110, 140, goid=OTHER),
        span(105, 150, span_id=INNER, parent_id=b"s" * 8, goid=OTHER),
        wait(160, 170),
        span(100, 200),
        watermark_ms=500,
    )
    evidence = found(log, 100, 200)
    assert evidence is not None
    assert (evidence.blocked_ns, evidence.direct_ns) == (40 * MS, 10 * MS)


def test_a_child_span_counts_only_for_the_time_both_ran(log: Log) -> None:
    """What began before the child span, and what went on after it, is the worker's own affair."""
    log.write(
        wait(90, 112, goid=OTHER),
        wait(113, 140, goid=OTHER),
        span(110, 130, span_id=INNER, parent_id=b"s" * 8, goid=OTHER),
        span(100, 200),
        watermark_ms=500,
    )
    evidence = found(log, 100, 200)
    assert evidence is not None
    assert evidence.blocked_ns == (2 + 17) * MS


def test_a_child_span_in_another_process_is_that_processs_affair(log: Log) -> None:
    log.write(process(tgid=43))
    log.write(
        wait(110, 140, tgid=43),
        span(105, 150, span_id=INNER, parent_id=b"s" * 8, tgid=43),
        span(100, 200),
        watermark_ms=500,
    )
    assert found(log, 100, 200) is None


def test_nested_spans_on_one_goroutine_share_what_it_waited_for(log: Log) -> None:
    log.write(
        wait(110, 140),
        span(105, 150, span_id=INNER, parent_id=b"s" * 8),
        wait(160, 180),
        span(100, 200),
        watermark_ms=500,
    )
    inner, outer = found(log, 105, 150, span_id=INNER), found(log, 100, 200)
    assert inner is not None
    assert outer is not None
    assert (inner.blocked_ns, inner.direct_ns) == (30 * MS, 30 * MS)
    assert (outer.blocked_ns, outer.direct_ns, outer.blocked_count) == (50 * MS, 20 * MS, 2)


def test_spans_that_are_each_others_parents_end_the_search(log: Log) -> None:
    a, b = b"a" * 8, b"b" * 8
    log.write(
        wait(110, 140),
        span(105, 150, span_id=a, parent_id=b),
        span(104, 151, span_id=b, parent_id=a),
        wait(160, 180),
        span(100, 200, span_id=a, parent_id=b),
        watermark_ms=500,
    )
    evidence = found(log, 104, 151, span_id=b)
    assert evidence is not None
    assert evidence.blocked_ns == 30 * MS


def test_a_span_that_changed_hands_is_told_nothing_and_says_so(log: Log) -> None:
    """When it did is not known: neither the one's waits nor the other's need be its own."""
    log.write(wait(110, 140), span(100, 200, started_goid=OTHER), watermark_ms=500)
    assert found(log, 100, 200) is None
    assert incomplete(log, 100, 200)
    quiet = Log()
    quiet.write(process(), span(100, 200, started_goid=OTHER), watermark_ms=500)
    assert not incomplete(quiet, 100, 200)


def test_a_span_ended_by_a_goroutine_made_for_it_has_that_ones_waits(log: Log) -> None:
    by_child = int(EventFlag.SPAN_ENDED_BY_CHILD)
    log.write(wait(110, 140, root=(OTHER, 105)), span(100, 200, started_goid=OTHER, flags=by_child), watermark_ms=500)
    evidence = found(log, 100, 200)
    assert evidence is not None
    assert (evidence.blocked_ns, evidence.complete) == (30 * MS, True)


def test_its_maker_may_have_gone_on_to_other_things(log: Log) -> None:
    by_child = int(EventFlag.SPAN_ENDED_BY_CHILD)
    log.write(
        wait(110, 140, root=(OTHER, 105)),
        wait(110, 190, goid=OTHER),
        span(100, 200, started_goid=OTHER, flags=by_child),
        watermark_ms=500,
    )
    evidence = found(log, 100, 200)
    assert evidence is not None
    assert (evidence.blocked_ns, evidence.complete) == (30 * MS, False)


def test_what_the_maker_makes_for_other_things_is_not_the_spans(log: Log) -> None:
    """The goroutine that ends the span and those it made share the moment at which their line left the maker."""
    by_child = int(EventFlag.SPAN_ENDED_BY_CHILD)
    log.write(
        wait(110, 120, root=(OTHER, 105)),
        wait(125, 135, goid=GRANDCHILD, root=(OTHER, 105)),
        wait(140, 190, goid=CHILD, root=(OTHER, 108)),
        span(100, 200, started_goid=OTHER, flags=by_child),
        watermark_ms=500,
    )
    evidence = found(log, 100, 200)
    assert evidence is not None
    assert (evidence.blocked_ns, evidence.complete) == (20 * MS, False)


def test_nor_is_it_if_the_span_was_handed_to_somebody_else(log: Log) -> None:
    log.write(wait(140, 190, goid=CHILD, root=(OTHER, 108)), span(100, 200, started_goid=OTHER), watermark_ms=500)
    assert found(log, 100, 200) is None
    assert incomplete(log, 100, 200)


def test_where_the_start_was_seen_a_wait_across_it_is_cut_there(log: Log) -> None:
    """It cannot be, but for a hair's breadth: the goroutine was at work when it started the span."""
    log.write(wait(80, 100.5), wait(120, 150), span(100, 200), watermark_ms=500)
    evidence = found(log, 100, 200)
    assert evidence is not None
    assert evidence.blocked_ns == 30 * MS


def test_times_given_to_the_span_make_it_nobodys(log: Log) -> None:
    log.write(wait(120, 150), span(1000, 1200), watermark_ms=1500)
    assert log.match(500, 1200).unmatched == [0]
    assert log.match(1000, 1700).unmatched == [0]
    assert log.match(1000, 1200).unmatched == []


def test_the_explanation_names_every_wait_considered(log: Log) -> None:
    log.write(
        wait(110, 140),
        wait(110, 140, goid=CHILD, root=(GOID, 105)),
        wait(150, 230, goid=GRANDCHILD, root=(GOID, 105)),
        span(100, 200),
        watermark_ms=500,
    )
    told = log.index.explain(log.request(100, 200, CLIENT), 0, TAIL_NS, MS)
    assert (told.matched, told.goid, told.started_goid, told.start_ns) == (True, GOID, GOID, 100 * MS)
    assert [(w.goid, claimed) for w, claimed, _ in told.considered] == [
        (GOID, True),
        (CHILD, True),
        (GRANDCHILD, False),
    ]
    assert told.complete
    unknown = log.index.explain(log.request(100, 200, CLIENT, span_id=INNER), 0, TAIL_NS, MS)
    assert not unknown.matched
    assert "no probe saw it end" in unknown.why
