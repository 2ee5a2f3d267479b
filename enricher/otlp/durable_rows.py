"""The rows of a durable queue's file, as they are read: from one in use, or from a damaged one."""

import sqlite3
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from enricher.otlp.durable_errors import (
    RequestDamaged,
    StorageDamaged,
    StorageError,
    StorageFailed,
    StorageFull,
    StorageLocked,
    cannot_open,
)


@dataclass(frozen=True, slots=True)
class Kept:
    """One row: an ExportTraceServiceRequest."""

    id: int
    spans: int
    decided: bool  # the body is as it leaves; otherwise as it came
    body: bytes

    @property
    def checksum(self) -> int:
        """Of all of it, so that no row can be taken for another."""
        return zlib.crc32(self.body, zlib.crc32(struct.pack("<qqB", self.id, self.spans, self.decided)))


class Rows:
    """Not thread-safe. Every method may raise StorageFailed and StorageDamaged."""

    def __init__(self, path: Path, *, lock_wait_s: float, damaged: bool = False) -> None:
        """Raises StorageUnusable. Reads nothing yet. `damaged`: what can be read is wanted, though the rest cannot."""
        self.path = path
        try:
            self._connection = sqlite3.connect(path, timeout=lock_wait_s, isolation_level=None, check_same_thread=False)
        except sqlite3.Error as error:
            raise cannot_open(path, str(error)) from error
        self._connection.text_factory = bytes  # a text that is none, in a damaged file, is no error of its own
        if damaged:
            # Lets SQLite go on with a file that is shorter than it says, and with what it can make out of a schema.
            self._value("PRAGMA writable_schema = ON")
        # Nothing of a damaged file is trusted.
        self._value("PRAGMA trusted_schema = OFF")
        self._value("PRAGMA cell_size_check = ON")
        self._value("PRAGMA mmap_size = 0")  # an I/O error would be a SIGBUS
        self._value("PRAGMA locking_mode = EXCLUSIVE")

    def get(self, number: int) -> Kept | None:
        """None: there is no such row. Raises RequestDamaged."""
        rows = self._rows("SELECT id, spans, decided, checksum, body FROM requests WHERE id = ?", number)
        for found, spans, decided, checksum, body in rows:
            whole = isinstance(spans, int) and isinstance(body, bytes) and decided in (0, 1)
            kept = Kept(number, spans, bool(decided), body) if whole else None
            if kept is None or found != number or kept.checksum != checksum:
                raise RequestDamaged(number)
            return kept
        return None

    def ids_after(self, number: int, limit: int) -> list[int]:
        """Ascending."""
        rows = self._rows("SELECT id FROM requests WHERE id > ? ORDER BY id LIMIT ?", number, limit)
        return [found for (found,) in rows]

    def ids_before(self, number: int, limit: int) -> list[int]:
        """Descending."""
        rows = self._rows("SELECT id FROM requests WHERE id < ? ORDER BY id DESC LIMIT ?", number, limit)
        return [found for (found,) in rows]

    def possibly_duplicated_spans(self) -> int:
        """In rows that were being sent when a process ended, since the file was made."""
        return self._number("SELECT possibly_duplicated_spans FROM totals")

    def close(self) -> None:
        """Raises nothing: all that was promised is in the file or in its WAL."""
        try:
            self._connection.close()
        except sqlite3.Error:
            return

    def _value(self, statement: str) -> object:
        rows = self._rows(statement)
        return rows[0][0] if rows else None

    def _number(self, statement: str) -> int:
        value = self._value(statement)
        if not isinstance(value, int):
            raise StorageDamaged(self.path, f"{statement} is {value!r}")
        return value

    # Any, as columns are what a statement names, and in a damaged file not even that.
    def _rows(self, statement: str, *values: int) -> list[tuple[Any, ...]]:
        with self._told():
            return self._connection.execute(statement, values).fetchall()

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.ProgrammingError:  # a fault of ours, such as the use of a closed file
            raise
        except (sqlite3.Error, MemoryError, OverflowError) as error:
            raise _meaning(self.path, error) from error


def _meaning(path: Path, error: Exception) -> StorageError:
    """What an error of SQLite is here."""
    # The lower byte is the kind (sqlite.org/rescode.html). Without any: what a file holds cannot be turned into Python.
    kind = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_CORRUPT) & 0xFF
    if kind in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return StorageLocked(path)
    if kind == sqlite3.SQLITE_FULL:
        return StorageFull(path, str(error))
    if kind in (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM, sqlite3.SQLITE_AUTH):
        return cannot_open(path, str(error))
    if kind in (sqlite3.SQLITE_IOERR, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_NOMEM):
        return StorageFailed(path, f"{error} ({getattr(error, 'sqlite_errorname', type(error).__name__)})")
    return StorageDamaged(path, str(error))
