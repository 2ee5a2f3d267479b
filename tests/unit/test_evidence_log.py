"""The evidence log between processes: a writer that dies, one that comes after it, and readers that only read."""

import mmap
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from enricher._native import EvidenceIndex, LogWriter, MalformedLog
from enricher.evidence.records import RECORD_SIZE, Event, EventKind

ROOT = Path(__file__).parents[2]
CAPACITY = 1024
# Writes a record and heartbeat n, for n = 1, 2, 3, … for ever, and says when it has begun.
ENDLESS_WRITER = """
import sys
from enricher._native import LogWriter
from enricher.evidence.records import RECORD_SIZE
writer = LogWriter(int(sys.argv[1]))
print(writer.epoch, flush=True)
n = writer.last_heartbeat_ns
while True:
    n += 1
    writer.append(bytes(RECORD_SIZE))
    writer.heartbeat(n, n)
"""


@dataclass
class Shared:
    """The memory, and a descriptor of it that can only be read."""

    fd: int
    read_only_fd: int

    def index(self) -> EvidenceIndex:
        return EvidenceIndex(self.read_only_fd, 10**18, 64, 64)


@pytest.fixture
def shared() -> Iterator[Shared]:
    fd = os.memfd_create("evidence")
    read_only_fd = os.open(f"/proc/self/fd/{fd}", os.O_RDONLY)
    yield Shared(fd, read_only_fd)
    os.close(fd)
    os.close(read_only_fd)


def run_writer_until_killed(shared: Shared, index: EvidenceIndex, epoch: int) -> int:
    """Reads along while another process writes, kills it in the middle, and returns the last heartbeat."""
    command = [sys.executable, "-c", ENDLESS_WRITER, str(shared.fd)]
    before_ns = index.watermark_ns
    with subprocess.Popen(command, stdout=subprocess.PIPE, pass_fds=[shared.fd], cwd=ROOT) as writer:
        assert writer.stdout is not None
        assert int(writer.stdout.readline()) == epoch
        while index.watermark_ns < before_ns + 20 * CAPACITY:
            assert writer.poll() is None
            index.poll()
        writer.send_signal(signal.SIGKILL)
    index.poll()
    return index.watermark_ns


def test_writers_may_die_and_the_next_one_goes_on(shared: Shared) -> None:
    LogWriter(shared.fd, CAPACITY)
    index = shared.index()
    seen_ns = 0
    for epoch in (2, 3, 4):
        last_ns = run_writer_until_killed(shared, index, epoch)
        assert last_ns >= seen_ns + 20 * CAPACITY
        seen_ns = last_ns
    writer = LogWriter(shared.fd)
    # Two records a heartbeat; at most two were written by each writer without their note in the header.
    assert 0 <= writer.position - 2 * writer.last_heartbeat_ns <= 2 * 3
    statistics = index.statistics()
    assert statistics["records_total"] + statistics["records_overtaken_total"] == writer.position


def test_a_reader_needs_no_right_to_write(shared: Shared) -> None:
    writer = LogWriter(shared.fd, CAPACITY)
    index = shared.index()
    writer.heartbeat(5, 5)
    assert index.poll() == 1
    with pytest.raises(PermissionError):
        LogWriter(shared.read_only_fd)


def test_readers_do_not_disturb_each_other(shared: Shared) -> None:
    writer = LogWriter(shared.fd, CAPACITY)
    early, late = shared.index(), shared.index()
    writer.heartbeat(5, 5)
    assert (early.poll(), early.poll(), late.poll()) == (1, 0, 1)


def test_only_whole_records_are_appended(shared: Shared) -> None:
    writer = LogWriter(shared.fd, CAPACITY)
    with pytest.raises(ValueError, match=f"{RECORD_SIZE} bytes"):
        writer.append(bytes(RECORD_SIZE + 1))
    writer.append(b"")
    assert writer.position == 0
    writer.append(Event(kind=EventKind.LOSS).pack() * 3)
    assert writer.position == 3


def test_an_empty_file_is_made_a_log_only_with_a_capacity(shared: Shared) -> None:
    with pytest.raises(MalformedLog):
        LogWriter(shared.fd)
    with pytest.raises(MalformedLog):
        shared.index()
    assert LogWriter(shared.fd, CAPACITY).capacity == CAPACITY
    assert LogWriter(shared.fd).capacity == CAPACITY
    with pytest.raises(MalformedLog, match="another capacity"):
        LogWriter(shared.fd, 2 * CAPACITY)


@pytest.mark.parametrize("capacity", [0, 2**30 + 1, 2**63])
def test_a_capacity_out_of_all_bounds_is_refused(shared: Shared, capacity: int) -> None:
    with pytest.raises(MalformedLog, match=r"2\*\*30"):
        LogWriter(shared.fd, capacity)


def test_a_file_can_be_a_log_too(tmp_path: Path) -> None:
    with Path(tmp_path, "log").open("w+b") as file:
        LogWriter(file.fileno(), 8).heartbeat(7, 7)
        index = EvidenceIndex(file.fileno(), 10**9, 64, 64)
    index.poll()
    assert index.watermark_ns == 7


@pytest.mark.parametrize("at", range(0, 160, 8))
@pytest.mark.parametrize("value", [0, 1, 2**31, 2**63, 2**64 - 1])
def test_whatever_stands_in_the_header_nobody_crashes(shared: Shared, at: int, value: int) -> None:
    writer = LogWriter(shared.fd, CAPACITY)
    index = shared.index()
    writer.append(Event(kind=EventKind.LOSS).pack() * 10)
    with mmap.mmap(shared.fd, 4096) as header:
        header[at : at + 8] = value.to_bytes(8, "little")
    for use in (index.poll, index.poll, lambda: shared.index().poll(), lambda: LogWriter(shared.fd)):
        try:
            use()
        except MalformedLog as error:
            assert str(error)  # noqa: PT017 - either is right; that nothing else happens is the test


def test_what_is_no_descriptor_is_an_os_error() -> None:
    with pytest.raises(OSError, match="Bad file descriptor"):
        LogWriter(-1, 8)
    with pytest.raises(OSError, match="Bad file descriptor"):
        EvidenceIndex(10_000, 1, 1, 1)
