"""The board: memory that the supervisor and all workers of a pipeline see, on which each says how it is.

A file in memory (memfd) of slots, each with the latest note of one writer. A note is written beside the one before
and not over it, under a checksum: a writer that is killed in the middle leaves the note before, and a reader that was
overtaken sees that what it has copied is no note. So nobody waits for anybody, and a process that hangs holds up
none. A lock in that same memory would be held for ever by whoever is killed with it; here only a slot with several
writers has one, which the kernel takes back from the dead.

Whoever may write may write anything: what is read is bounded, and nobody privileged reads more of it than numbers.
"""

import fcntl
import mmap
import os
import struct
import threading
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import ClassVar, Final, Self

from enricher.errors import EnricherError

SLOT_BYTES: Final = 256 << 10  # touched only as far as notes are long
_PAGE_BYTES: Final = SLOT_BYTES // 2
# Number of the note from 1, CLOCK_MONOTONIC when it was written, tag, length; then the checksum of these and the text.
_HEAD: Final = struct.Struct("=QQII")
_CHECKSUM: Final = struct.Struct("=I")
_TEXT_AT: Final = _HEAD.size + _CHECKSUM.size
MAX_TEXT_BYTES: Final = _PAGE_BYTES - _TEXT_AT
_LAST_NUMBER: Final = 1 << 62

_TRIES: Final = 5  # to read while notes are being written, for when two were meanwhile
_LOCK_DEADLINE_S: Final = 1.0
_LOCK_PAUSE_S: Final = 0.002
_SEALS: Final = fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL


class NoteTooLarge(EnricherError):
    """A note has no room in its slot; the one before stands."""

    code: ClassVar[str] = "note_too_large"

    def __init__(self, size: int) -> None:
        super().__init__(f"a note of {size} bytes has no room on the board, which takes {MAX_TEXT_BYTES}")
        self.size = size


class SlotBusy(EnricherError):
    """Another process has been writing this slot for longer than that can take: it hangs."""

    code: ClassVar[str] = "slot_busy"

    def __init__(self, slot: int) -> None:
        super().__init__(f"slot {slot} of the board is held by another process", fix="Try again.")
        self.slot = slot


@dataclass(frozen=True, slots=True)
class Note:
    number: int  # of this slot's notes, from 1
    written_ns: int  # CLOCK_MONOTONIC
    tag: int  # what can be told without reading the text
    text: bytes


class Board:
    """Thread-safe, but for `write` of one slot by several threads; those go through `writing`."""

    def __init__(self, fd: int, *, writable: bool = True) -> None:
        """Of `make`. The descriptor must stay open. Raises OSError if it cannot be mapped."""
        self._fd = fd
        self.slots = os.fstat(fd).st_size // SLOT_BYTES
        self._memory = mmap.mmap(
            fd, self.slots * SLOT_BYTES, access=mmap.ACCESS_WRITE if writable else mmap.ACCESS_READ
        )
        self._lock = threading.Lock()

    @classmethod
    def make(cls, slots: int) -> tuple[Self, int]:
        """An empty one, and its descriptor, which children may be given."""
        fd = os.memfd_create("enricher-board", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.fchmod(fd, 0o600)
        os.ftruncate(fd, slots * SLOT_BYTES)
        # A process that made it shorter would kill all others at their next look.
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _SEALS)
        return cls(fd), fd

    def write(self, slot: int, text: bytes, tag: int = 0) -> int:
        """Replaces the note; returns its number. A slot must have one writer at a time. Raises NoteTooLarge."""
        if len(text) > MAX_TEXT_BYTES:
            raise NoteTooLarge(len(text))
        before = self._latest(slot)
        number = before.number + 1 if before else 1
        if number > _LAST_NUMBER:  # by counting nobody comes so far
            self.clear(slot)
            number = 1
        head = _HEAD.pack(number, time.monotonic_ns(), tag, len(text))
        at = self._page(slot, number)
        self._memory[at : at + _TEXT_AT + len(text)] = head + _CHECKSUM.pack(zlib.crc32(text, zlib.crc32(head))) + text
        return number

    def read(self, slot: int) -> Note | None:
        """The latest note; None if there never was one. Never one before another that was read already."""
        note = None
        for _ in range(_TRIES):
            note = self._latest(slot)
            # One more may be under way. Of two more the first was there already, unless it came while this was read.
            if self.number(slot) <= (note.number + 1 if note else 0):
                break
        return note

    def number(self, slot: int) -> int:
        """Of the latest note, which may just be being written; 0: there is none. Cheap: to see whether to read."""
        numbers: list[int] = [_HEAD.unpack_from(self._memory, self._page(slot, half))[0] for half in (0, 1)]
        return max(numbers)

    def clear(self, slot: int) -> None:
        """As if there had never been a note: whose it was is gone."""
        for half in (0, 1):
            at = self._page(slot, half)
            self._memory[at : at + _TEXT_AT] = bytes(_TEXT_AT)

    @contextmanager
    def writing(self, slot: int) -> Iterator[None]:
        """Keeps other processes and threads that use this from writing the slot. Raises SlotBusy."""
        with self._lock:
            self._lock_slot(slot)
            try:
                yield
            finally:
                fcntl.lockf(self._fd, fcntl.LOCK_UN, 1, slot)

    def _lock_slot(self, slot: int) -> None:
        deadline_s = time.monotonic() + _LOCK_DEADLINE_S
        while True:
            try:
                fcntl.lockf(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, slot)
            except (BlockingIOError, PermissionError) as held:
                if time.monotonic() > deadline_s:
                    raise SlotBusy(slot) from held
                time.sleep(_LOCK_PAUSE_S)
            else:
                return

    def _latest(self, slot: int) -> Note | None:
        whole = [note for half in (0, 1) if (note := self._whole(self._page(slot, half)))]
        return max(whole, key=lambda note: note.number, default=None)

    def _whole(self, at: int) -> Note | None:
        """The note there; None if there is none, or one that is being written."""
        number, written_ns, tag, length = _HEAD.unpack_from(self._memory, at)
        if not number or length > MAX_TEXT_BYTES:
            return None
        page = self._memory[at : at + _TEXT_AT + length]
        head, text = page[: _HEAD.size], page[_TEXT_AT:]
        if zlib.crc32(text, zlib.crc32(head)) != _CHECKSUM.unpack_from(page, _HEAD.size)[0]:
            return None
        if head != _HEAD.pack(number, written_ns, tag, length):
            return None  # another one meanwhile
        return Note(number, written_ns, tag, text)

    @staticmethod
    def _page(slot: int, number: int) -> int:
        return slot * SLOT_BYTES + number % 2 * _PAGE_BYTES
