"""A recorder never holds up whoever adds to it, and whatever ends it is told in the file or in the log."""

import os
import stat
import threading
import time
from pathlib import Path

import pytest

from enricher.cli.record import CannotRecord, created
from enricher.recording import recorder as recorder_module
from enricher.recording.entries import Arrival, ClockSample, End, EndReason, Entry
from enricher.recording.file import Recording
from enricher.recording.limit import Limit
from enricher.recording.recorder import Recorder
from tests.e2e.testbed.processes import wait_until
from tests.unit.test_recording_file import HEAD, read_up_to_damage

MIB = 1 << 20


def made(path: Path, *, max_bytes: int = MIB, for_ns: int | None = None) -> Recorder:
    return Recorder(Limit(created(path), max_bytes, for_ns), HEAD)


def read(path: Path) -> list[Entry]:
    with Recording(path) as recording:
        return list(recording.entries())


def test_what_is_added_is_in_the_file_in_its_order_and_so_is_why_it_ends(tmp_path: Path) -> None:
    path = tmp_path / "a.rec"
    recorder = made(path)
    recorder.start()
    added = [ClockSample(n, n) for n in range(1000)]
    for entry in added:
        recorder.add(entry)
    recorder.stop(5)
    assert read(path) == [*added, End(EndReason.STOPPED)]
    assert not recorder.active


def test_it_is_on_the_disk_before_it_is_stopped(tmp_path: Path) -> None:
    path = tmp_path / "a.rec"
    recorder = made(path)
    recorder.start()
    recorder.add(ClockSample(1, 1))

    wait_until(lambda: path.stat().st_size and read_up_to_damage(path)[0], "the entry is in the file")
    recorder.stop(5)


def test_no_recording_is_larger_than_its_limit_and_it_says_why_it_ends(tmp_path: Path) -> None:
    path = tmp_path / "a.rec"
    recorder = made(path, max_bytes=100_000)
    recorder.start()
    for number in range(20):
        recorder.add(Arrival(number, number, "", os.urandom(10_000)))
        wait_until(lambda: not recorder._pending, "it is taken")
    wait_until(lambda: not recorder.active, "the recording has ended")
    assert path.stat().st_size <= 100_000
    *arrivals, end = read(path)
    assert end == End(EndReason.SIZE)
    assert [entry.number for entry in arrivals if isinstance(entry, Arrival)] == list(range(len(arrivals)))
    recorder.add(ClockSample(1, 1))  # is nobody's trouble
    recorder.stop(5)


def test_it_ends_when_its_time_is_over(tmp_path: Path) -> None:
    path = tmp_path / "a.rec"
    recorder = made(path, for_ns=50_000_000)
    recorder.start()
    wait_until(lambda: not recorder.active, "the recording has ended")
    assert read(path)[-1] == End(EndReason.TIME)


def test_a_file_that_cannot_be_written_ends_it_and_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    recorder = Recorder(Limit(os.open("/dev/full", os.O_WRONLY), MIB), HEAD)
    recorder.start()
    for number in range(100):
        recorder.add(ClockSample(number, number))
    wait_until(lambda: not recorder.active, "the recording has ended")
    recorder.stop(5)
    assert caplog.text.count("it cannot be written") == 1
    assert {s.name: s.values for s in recorder.series()}["recording_failed"] == {"": 1}


def test_a_disk_that_hangs_holds_up_nobody_and_costs_the_recording(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recorder_module, "MOST_PENDING_BYTES", 1 << 20)
    path = tmp_path / "a.rec"
    recorder = made(path, max_bytes=100 * MIB)
    goes_on = threading.Event()
    write = recorder._write

    def hanging(content: bytes) -> None:
        goes_on.wait(20)
        write(content)

    monkeypatch.setattr(recorder, "_write", hanging)
    recorder.start()
    body = bytes(10_000)
    before_s = time.monotonic()
    for number in range(1000):
        recorder.add(Arrival(number, number, "", body))
    assert time.monotonic() - before_s < 5
    assert recorder._pending_bytes <= 1 << 20
    recorder.stop(0.01)  # nor is the end held up
    goes_on.set()
    wait_until(lambda: not recorder.active, "the recording has ended")
    assert read(path)[-1] == End(EndReason.SLOW)


def test_the_file_is_new_its_owners_alone_and_no_link_is_followed(tmp_path: Path) -> None:
    path = tmp_path / "a.rec"
    os.close(created(path))
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with pytest.raises(CannotRecord, match="exists already"):
        created(path)
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(CannotRecord, match="exists already"):
        created(tmp_path / "link")
    with pytest.raises(CannotRecord, match="No such file"):
        created(tmp_path / "nowhere" / "a.rec")
