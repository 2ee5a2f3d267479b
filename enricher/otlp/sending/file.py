"""exporters.file: a line of OTLP JSON for each request, as the collector's file exporter writes and reads.

Every line is whole: what could not be written to its end is taken back, and what a killed process has left of a line
is cut off by the next. Several processes may write to one file, as each locks it while it writes.
"""

import fcntl
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from threading import Lock
from typing import Final

from enricher._native import MalformedRequest, json_from_protobuf
from enricher.config.model import FileExporter
from enricher.otlp.delivery import DeliverySettings
from enricher.otlp.sending.assembly import Line
from enricher.otlp.transport import CannotSendError, Exporter, Failure, Sendable, StatusCode, Taken

# There is nothing that a disk could answer late.
_TIMEOUT_NS: Final = 5_000_000_000
_MODE: Final = 0o640  # spans may hold what is not for everybody
_LINE_BEGINS: Final = b'{"resourceSpans"'
_BLOCK_BYTES: Final = 64 << 10
_OPEN_TRIES: Final = 100  # against others that rotate the file at the same time
_STAMP: Final = re.compile(r"\d{4}-\d\d-\d\dT\d\d-\d\d-\d\d\.\d{6}")


def build(settings: FileExporter, line: Line) -> Exporter:
    """Raises CannotSendError where the file cannot be opened."""
    sender = FileSender(settings)
    sender.check()
    return line.delivery(DeliverySettings(timeout_ns=_TIMEOUT_NS), sender)


class FileSender:
    """A `Sender` into one file, which is put aside when it is full."""

    def __init__(self, settings: FileExporter) -> None:
        self._path = Path(settings.path)
        self._max_bytes = settings.rotation.max_megabytes << 20
        self._max_backups = settings.rotation.max_backups
        self._lock = Lock()

    @property
    def destination(self) -> str:
        return str(self._path)

    def check(self) -> None:
        """Raises CannotSendError where the file cannot be opened."""
        try:
            with self._opened():
                pass
        except OSError as error:
            raise CannotSendError(
                str(self._path),
                error.strerror or str(error),
                fix=f"Have its directory exist and be writable for the user {os.geteuid()}",
            ) from error

    def send(self, bodies: Sequence[Sendable], timeout_ns: int) -> Taken | Failure:  # noqa: ARG002 - see _TIMEOUT_NS
        try:
            lines = b"".join([json_from_protobuf(part.body) + b"\n" for part in bodies])
        except MalformedRequest as error:
            return Failure(StatusCode.INVALID_ARGUMENT, str(error))
        try:
            with self._lock:
                self._append(lines)
        except OSError as error:  # a full disk, above all: there may be room again
            return Failure(StatusCode.UNAVAILABLE, error.strerror or str(error))
        return Taken()

    def close(self) -> None:
        """Nothing is open between two requests."""

    def _append(self, lines: bytes) -> None:
        with self._opened() as fd:
            size = _without_half_line(fd)
            if not size or size + len(lines) <= self._max_bytes:
                _write(fd, lines, size)
                return
            self._put_aside()
        with self._opened() as fd:
            _write(fd, lines, os.fstat(fd).st_size)

    @contextmanager
    def _opened(self) -> Iterator[int]:
        """The file, locked. The lock ends when it is closed."""
        for _ in range(_OPEN_TRIES):
            fd = os.open(self._path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, _MODE)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX)
                if _is_at(fd, self._path):
                    yield fd
                    return
            finally:
                os.close(fd)
        raise BlockingIOError(f"{self._path} is being replaced all the time")

    def _put_aside(self) -> None:
        """Locked: whoever waits for the lock finds another file at the path, and opens that."""
        stamp = datetime.now(UTC).strftime("%Y-%m-%dT%H-%M-%S.%f")
        self._path.rename(self._path.with_name(f"{self._path.stem}-{stamp}{self._path.suffix}"))
        for surplus in self._backups()[: -self._max_backups]:
            surplus.unlink(missing_ok=True)

    def _backups(self) -> list[Path]:
        """The oldest first."""
        begins, ends = f"{self._path.stem}-", self._path.suffix
        return sorted(
            entry
            for entry in self._path.parent.iterdir()
            if entry.name.startswith(begins)
            and _STAMP.fullmatch(entry.name.removeprefix(begins).removesuffix(ends))
            and entry.name.endswith(ends)
        )


def _is_at(fd: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(fd), path.stat())
    except FileNotFoundError:
        return False


def _write(fd: int, lines: bytes, size: int) -> None:
    """All of it or, raising OSError, nothing."""
    left = memoryview(lines)
    try:
        while left:
            left = left[os.write(fd, left) :]
    except OSError:
        os.ftruncate(fd, size)
        raise


def _without_half_line(fd: int) -> int:
    """The size of the file, once what is left of a line at its end is off it. What is not ours stays, as a line."""
    size = os.fstat(fd).st_size
    if not size or os.pread(fd, 1, size - 1) == b"\n":
        return size
    whole = _end_of_last_line(fd, size)
    begins = os.pread(fd, len(_LINE_BEGINS), whole)
    if _LINE_BEGINS.startswith(begins):
        os.ftruncate(fd, whole)
        return whole
    _write(fd, b"\n", size)
    return size + 1


def _end_of_last_line(fd: int, size: int) -> int:
    at = size
    while at:
        begins = max(0, at - _BLOCK_BYTES)
        newline = os.pread(fd, at - begins, begins).rfind(b"\n")
        if newline >= 0:
            return begins + newline + 1
        at = begins
    return 0
