"""The generator of the benchmarks: what it writes as evidence must be of the spans it sends, or nothing is measured."""

import subprocess
from pathlib import Path

import pytest

from enricher.evidence.records import EVENTS_VERSION, Event, EventKind
from tests.e2e.testbed.workload import Compression, Sink

SPANS = 8  # in a request: fewer than one of them waits
EVERY = 20


@pytest.mark.parametrize("compression", ["none", "gzip", "zstd"])
def test_each_span_has_its_end_and_one_in_twenty_a_wait(
    programs: Path, tmp_path: Path, compression: Compression
) -> None:
    records = tmp_path / "records"
    records.touch()
    with Sink(tmp_path, "sink") as sink:
        command = [
            str(programs / "spangen"),
            *("-to", f"127.0.0.1:{sink.port}", "-compression", compression),
            *("-spans", str(SPANS), "-duration", "100ms", "-rate", "2000", "-concurrency", "1"),
            *("-evidence", str(records), "-every", str(EVERY), "-events-version", str(EVENTS_VERSION)),
        ]
        subprocess.run(command, check=True, capture_output=True, timeout=60)
        spans = {kept.id: kept.span for kept in sink.spans()}
    events = list(Event.iter_unpack(records.read_bytes()))
    ends = {
        event.span.trace_id.hex() + event.span.span_id.hex(): event
        for event in events
        if event.kind is EventKind.SPAN_END
    }
    waits = [event for event in events if event.kind is EventKind.WAIT]
    assert spans.keys() == ends.keys()
    assert len(waits) == len(ends) // EVERY > 0
    assert len(events) == len(ends) + len(waits)
    for span_id, event in ends.items():
        span = spans[span_id]
        assert event.end_ns - event.start_ns == span.end_time_unix_nano - span.start_time_unix_nano
        assert event.span.parent_span_id == span.parent_span_id
        assert event.goid == event.root_goid != 0
    for wait in waits:
        around = [end for end in ends.values() if end.goid == wait.goid and end.start_ns < wait.start_ns < end.end_ns]
        assert [wait.end_ns < end.end_ns for end in around] == [True]
        assert wait.peer.port == 443


def test_records_of_another_version_are_not_written(programs: Path, tmp_path: Path) -> None:
    records = tmp_path / "records"
    records.touch()
    command = [str(programs / "spangen"), "-evidence", str(records), "-events-version", str(EVENTS_VERSION + 1)]
    result = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)
    assert result.returncode != 0
    assert "version" in result.stderr
    assert not records.read_bytes()
