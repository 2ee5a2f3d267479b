"""The process method claims a wait only where it can be one span's alone."""

from collections.abc import Iterator
from dataclasses import replace

import pytest

from enricher.evidence.records import Event, EventFlag, Peer, WaitKind
from enricher.join.methods.method import Match
from enricher.join.methods.origin import Origins
from enricher.join.methods.process import Process
from tests.unit.evidence_log import FULL, MS, TGID, Log, process, sender, wait
from tests.unit.span_requests import WINDOW, Sent, request

A, B = (name * 8 for name in (b"a", b"b"))


@pytest.fixture
def log() -> Iterator[Log]:
    with Log() as made:
        made.write(process(flags=EventFlag(0)), sender("127.0.0.1", 5555))
        yield made


def asleep(start_ms: float, end_ms: float) -> Event:
    return wait(start_ms, end_ms, goid=0, wait_kind=WaitKind.KERNEL)


def matched(log: Log, *spans: Sent, peer: str = "ipv4:127.0.0.1:5555") -> Match:
    method = Process(log.index, Origins(log.index, ""))
    sent = request(*spans, peer=peer)
    method.saw(sent)
    return method.match(sent, range(len(spans)), WINDOW)


def blocked_ms(match: Match) -> dict[int, float]:
    return {evidence.ordinal: evidence.blocked_ns / MS for evidence in match.evidence}


def test_a_wait_inside_the_only_span_of_the_process_is_its_own(log: Log) -> None:
    log.write(asleep(110, 140), watermark_ms=500)
    match = matched(log, Sent(A, 100, 150))
    assert (match.matched, blocked_ms(match)) == (1, {0: 30})


def test_the_wait_is_clipped_to_the_span(log: Log) -> None:
    log.write(asleep(110, 400), watermark_ms=500)
    assert blocked_ms(matched(log, Sent(A, 100, 150))) == {0: 40}


def test_ancestors_include_what_happened_in_their_descendant(log: Log) -> None:
    log.write(asleep(110, 140), watermark_ms=500)
    assert blocked_ms(matched(log, Sent(B, 105, 145, A), Sent(A, 100, 150))) == {0: 30, 1: 30}


def test_two_spans_at_once_leave_the_wait_to_neither(log: Log) -> None:
    log.write(asleep(110, 140), watermark_ms=500)
    match = matched(log, Sent(A, 100, 150), Sent(B, 100, 150))
    assert (match.matched, blocked_ms(match)) == (2, {})


def test_a_span_of_an_earlier_request_counts_as_a_neighbour(log: Log) -> None:
    log.write(asleep(110, 140), watermark_ms=500)
    method = Process(log.index, Origins(log.index, ""))
    first, second = (request(Sent(name, 100, 150)) for name in (A, B))
    method.saw(first)
    method.saw(second)
    assert method.match(first, [0], WINDOW).evidence == []


def test_a_process_whose_span_ends_are_seen_is_left_to_the_better_method(log: Log) -> None:
    log.write(process(tgid=43, flags=FULL), sender("127.0.0.1", 5556, tgid=43), watermark_ms=500)
    log.write(replace(asleep(110, 140), tgid=43))
    match = matched(log, Sent(A, 100, 150), peer="ipv4:127.0.0.1:5556")
    assert (match.matched, list(match.unmatched)) == (0, [0])


def test_a_sender_that_is_not_known_is_matched_by_nothing(log: Log) -> None:
    log.write(asleep(110, 140), watermark_ms=500)
    assert matched(log, Sent(A, 100, 150), peer="ipv4:10.0.0.9:1").matched == 0


def test_a_span_from_before_the_process_was_watched_is_not_its(log: Log) -> None:
    log.write(process(120, flags=EventFlag(0)), asleep(110, 140), watermark_ms=500)
    assert matched(log, Sent(A, 100, 150)).matched == 0


def test_what_is_shorter_than_the_threshold_is_not_claimed(log: Log) -> None:
    log.write(asleep(110, 110.5), watermark_ms=500)
    assert blocked_ms(matched(log, Sent(A, 100, 150))) == {}


def test_a_wait_that_labels_give_to_another_span_is_that_ones(log: Log) -> None:
    log.write(replace(asleep(110, 140), goid=7, detail=Peer(label=B).pack()), watermark_ms=500)
    assert blocked_ms(matched(log, Sent(A, 100, 150))) == {}


def test_a_claim_is_never_complete_as_other_spans_may_come_yet(log: Log) -> None:
    log.write(asleep(110, 140), watermark_ms=500)
    assert matched(log, Sent(A, 100, 150)).evidence[0].complete is False


def test_spans_that_name_each_other_as_parents_end_in_no_loop(log: Log) -> None:
    log.write(asleep(110, 140), watermark_ms=500)
    assert blocked_ms(matched(log, Sent(A, 100, 150, B), Sent(B, 100, 150, A))) == {}


def test_the_explanation_names_the_process_and_says_why_a_wait_was_left_off(log: Log) -> None:
    log.write(asleep(110, 140), watermark_ms=500)
    method = Process(log.index, Origins(log.index, ""))
    sent = request(Sent(A, 100, 150), Sent(B, 100, 150))
    method.saw(sent)
    trial = method.explain(sent, 0, WINDOW)
    assert (trial.matched, trial.identity["tgid"]) == (True, TGID)
    assert [wait.claimed for wait in trial.considered] == [False]
    assert "other spans" in trial.considered[0].why
    assert trial.incomplete_because
