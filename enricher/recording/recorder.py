"""Writes a recording beside the work, on a thread of its own: spans never wait for the disk.

Whatever goes wrong ends the recording, is told once, and changes nothing for the spans. A recording with a gap
would decide otherwise than it was decided, so where the file cannot keep up it ends, too.
"""

import os
import time
from collections.abc import Callable, Iterator
from threading import Event, Lock, Thread
from typing import Final

from enricher.recording.entries import Arrival, Decision, End, EndReason, Entry, Evidence
from enricher.recording.file import Head, block, preamble
from enricher.recording.limit import Limit
from enricher.telemetry.logs import get_logger
from enricher.telemetry.metrics import Series

_FLUSH_EVERY_S: Final = 0.2
_BLOCK_BYTES: Final = 1 << 20
# The bodies among it are held by the queue of the exporter, too, for most of this time.
MOST_PENDING_BYTES: Final = 64 << 20
_END_BYTES: Final = 64  # room for the last block
_ENTRY_BYTES: Final = 32  # what an entry has beside what is counted of it


class Recorder:
    """One recording. `add` is the policy thread's alone."""

    def __init__(self, limit: Limit, head: Head, clock_ns: Callable[[], int] = time.monotonic_ns) -> None:
        self._fd = limit.fd
        self._head = head
        self._max_bytes = limit.max_bytes
        self._for_ns = limit.for_ns
        self._clock_ns = clock_ns
        self._lock = Lock()
        self._pending: list[Entry] = []
        self._pending_bytes = 0
        self._ending: EndReason | None = None
        self._wake = Event()
        self._written = 0
        self._failed = 0
        self._requests = 0
        self._until_ns: int | None = None
        self._log = get_logger()
        self._thread = Thread(target=self._run, name="recorder", daemon=True)
        self.active = False  # False: what is added is lost, and nobody minds

    def start(self) -> None:
        self._until_ns = None if self._for_ns is None else self._clock_ns() + self._for_ns
        self.active = True
        self._thread.start()

    def add(self, entry: Entry) -> None:
        """Never waits for the file."""
        size = _size(entry)
        with self._lock:
            if self._ending:
                return
            if self._pending_bytes + size > MOST_PENDING_BYTES:
                self._ending = EndReason.SLOW
            else:
                self._pending.append(entry)
                self._pending_bytes += size
            full = self._pending_bytes >= _BLOCK_BYTES or self._ending is not None
        if full and not self._wake.is_set():
            self._wake.set()

    def stop(self, patience_s: float) -> None:
        """Writes what was added, for at most so long."""
        self._end(EndReason.STOPPED)
        if self._thread.is_alive():
            self._thread.join(patience_s)

    def series(self) -> Iterator[Series]:
        """For the metrics."""
        yield Series.gauge("recording_active", "1 while a recording is being written", float(self.active))
        yield Series("recording_bytes", "counter", "written to the recording", "", {"": self._written})
        yield Series("recording_failed", "counter", "recordings that could not be written on", "", {"": self._failed})

    def _end(self, reason: EndReason) -> None:
        with self._lock:
            self._ending = self._ending or reason
        self._wake.set()

    def _run(self) -> None:
        try:
            self._write(preamble(self._head))
            while self._turn():
                self._wake.wait(_FLUSH_EVERY_S)
                self._wake.clear()
        except Exception as error:  # noqa: BLE001 - told, and no reason to trouble the spans
            self._failed += 1
            self._end(EndReason.STOPPED)
            self._log.error("the recording has ended: it cannot be written", error=error)
        else:
            assert self._ending is not None
            self._log.info(
                "the recording has ended", reason=self._ending.value, bytes=self._written, requests=self._requests
            )
        finally:
            self.active = False
            with self._lock:
                self._pending, self._pending_bytes = [], 0
            os.close(self._fd)

    def _turn(self) -> bool:
        """Writes what has gathered. False: that was all."""
        if self._until_ns is not None and self._clock_ns() >= self._until_ns:
            self._end(EndReason.TIME)
        with self._lock:
            taken, self._pending, self._pending_bytes = self._pending, [], 0
            ending = self._ending
        for entries in _blocks(taken):
            content = block(entries)
            if self._written + len(content) + _END_BYTES > self._max_bytes:
                with self._lock:
                    self._ending = ending = EndReason.SIZE
                break
            self._write(content)
            self._requests += sum(isinstance(entry, Arrival) for entry in entries)
        if ending:
            self._write(block([End(ending)]))
        return ending is None

    def _write(self, content: bytes) -> None:
        left = memoryview(content)
        while left:
            written = os.write(self._fd, left)
            self._written += written
            left = left[written:]


def _blocks(entries: list[Entry]) -> Iterator[list[Entry]]:
    """One after the other, each of about a block's size or of a single entry."""
    taken: list[Entry] = []
    size = 0
    for entry in entries:
        if taken and size + _size(entry) > _BLOCK_BYTES:
            yield taken
            taken, size = [], 0
        taken.append(entry)
        size += _size(entry)
    if taken:
        yield taken


def _size(entry: Entry) -> int:
    if isinstance(entry, Evidence):
        return _ENTRY_BYTES + len(entry.records)
    if isinstance(entry, Arrival):
        return _ENTRY_BYTES + len(entry.peer) + len(entry.body)
    return _ENTRY_BYTES + (len(entry.body) if isinstance(entry, Decision) else 0)
