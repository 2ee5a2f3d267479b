"""The durable queue: what was accepted stands in a file before its sender is answered, and until it is delivered.

Beside the queue in memory, not in place of it: what waits is sent from memory, and read back only after a restart or
when more waits than memory is to hold. Requests are stored as they came, and decided anew after a restart; a body that
has to leave memory after it was decided is stored again as decided.

The policy thread appends and the delivery threads note what they do, on one connection under one lock. Notes (the mark
of an attempt, a removal) go with whichever transaction comes next.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final, Protocol, TypeVar

from enricher._native import MalformedRequest
from enricher.otlp.durable_adoption import adopt
from enricher.otlp.durable_damage import Damage, begin_anew, open_or_begin_anew
from enricher.otlp.durable_errors import (
    RequestDamaged,
    StorageDamaged,
    StorageError,
    StorageFailed,
    StorageFull,
    cannot_open,
)
from enricher.otlp.durable_file import ROW_BYTES, Fsync, RequestFile
from enricher.otlp.durable_reserve import DiskReserve
from enricher.otlp.durable_rows import Kept
from enricher.telemetry.logs import get_logger
from enricher.telemetry.metrics import Counter, Series

log = get_logger()

# Bodies that are decided and wait, in memory. As long as nothing waits longer than a few sends, none leaves it.
MEMORY_BYTES: Final = 32 << 20
# Requests of earlier lives that are in memory to be decided anew.
_RECOVERING_BYTES: Final = 16 << 20
# One transaction. More would make the WAL longer than the reserve can make up for.
_TRANSACTION_BYTES: Final = 4 << 20
_TRANSACTION_ROWS: Final = 512
# Removals wait for a transaction that is needed anyway, unless there are so many.
_MAX_REMOVALS: Final = 512
_SHRINK_BYTES: Final = 64 << 20
_RETRY_NS: Final = 1_000_000_000
# What must be free in the file beside a request's own size, so that it need not grow.
_MARGIN_BYTES: Final = 1 << 20
_IDS_AT_ONCE: Final = 256

T = TypeVar("T")


class Entry(Protocol):
    """What the queue in memory has of a request, or of several joined."""

    id: int  # 0: in no file yet

    @property
    def spans(self) -> int: ...

    @property
    def size(self) -> int:
        """Of the body."""

    @property
    def body(self) -> bytes:
        """A copy. Not to be asked for while it is not in memory."""

    def replace_body(self, body: bytes | None, /) -> None:
        """None: it leaves memory."""


E = TypeVar("E", bound=Entry)


class _Bodies:
    """Bytes in memory, by number."""

    __slots__ = ("_sizes", "bytes")

    def __init__(self) -> None:
        self.bytes = 0
        self._sizes: dict[int, int] = {}

    def add(self, number: int, size: int) -> None:
        self._sizes[number] = size
        self.bytes += size

    def forget(self, number: int) -> None:
        self.bytes -= self._sizes.pop(number, 0)


class DurableQueue:
    """The file of one worker, `queue-<worker>.sqlite3`.

    Any thread may call, but `admitted`, `decided`, `recover` and `turn` are for the policy thread alone. What is wrong
    with the disk is logged and counted; nothing but the constructor raises it.
    """

    def __init__(
        self,
        directory: Path,
        *,
        fsync: Fsync,
        max_bytes: int,
        worker: int = 0,
        workers: int = 1,
        memory_bytes: int = MEMORY_BYTES,
        clock_ns: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        """Also takes over the files of workers that are no more, if there are fewer than before.

        Raises StorageLocked, StorageUnusable, StorageFailed, and StorageFull where there is no room for a new file.
        """
        self._path = directory / f"queue-{worker}.sqlite3"
        self._fsync: Fsync = fsync
        self.max_bytes = max_bytes
        self._memory_bytes = memory_bytes
        self._clock_ns = clock_ns
        self._lock = threading.Lock()
        self._enqueue_failed = Counter(
            "exporter_enqueue_failed_spans", "spans that could not be stored; their senders were told", "reason"
        )
        self._damaged = Counter("exporter_storage_damaged", "files and requests that were not as written", "what")
        self._recovered = Counter("exporter_storage_recovered_spans", "spans of earlier lives that were taken up again")
        self._unmarked = Counter(
            "exporter_storage_unmarked_spans", "spans sent although that could not be noted: uncounted if sent again"
        )
        self._trouble: StorageError | None = None
        self._retry_at_ns = 0
        try:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise cannot_open(self._path, error.strerror or str(error)) from error
        self._reserve = DiskReserve(directory / f"queue-{worker}.reserve")
        self._reserve.release()  # what the last process left in the WAL may need it now
        file, damage = open_or_begin_anew(self._path, fsync)
        self._file: RequestFile | None = file  # None: it was damaged, and no new one could be made yet
        self._count(damage)
        self._count(adopt(file, directory, fsync, max_bytes, worker=worker, workers=workers))
        self._reserve.take()
        size = file.size()
        self._requests = size.requests
        self._next_id = size.last_id + 1
        self._to_recover: deque[int] = deque()
        self._recovered_to, self._recover_to = 0, size.last_id
        self._offered: Kept | None = None  # of these the next
        self._recovering = _Bodies()
        self._decided_before: set[int] = set()
        self._waiting = _Bodies()
        self._dropped: set[int] = set()  # what waits outside of memory
        self._sending: list[int] = []
        self._removed: list[int] = []
        self._possibly_duplicated = file.possibly_duplicated_spans()
        if size.requests:
            log.info("the durable queue holds requests of earlier lives", file=self._path, requests=size.requests)

    def admitted(self, entries: Sequence[E]) -> Sequence[E]:
        """Stores those that have no number yet, and gives them one. Returns those for which that failed: their senders
        are to come again. The others are safe, as far as `fsync` says.
        """
        refused: list[E] = []
        for block in _blocks([entry for entry in entries if not entry.id]):
            if refused or not self._append(block):
                refused += block
        if refused:
            reason = (self._trouble or StorageError).code
            self._enqueue_failed.add(sum(entry.spans for entry in refused), reason)
        return refused

    def decided(self, entries: Sequence[Entry]) -> None:
        """To be called before they are put into the queue: their bodies are as they leave. If too much waits in memory
        already, these bodies leave it.
        """
        with self._lock:
            for entry in entries:
                self._recovering.forget(entry.id)
                self._decided_before.discard(entry.id)
            for block in _blocks(entries):
                full = self._waiting.bytes + sum(entry.size for entry in block) > self._memory_bytes
                if full and self._drop(block):
                    continue
                for entry in block:
                    self._waiting.add(entry.id, entry.size)

    def decided_before(self, entry: Entry) -> bool:
        """Whether it was decided in an earlier life, and is not to be decided again."""
        return entry.id in self._decided_before

    def sending(self, entries: Sequence[E]) -> Sequence[E]:
        """To be called before they are sent: notes it, and brings back bodies that have left memory. Returns those
        whose body is lost: they cannot be sent, are to be counted as dropped, and released.
        """
        with self._lock:
            for entry in entries:
                self._waiting.forget(entry.id)
            self._sending += [entry.id for entry in entries]
            if not self._flush():
                self._unmarked.add(sum(entry.spans for entry in entries))
            return [entry for entry in entries if entry.id in self._dropped and not self._bring_back(entry)]

    def released(self, entries: Sequence[Entry]) -> None:
        """These are delivered, or dropped and counted. What is left over at shutdown is not: it stays in the file."""
        with self._lock:
            for entry in entries:
                self._waiting.forget(entry.id)
                self._recovering.forget(entry.id)
                self._decided_before.discard(entry.id)
                self._dropped.discard(entry.id)
                self._removed.append(entry.id)
            if len(self._removed) >= _MAX_REMOVALS:
                self._flush()

    def recover(self, offer: Callable[[bytes, int], bool]) -> None:
        """Hands requests of earlier lives with their numbers to `offer`, oldest first: as many as memory is to hold at
        a time, so to be called at every turn. `offer` returns False while it has no room.
        """
        while self.recovering and self._recovering.bytes < _RECOVERING_BYTES:
            with self._lock:
                if not self._to_recover and not self._find_more():
                    return
                self._offered = self._offered or self._read(self._to_recover[0])
            if self._offered and not self._take_up(self._offered, offer):
                return
            self._offered = None
            self._recovered_to = self._to_recover.popleft()

    def _take_up(self, kept: Kept, offer: Callable[[bytes, int], bool]) -> bool:
        """False: there is no room for it in memory."""
        try:
            if not offer(kept.body, kept.id):
                return False
        except MalformedRequest as error:  # an earlier version has taken it
            with self._lock:
                self._lose(kept.id, error)
            return True
        with self._lock:
            self._recovering.add(kept.id, len(kept.body))
            if kept.decided:
                self._decided_before.add(kept.id)
        self._recovered.add(kept.spans)
        return True

    @property
    def recovering(self) -> bool:
        """Whether requests of earlier lives are still to be taken up."""
        return self._recovered_to < self._recover_to

    def turn(self) -> None:
        """Does what is left to do. To be called some times a second."""
        with self._lock:
            self._flush()
            self._mend()
            if not self._requests and self._file:
                self._shrink(self._file)

    def close(self) -> None:
        """What is in the file stays there, for the next process. Nothing may be called afterwards."""
        with self._lock:
            self._flush()
            if self._file:
                self._file.close()

    @property
    def taking(self) -> bool:
        """False if the last request could not be stored."""
        return self._trouble is None

    def series(self) -> Iterator[Series]:
        """For the metrics."""
        used = free = 0
        with self._lock, suppress(StorageError):
            if self._file:
                used, free = self._file.used_bytes(), self._file.free_bytes()
        for name, meaning, value in (
            ("requests", "requests in the file; several may be joined to one", self._requests),
            ("dropped_requests", "of these, how many wait to be sent and are not in memory", len(self._dropped)),
            ("bytes", "what the file holds", used),
            ("free_bytes", "what it has on the disk beyond that", free),
            ("capacity_bytes", "what it may hold", self.max_bytes),
            ("taking", "1, or 0 if the last request could not be stored", int(self.taking)),
        ):
            yield Series.gauge(f"exporter_storage_{name}", meaning, value)
        yield Series(
            "exporter_possibly_duplicated_spans",
            "counter",
            "spans that were being sent when a process ended, and are sent again; since the file was made",
            "",
            {"": self._possibly_duplicated},
        )
        for counter in (self._enqueue_failed, self._damaged, self._recovered, self._unmarked):
            yield counter.series()

    def _append(self, block: Sequence[Entry]) -> bool:
        rows = [
            Kept(number, entry.spans, decided=False, body=entry.body)
            for number, entry in enumerate(block, start=self._next_id)
        ]
        with self._lock:
            try:
                self._check_room(sum(len(row.body) + ROW_BYTES for row in rows))
                removed = self._with_reserve(lambda file: file.append(rows, self._sending, self._removed), again=False)
            except StorageError as error:
                self._tell(error)
                return False
            self._noted(removed)
            self._requests += len(rows)
            self._next_id += len(rows)
        if self._trouble:
            self._trouble = None
            log.info("requests can be stored again", file=self._path)
        for row, entry in zip(rows, block, strict=True):
            entry.id = row.id
        return True

    def _check_room(self, size: int) -> None:
        """Raises StorageFull. While there is no reserve, nothing is taken for which the file would have to grow."""
        file = self._mend()
        if file is None:
            return
        if size > self.max_bytes - file.used_bytes():
            self._flush()  # what is to be removed makes room
        if size > self.max_bytes - file.used_bytes():
            raise StorageFull(self._path, f"it holds as much as it may, {self.max_bytes >> 20} MiB")
        if not self._reserve.held and file.free_bytes() < 2 * size + _MARGIN_BYTES:
            raise StorageFull(self._path, "there is no room on its disk")

    def _flush(self) -> bool:
        """Writes down what is to be noted. False: that failed, and is still to be noted."""
        if not self._sending and not self._removed:
            return True
        try:
            removed = self._with_reserve(lambda file: file.note(self._sending, self._removed), again=True)
        except StorageError as error:
            self._tell(error)
            return False
        self._noted(removed)
        return True

    def _noted(self, removed: int) -> None:
        self._requests -= removed
        self._sending, self._removed = [], []

    def _drop(self, block: Sequence[Entry]) -> bool:
        rows = [Kept(entry.id, entry.spans, decided=True, body=entry.body) for entry in block]
        try:
            self._with_reserve(lambda file: file.replace(rows), again=False)
        except StorageError as error:  # then they stay in memory
            self._tell(error)
            return False
        for entry in block:
            entry.replace_body(None)
            self._dropped.add(entry.id)
        return True

    def _bring_back(self, entry: Entry) -> bool:
        self._dropped.discard(entry.id)
        kept = self._read(entry.id)
        if kept:
            entry.replace_body(kept.body)
        return kept is not None

    def _read(self, number: int) -> Kept | None:
        """None: it is lost."""
        try:
            if kept := self._run(lambda file: file.get(number)):
                return kept
        except (RequestDamaged, StorageError) as error:
            self._lose(number, error)
        else:
            self._lose(number, None)
        return None

    def _lose(self, number: int, error: Exception | None) -> None:
        """`error`: None for one that had been in a damaged file."""
        log.error("a stored request cannot be read, it is dropped", number=number, error=error, file=self._path)
        self._damaged.add(1, "request")
        self._removed.append(number)

    def _find_more(self) -> bool:
        """Of what is to be recovered."""
        try:
            found = self._run(lambda file: file.ids_after(self._recovered_to, _IDS_AT_ONCE))
        except StorageError as error:
            self._tell(error)
            return False
        self._to_recover.extend(sorted(n for n in set(found) if self._recovered_to < n <= self._recover_to))
        if not self._to_recover:
            self._recovered_to = self._recover_to
        return bool(self._to_recover)

    def _with_reserve(self, write: Callable[[RequestFile], T], *, again: bool) -> T:
        """If there is no room the reserve is given up, so that what is in the WAL can be moved into the file; then it
        is tried `again`. Raises StorageError.
        """
        try:
            return self._run(write)
        except (StorageFull, StorageFailed):
            if not self._reserve.held:
                raise
            self._reserve.release()
            self._retry_at_ns = self._clock_ns() + _RETRY_NS
            with suppress(StorageFull, StorageFailed):
                self._run(RequestFile.checkpoint)
            if not again:
                raise
        return self._run(write)

    def _run(self, operation: Callable[[RequestFile], T]) -> T:
        """On a file that turns out to be damaged, it is done on the one that takes its place. Raises StorageError."""
        if self._file is None:
            raise StorageFailed(self._path, "it was damaged, and no new file can be made")
        try:
            return operation(self._file)
        except StorageDamaged as damage:
            self._begin_anew(self._file, damage)
        return operation(self._file)

    def _begin_anew(self, damaged: RequestFile, damage: StorageDamaged) -> None:
        damaged.close()
        self._file = None
        self._retry_at_ns = self._clock_ns() + _RETRY_NS
        self._file, found = begin_anew(self._path, self._fsync, damage)
        self._took_up(self._file, found)

    def _took_up(self, file: RequestFile, found: Damage) -> None:
        self._count(found)
        self._requests = file.size().requests
        counted = file.possibly_duplicated_spans()
        if counted < self._possibly_duplicated:  # what the damaged file had counted could not be read
            file.add_possibly_duplicated(self._possibly_duplicated)
            counted += self._possibly_duplicated
        self._possibly_duplicated = counted

    def _mend(self) -> RequestFile | None:
        """Once a second: a file where there is none, the reserve where that was given up."""
        if self._file is None or not self._reserve.held:
            now_ns = self._clock_ns()
            if now_ns >= self._retry_at_ns:
                self._retry_at_ns = now_ns + _RETRY_NS
                if self._file is None:
                    try:
                        self._file, found = open_or_begin_anew(self._path, self._fsync)
                        self._took_up(self._file, found)
                    except StorageError as error:
                        self._tell(error)
                self._reserve.take()
        return self._file

    def _shrink(self, file: RequestFile) -> None:
        with suppress(StorageError):
            if file.free_bytes() > _SHRINK_BYTES:
                file.shrink()

    def _tell(self, error: StorageError) -> None:
        if self._trouble is None or self._trouble.code != error.code:
            log.error("the durable queue cannot be written to; requests are refused until it can be", error=error)
        self._trouble = error

    def _count(self, damage: Damage) -> None:
        self._damaged.add(damage.files, "file")
        self._damaged.add(damage.requests, "request")


def _blocks(entries: Sequence[E]) -> Iterator[list[E]]:
    """What goes into one transaction each."""
    block: list[E] = []
    size = 0
    for entry in entries:
        if block and (size + entry.size > _TRANSACTION_BYTES or len(block) == _TRANSACTION_ROWS):
            yield block
            block, size = [], 0
        block.append(entry)
        size += entry.size
    if block:
        yield block
