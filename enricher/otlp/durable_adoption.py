"""What workers of earlier lives have left, when there are fewer of them now."""

import re
from contextlib import suppress
from pathlib import Path
from typing import Final

from enricher.otlp.durable_copy import portions, readable
from enricher.otlp.durable_damage import Damage, open_or_begin_anew
from enricher.otlp.durable_errors import StorageError
from enricher.otlp.durable_file import ROW_BYTES, Fsync, RequestFile
from enricher.otlp.durable_rows import Kept
from enricher.otlp.durable_wal import wal_of
from enricher.telemetry.logs import get_logger

log = get_logger()

_NAME: Final = re.compile(r"queue-(\d{1,4})\.sqlite3")


def adopt(file: RequestFile, directory: Path, fsync: Fsync, max_bytes: int, *, worker: int, workers: int) -> Damage:
    """Moves the requests of queues beyond the number of `workers` into `file`: this worker's share of them.

    What finds no room in `max_bytes`, or is in use, stays where it is until the next start.
    """
    files = requests = 0
    for path in sorted(directory.glob("queue-*.sqlite3")):
        name = _NAME.fullmatch(path.name)
        if name is None or int(name[1]) < workers or int(name[1]) % workers != worker:
            continue
        try:
            source, damage = open_or_begin_anew(path, fsync)
            files, requests = files + damage.files, requests + damage.requests
            try:
                lost = _move(source, file, max_bytes)
            finally:
                source.close()
        except StorageError as error:
            log.error("the queue of a former worker cannot be taken over now", error=error)  # noqa: TRY400 - told whole
            continue
        if lost is None:
            log.warning("the queue of a former worker finds no room yet", file=path)
            continue
        requests += lost
        for part in (path, wal_of(path), path.with_suffix(".reserve")):
            with suppress(OSError):
                part.unlink(missing_ok=True)
    return Damage(files, requests)


def _move(source: RequestFile, file: RequestFile, max_bytes: int) -> int | None:
    """Returns how many requests were damaged; None: there is no room for all. Raises StorageError."""
    file.add_possibly_duplicated(source.possibly_duplicated_spans())
    source.forget_possibly_duplicated()
    last = file.size().last_id
    lost = 0
    for rows, unread in portions(readable(source)):
        if sum(len(row.body) + ROW_BYTES for row in rows) > max_bytes - file.used_bytes():
            return None
        # Until they are removed there they are in both files: what a restart in between makes twice is counted.
        ids = [row.id for row in rows]
        source.note(ids, ())
        file.append([Kept(last + n, row.spans, row.decided, row.body) for n, row in enumerate(rows, start=1)], (), ())
        source.note((), ids)
        last += len(rows)
        lost += unread
    return lost
