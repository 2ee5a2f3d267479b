"""Disk space held back for the time when there is none left.

To remove a row SQLite has to write, and what it wrote to its WAL must find room in the file before the WAL can begin
anew: on a disk that others have filled, a queue could no longer empty itself. Then this is given up.
"""

import os
from contextlib import suppress
from pathlib import Path
from typing import Final

from enricher.otlp.durable_file import WAL_BYTES

# The WAL once for moving it into the file, and once for what is noted meanwhile.
RESERVE_BYTES: Final = 2 * WAL_BYTES


class DiskReserve:
    """A file of zeros that has its blocks."""

    def __init__(self, path: Path) -> None:
        """Takes nothing yet."""
        self._path = path
        self.held = False

    def take(self) -> bool:
        """Whether it is held now."""
        if not self.held:
            try:
                self._allocate()
            except OSError:  # no room: that is what it is for to find out
                self.release()
            else:
                self.held = True
        return self.held

    def release(self) -> None:
        """Gives the space to whoever needs it first."""
        self.held = False
        with suppress(OSError):
            self._path.unlink(missing_ok=True)

    def _allocate(self) -> None:
        file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            os.posix_fallocate(file, 0, RESERVE_BYTES)
        finally:
            os.close(file)
