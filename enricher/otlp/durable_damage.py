"""A damaged file of a durable queue is set aside, and what can still be read of it goes on in a new one."""

import shutil
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from enricher.otlp.durable_copy import portions, readable
from enricher.otlp.durable_errors import StorageDamaged, StorageError, StorageFailed, StorageFull, cannot_open
from enricher.otlp.durable_file import Fsync, RequestFile
from enricher.otlp.durable_rows import Rows
from enricher.otlp.durable_wal import wal_of
from enricher.telemetry.logs import get_logger

log = get_logger()

# Of one file; the oldest are deleted.
MAX_ASIDE: Final = 3


@dataclass(frozen=True, slots=True)
class Damage:
    """What it came to, as far as that can be known."""

    files: int = 0
    requests: int = 0  # that were found and could not be read


def open_or_begin_anew(path: Path, fsync: Fsync) -> tuple[RequestFile, Damage]:
    """Marks of the last process are counted. Raises StorageError other than StorageDamaged."""
    try:
        file = RequestFile(path, fsync)
        with suppress(StorageFull, StorageFailed):  # the marks stay, to be counted another time
            file.count_possibly_duplicated(all_of_them=file.wal_damaged)
    except StorageDamaged as damage:
        return begin_anew(path, fsync, damage)
    if not file.wal_damaged:
        return file, Damage()
    aside = _name_aside(path)
    with suppress(OSError):  # as of a full disk; it is for a person to look at
        shutil.copyfile(wal_of(path), wal_of(aside))
        wal_of(aside).chmod(0o600)
    _tell(StorageDamaged(path, "its WAL is damaged: the last requests and marks are lost"), wal_of(aside))
    return file, Damage(files=1)


def begin_anew(path: Path, fsync: Fsync, damage: StorageDamaged) -> tuple[RequestFile, Damage]:
    """The file must not be open. Rows keep their numbers. Raises StorageError."""
    aside = _name_aside(path)
    try:
        for part, to in ((path, aside), (wal_of(path), wal_of(aside))):
            if part.exists():
                part.rename(to)
    except OSError as error:
        raise cannot_open(path, error.strerror or str(error)) from error
    _tell(damage, aside)
    file = RequestFile(path, fsync)
    try:
        return file, Damage(files=1, requests=_salvage(aside, file))
    except BaseException:
        file.close()
        raise


def _salvage(aside: Path, file: RequestFile) -> int:
    """Returns how many rows could not be read."""
    copied = lost = 0
    if not aside.exists() or not aside.stat().st_size:
        return 0  # SQLite would delete the WAL, for a person to look at
    try:
        source = Rows(aside, lock_wait_s=0.0, damaged=True)
    except StorageError:
        return 0
    try:
        for rows, unread in portions(readable(source)):
            file.append(rows, (), ())
            copied, lost = copied + len(rows), lost + unread
        with suppress(StorageError):
            file.add_possibly_duplicated(max(0, source.possibly_duplicated_spans()))
        # Not every mark can have been read.
        file.count_possibly_duplicated(all_of_them=True)
    except (StorageFull, StorageFailed) as error:
        log.error("no room for all that a damaged file holds", error=error, file=aside)  # noqa: TRY400 - told whole
    finally:
        source.close()
    log.warning("requests taken over from a damaged file", file=aside, requests=copied, damaged=lost)
    return lost


def _name_aside(path: Path) -> Path:
    """A free one; makes room by deleting the oldest."""
    now = datetime.now(UTC).strftime("%Y%m%dT%H%M%S")
    asides = sorted(found for found in path.parent.glob(f"{path.name}.damaged-*") if not found.name.endswith("-shm"))
    stems = sorted({found.name.removesuffix("-wal") for found in asides})
    for stem in stems[: max(0, len(stems) - MAX_ASIDE + 1)]:
        for found in path.parent.glob(f"{stem}*"):
            with suppress(OSError):
                found.unlink()
    # Several within a second.
    number = next(n for n in range(len(stems) + 1) if f"{path.name}.damaged-{now}-{n}" not in stems)
    return path.with_name(f"{path.name}.damaged-{now}-{number}")


def _tell(damage: StorageDamaged, aside: Path) -> None:
    log.error("the durable queue's file is damaged, it is set aside", error=damage, aside=aside)
