"""A span that names its thread gets what that thread was blocked in, where the number can be nothing else."""

from collections.abc import Iterator, Mapping
from dataclasses import replace

import pytest

from enricher.evidence.records import Event, EventFlag, ProcessIdentity, WaitKind
from enricher.join.methods.method import Match
from enricher.join.methods.origin import Origins
from enricher.join.methods.thread import Thread
from tests.unit.evidence_log import MS, TGID, Log, process, sender, wait
from tests.unit.span_requests import WINDOW, Sent, Value, request

TID = TGID + 3
A, B = (name * 8 for name in (b"a", b"b"))
PYTHON: Mapping[str, Value] = {"telemetry.sdk.language": "python"}


@pytest.fixture
def log() -> Iterator[Log]:
    with Log() as made:
        made.write(process(flags=EventFlag(0)), sender("127.0.0.1", 5555))
        yield made


def asleep(start_ms: float, end_ms: float, tid: int = TID) -> Event:
    return wait(start_ms, end_ms, goid=0, tid=tid, wait_kind=WaitKind.KERNEL)


def on_thread(tid: int = TID, span_id: bytes = A, *, parent_id: bytes = b"", start_ms: float = 100) -> Sent:
    return Sent(span_id, start_ms, 150, parent_id, attributes={"thread.id": tid}, resource=PYTHON)


def matched(log: Log, *spans: Sent) -> Match:
    method = Thread(log.index, Origins(log.index, ""))
    sent = request(*spans)
    method.saw(sent)
    return method.match(sent, range(len(spans)), WINDOW)


def why(log: Log, span: Sent) -> str:
    method = Thread(log.index, Origins(log.index, ""))
    sent = request(span)
    method.saw(sent)
    return method.explain(sent, 0, WINDOW).why


def blocked_ms(match: Match) -> dict[int, float]:
    return {evidence.ordinal: evidence.blocked_ns / MS for evidence in match.evidence}


def test_the_threads_wait_is_the_spans_and_no_other_threads(log: Log) -> None:
    log.write(asleep(110, 140), asleep(105, 149, tid=TID + 1), watermark_ms=500)
    match = matched(log, on_thread())
    assert blocked_ms(match) == {0: 30}
    assert match.evidence[0].complete


def test_spans_on_two_threads_have_each_their_own(log: Log) -> None:
    log.write(asleep(110, 140), asleep(105, 149, tid=TID + 1), watermark_ms=500)
    assert blocked_ms(matched(log, on_thread(), on_thread(TID + 1, B))) == {0: 30, 1: 44}


def test_a_span_inside_another_on_the_same_thread_shares_its_waits(log: Log) -> None:
    log.write(asleep(110, 140), watermark_ms=500)
    assert blocked_ms(matched(log, on_thread(), on_thread(span_id=B, parent_id=A, start_ms=120))) == {0: 30}


def test_two_at_once_on_a_thread_are_of_an_event_loop_and_get_nothing(log: Log) -> None:
    log.write(asleep(125, 140), watermark_ms=500)
    match = matched(log, on_thread(), on_thread(span_id=B, start_ms=120))
    assert list(match.unmatched) == [0, 1]


@pytest.mark.parametrize("language", ["java", "dotnet", "ruby", "rust", "go", "nodejs", ""])
def test_languages_with_numbers_of_their_own_for_threads_are_left_alone(log: Log, language: str) -> None:
    log.write(asleep(110, 140), watermark_ms=500)
    span = replace(on_thread(), resource={"telemetry.sdk.language": language})
    assert list(matched(log, span).unmatched) == [0]
    assert "numbers of their own" in why(log, span)


def test_go_programs_are_left_alone(log: Log) -> None:
    log.write(process(flags=EventFlag.PROCESS_HAS_GOROUTINES), asleep(110, 140), watermark_ms=500)
    assert list(matched(log, on_thread()).unmatched) == [0]


def test_a_number_that_no_thread_of_the_process_has_is_none(log: Log) -> None:
    log.write(asleep(110, 140), watermark_ms=500)
    assert list(matched(log, on_thread(TID + 1)).unmatched) == [0]


def test_a_first_thread_that_waited_for_nothing_is_known_all_the_same(log: Log) -> None:
    log.write(asleep(110, 140), watermark_ms=500)
    match = matched(log, on_thread(TGID))
    assert (match.matched, blocked_ms(match)) == (1, {})


def test_in_a_pid_namespace_only_the_first_thread_is_known(log: Log) -> None:
    inside = replace(process(flags=EventFlag(0)), detail=ProcessIdentity(inner_pid=1).pack())
    log.write(inside, asleep(110, 140, tid=TGID), asleep(110, 140, tid=3), watermark_ms=500)
    assert blocked_ms(matched(log, on_thread(1))) == {0: 30}
    assert list(matched(log, on_thread(3)).unmatched) == [0]


@pytest.mark.parametrize("named", [{}, {"thread.id": "45"}, {"thread.id": -1}])
def test_without_a_number_there_is_no_match(log: Log, named: Mapping[str, Value]) -> None:
    log.write(asleep(110, 140), watermark_ms=500)
    assert list(matched(log, replace(on_thread(), attributes=named)).unmatched) == [0]


def test_without_a_known_process_there_is_no_match() -> None:
    with Log() as log:
        log.write(process(flags=EventFlag(0)), asleep(110, 140), watermark_ms=500)
        assert list(matched(log, on_thread()).unmatched) == [0]
