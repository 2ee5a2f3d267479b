"""What an index has read can be taken down and given to another, which then knows the same."""

import pytest

from enricher._native import EvidenceIndex, Request
from enricher.evidence.records import RECORD_SIZE, Event, EventKind
from tests.unit.evidence_log import CLOCK_NS, MS, TAIL_NS, Log, S, process, span, wait


def replayed(log: Log) -> EvidenceIndex:
    index = EvidenceIndex.for_replay(log.retention_ns, log.max_waits, log.max_span_ends)
    index.sample_clock(0, CLOCK_NS)
    index.feed(log.index.take_tapped(), 1)
    return index


def told(index: EvidenceIndex, request: Request) -> list[tuple[int, int, int, bool]]:
    found = index.match(request, TAIL_NS, MS).evidence
    return [(one.ordinal, one.blocked_ns, one.blocked_count, one.complete) for one in found]


def test_another_index_finds_the_same() -> None:
    log = Log()
    log.index.tap(True)
    log.write(process(), wait(110, 140), span(100, 200), watermark_ms=300)
    log.write(watermark_ms=500)
    index = replayed(log)
    assert told(index, log.request(100, 200)) == told(log.index, log.request(100, 200)) == [(0, 30 * MS, 1, True)]
    assert (index.watermark_ns, index.going_on_ns) == (500 * MS, 500 * MS)
    assert index.poll() == 0


def test_heartbeats_that_are_words_of_the_header_are_taken_down_once() -> None:
    log = Log()
    log.index.tap(True)
    log.write(watermark_ms=100)
    log.write(watermark_ms=200)
    log.write()
    beats = [event.start_ns for event in Event.iter_unpack(log.index.take_tapped())]
    assert beats[-1] == 200 * MS
    assert beats.count(200 * MS) == 1
    assert log.index.take_tapped() == b""


def test_that_the_log_was_overtaken_is_taken_down() -> None:
    log = Log(capacity=8)
    log.index.tap(True)
    log.write(process(), watermark_ms=50)
    log.writer.append(b"".join(wait(60 + n, 61 + n, goid=n + 1).pack() for n in range(20)))
    log.write(span(100, 200), watermark_ms=300)
    index = replayed(log)
    assert log.index.lost(60 * MS, 61 * MS, 0)
    assert index.lost(60 * MS, 61 * MS, 0)


def test_nothing_is_kept_unless_asked() -> None:
    log = Log()
    log.write(process(), watermark_ms=300)
    assert log.index.take_tapped() == b""


def test_half_a_record_is_refused() -> None:
    index = EvidenceIndex.for_replay(S, 10, 10)
    with pytest.raises(ValueError, match=str(RECORD_SIZE)):
        index.feed(Event(kind=EventKind.LOSS, fd=-1).pack()[: RECORD_SIZE - 1], 1)


def test_a_step_of_the_clock_leaves_spans_of_before_where_they_were() -> None:
    log = Log()
    log.write(process(), wait(110, 140), span(100, 200), watermark_ms=300)
    log.index.sample_clock(250 * MS, CLOCK_NS + 250 * MS + 3600 * S)
    assert told(log.index, log.request(100, 200)) == [(0, 30 * MS, 1, True)]
    assert log.index.kernel_time_ns(CLOCK_NS + 200 * MS) == 200 * MS
    assert log.index.kernel_time_ns(CLOCK_NS + 300 * MS + 3600 * S) == 300 * MS
    log.index.sample_clock(400 * MS, CLOCK_NS + 400 * MS - 60 * S)
    assert told(log.index, log.request(100, 200)) == [(0, 30 * MS, 1, True)]
