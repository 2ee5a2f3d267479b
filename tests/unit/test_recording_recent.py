"""What has left is remembered for a minute and within its bound, the newest longest."""

from enricher._native import Request as ScannedRequest
from enricher.join.methods.method import Request
from enricher.recording.entries import Decision, Verdict
from enricher.recording.recent import Decided, Recent
from tests.unit.test_recording_replay import body

S = 1_000_000_000
KIB = 1 << 10


def decided(number: int, at_s: int, left_as: bytes = b"") -> Decided:
    request = Request(ScannedRequest.scan(body(0, 1)), str)
    verdict = Verdict.CHANGED if left_as else Verdict.UNTOUCHED
    return Decided(request, Decision(number, at_s * S, None, verdict, body=left_as))


def numbers(recent: Recent) -> list[int]:
    return [one.decision.number for one in recent.all()]


def test_what_is_older_than_its_time_is_forgotten() -> None:
    recent = Recent(most_ns=60 * S)
    for number in range(10):
        recent.add(decided(number, at_s=number * 10))
    assert numbers(recent) == [3, 4, 5, 6, 7, 8, 9]
    recent.forget(131 * S)
    assert numbers(recent) == [8, 9]


def test_never_more_bytes_than_the_bound_however_small_the_requests() -> None:
    recent = Recent(most_bytes=64 * KIB)
    for number in range(1000):
        recent.add(decided(number, at_s=0))
    kept = recent.all()
    assert 0 < sum(one.size for one in kept) <= 64 * KIB
    assert kept[-1].decision.number == 999


def test_what_left_changed_counts_both_ways() -> None:
    recent = Recent(most_bytes=64 * KIB)
    recent.add(decided(1, at_s=0, left_as=bytes(40 * KIB)))
    recent.add(decided(2, at_s=0, left_as=bytes(40 * KIB)))
    assert numbers(recent) == [2]
    recent.add(decided(3, at_s=0, left_as=bytes(100 * KIB)))
    assert numbers(recent) == []
