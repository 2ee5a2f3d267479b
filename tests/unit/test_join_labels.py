"""A wait belongs to the span that the labels of its goroutine name, and to that span's ancestors."""

from collections.abc import Iterator
from dataclasses import replace

import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from enricher.evidence.records import Event, EventFlag, Peer
from enricher.join.methods.goroutine_labels import CHILDREN_KEPT, GoroutineLabels
from enricher.join.methods.method import Match, Window
from enricher.join.methods.origin import Origins
from tests.unit.evidence_log import FULL, MS, TGID, Log, going_on, inet, loss, process, sender, wait
from tests.unit.span_requests import WINDOW, Sent, request

GO_ONLY = EventFlag.PROCESS_HAS_GOROUTINES
A, B, C = (name * 8 for name in (b"a", b"b", b"c"))


@pytest.fixture
def log() -> Iterator[Log]:
    with Log() as made:
        made.write(process(flags=GO_ONLY))
        yield made


def labelled(span_id: bytes, start_ms: float, end_ms: float, *, goid: int = 7, tgid: int = TGID, fd: int = 5) -> Event:
    return replace(wait(start_ms, end_ms, goid=goid, tgid=tgid, fd=fd), detail=Peer(label=span_id).pack())


def matched(log: Log, *spans: Sent, window: Window = WINDOW) -> Match:
    method = GoroutineLabels(log.index, Origins(log.index, ""))
    sent = request(*spans)
    method.saw(sent)
    return method.match(sent, range(len(spans)), window)


def blocked_ms(match: Match) -> dict[int, float]:
    return {evidence.ordinal: evidence.blocked_ns / MS for evidence in match.evidence}


def test_a_labelled_wait_is_the_named_spans_and_nobody_elses(log: Log) -> None:
    log.write(labelled(A, 110, 140), watermark_ms=500)
    match = matched(log, Sent(A, 100, 150), Sent(B, 100, 150))
    assert blocked_ms(match) == {0: 30}
    assert match.evidence[0].complete
    assert list(match.unmatched) == [1]


def test_waits_of_a_child_span_are_the_ancestors_too_but_not_directly(log: Log) -> None:
    log.write(labelled(A, 105, 110), labelled(C, 120, 140), watermark_ms=500)
    match = matched(log, Sent(C, 115, 145, B), Sent(B, 112, 147, A), Sent(A, 100, 150))
    assert blocked_ms(match) == {0: 20, 1: 20, 2: 25}
    assert [evidence.direct_ns / MS for evidence in match.evidence] == [20, 0, 5]


def test_a_child_that_came_in_an_earlier_request_is_known(log: Log) -> None:
    log.write(labelled(B, 120, 140), watermark_ms=500)
    method = GoroutineLabels(log.index, Origins(log.index, ""))
    method.saw(request(Sent(B, 115, 145, A)))
    assert blocked_ms(method.match(request(Sent(A, 100, 150)), [0], WINDOW)) == {0: 20}


@pytest.mark.parametrize("kind", [Span.SPAN_KIND_SERVER, Span.SPAN_KIND_CONSUMER])
def test_what_a_called_process_waited_for_is_not_the_callers(log: Log, kind: "Span.SpanKind.ValueType") -> None:
    log.write(labelled(B, 120, 140), watermark_ms=500)
    assert blocked_ms(matched(log, Sent(A, 100, 150), Sent(B, 115, 145, A, kind))) == {1: 20}


def test_a_child_of_another_resource_is_elsewhere(log: Log) -> None:
    log.write(labelled(B, 120, 140), watermark_ms=500)
    match = matched(log, Sent(A, 100, 150), Sent(B, 115, 145, A, resource={"service.name": "other"}))
    assert blocked_ms(match) == {1: 20}


def test_labels_in_two_processes_name_nobody(log: Log) -> None:
    log.write(process(tgid=43, flags=GO_ONLY))
    log.write(labelled(A, 110, 140), labelled(A, 110, 140, tgid=43), watermark_ms=500)
    match = matched(log, Sent(A, 100, 150))
    assert (blocked_ms(match), list(match.unmatched)) == ({}, [0])


def test_labels_in_another_process_than_the_senders_are_not_believed(log: Log) -> None:
    log.write(process(tgid=43, flags=GO_ONLY), sender("127.0.0.1", 5555, tgid=43))
    log.write(labelled(A, 110, 140), watermark_ms=500)
    assert blocked_ms(matched(log, Sent(A, 100, 150))) == {}


def test_what_looks_out_for_the_end_of_a_connection_waits_for_nobody(log: Log) -> None:
    caller = inet("10.0.0.9", 40123)
    detail = replace(caller, label=A).pack()
    look_out = replace(wait(101, 149, goid=17, fd=5), parent_goid=7, detail=detail)
    upstream = replace(wait(110, 140, goid=17, fd=6), parent_goid=7, detail=replace(caller, port=443, label=A).pack())
    log.write(wait(50, 99, goid=7, fd=5, peer=caller), look_out, watermark_ms=500)
    assert blocked_ms(matched(log, Sent(A, 100, 150))) == {}
    log.write(upstream)
    assert blocked_ms(matched(log, Sent(A, 100, 150))) == {0: 30}


@pytest.mark.parametrize(
    ("start_ms", "end_ms"),
    [(80, 120), (130, 170), (130, 150.05), (160, 190), (120, 120.5)],
    ids=["began before", "ended after", "ended just after", "wholly after", "under the threshold"],
)
def test_a_wait_that_does_not_lie_inside_is_not_claimed(log: Log, start_ms: float, end_ms: float) -> None:
    log.write(labelled(A, start_ms, end_ms), watermark_ms=500)
    match = matched(log, Sent(A, 100, 150))
    assert (blocked_ms(match), match.matched) == ({}, 1)


def test_a_connection_made_in_the_span_that_lives_on_claims_nothing(log: Log) -> None:
    # net/http's readLoop has the labels of the span that dialled, for as long as the connection is kept.
    log.write(labelled(A, 110, 140, goid=9), labelled(A, 142, 400, goid=9), labelled(A, 105, 109), watermark_ms=500)
    assert blocked_ms(matched(log, Sent(A, 100, 150))) == {0: 4}


def test_nor_does_one_that_is_still_idle(log: Log) -> None:
    log.write(labelled(A, 110, 140, goid=9), going_on(142, 400, goid=9), watermark_ms=500)
    assert blocked_ms(matched(log, Sent(A, 100, 150))) == {}


def test_that_is_waited_for(log: Log) -> None:
    log.write(labelled(A, 110, 140), watermark_ms=500, going_on_ms=120)
    window = replace(WINDOW, settled_ns=120 * MS)
    assert matched(log, Sent(A, 100, 150), window=window).open_until_ns == 151 * MS
    assert matched(log, Sent(B, 100, 150), window=window).open_until_ns == 0


def test_the_next_wait_of_the_spans_own_goroutine_does_not_matter(log: Log) -> None:
    log.write(labelled(A, 110, 140), going_on(150.1, 400), watermark_ms=500)
    assert blocked_ms(matched(log, Sent(A, 100, 150))) == {0: 30}


def test_a_loss_in_its_time_makes_a_claim_incomplete(log: Log) -> None:
    log.write(labelled(A, 110, 140), loss(145, 160), watermark_ms=500)
    assert not matched(log, Sent(A, 100, 150)).evidence[0].complete


def test_a_loss_of_another_process_does_not(log: Log) -> None:
    log.write(labelled(A, 110, 140), loss(145, 160, tgid=43), watermark_ms=500)
    assert matched(log, Sent(A, 100, 150)).evidence[0].complete


def test_a_process_watched_later_than_the_span_began_claims_nothing(log: Log) -> None:
    log.write(process(105, flags=GO_ONLY), labelled(A, 110, 140), watermark_ms=500)
    assert blocked_ms(matched(log, Sent(A, 100, 150))) == {}


def test_a_process_whose_span_ends_are_seen_is_left_to_that_method(log: Log) -> None:
    log.write(process(tgid=43, flags=FULL), labelled(A, 110, 140, tgid=43), watermark_ms=500)
    assert blocked_ms(matched(log, Sent(A, 100, 150))) == {}


def test_spans_that_name_each_other_as_parents_end_in_no_loop(log: Log) -> None:
    log.write(labelled(A, 110, 140), watermark_ms=500)
    assert blocked_ms(matched(log, Sent(A, 100, 150, B), Sent(B, 100, 150, A))) == {0: 30, 1: 30}


def test_more_children_than_are_kept_make_it_incomplete(log: Log) -> None:
    children = [number.to_bytes(8, "big") for number in range(1, CHILDREN_KEPT + 2)]
    log.write(labelled(children[0], 110, 140), watermark_ms=500)
    match = matched(log, Sent(A, 100, 150), *(Sent(child, 105, 145, A) for child in children))
    assert [(evidence.ordinal, evidence.complete) for evidence in match.evidence] == [(0, False), (1, True)]


@pytest.mark.parametrize("span_id", [b"", b"short", b"much too long for one"])
def test_ids_of_another_length_are_nobodys(log: Log, span_id: bytes) -> None:
    log.write(labelled(A, 110, 140), watermark_ms=500)
    assert blocked_ms(matched(log, Sent(span_id, 100, 150, span_id), Sent(A, 100, 150, span_id))) == {1: 30}


def test_the_explanation_says_which_waits_were_left_off_and_why(log: Log) -> None:
    log.write(labelled(A, 110, 140), labelled(A, 141, 170), watermark_ms=500)
    method = GoroutineLabels(log.index, Origins(log.index, ""))
    trial = method.explain(request(Sent(A, 100, 175), Sent(B, 0, 1)), 0, WINDOW)
    assert trial.matched
    assert trial.identity["tgid"] == TGID
    assert [(wait.claimed, wait.why) for wait in trial.considered] == [(True, "it lies inside the span")] * 2
    missed = method.explain(request(Sent(A, 0, 1), Sent(B, 100, 175)), 1, WINDOW)
    assert (missed.matched, missed.considered) == (False, ())
    assert "labels" in missed.why
