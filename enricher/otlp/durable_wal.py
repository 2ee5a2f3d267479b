"""How far a WAL of SQLite was written, to be held against how far SQLite reads it.

SQLite takes a WAL up to the first frame whose checksum is wrong, as the end of what was written looks so when a machine
has lost its power. A flipped bit in the middle looks the same, and all behind it would be gone without a word. But then
commits stand behind it. The format: https://www.sqlite.org/fileformat2.html#walformat
"""

import struct
from pathlib import Path
from typing import Final

_HEADER: Final = struct.Struct(">8I")  # magic, version, page size, sequence, two salts, two checksums
_FRAME: Final = struct.Struct(">6I")  # page, size of the database if it commits, two salts, two checksums
_MAGICS: Final = (0x377F0682, 0x377F0683)
# The header cannot be read, though there are frames.
BROKEN: Final = -1


def wal_of(path: Path) -> Path:
    return path.with_name(path.name + "-wal")


def last_commit(wal: Path) -> int:
    """The number of the last frame that commits, from 1; 0 if there is none; or BROKEN. Raises OSError."""
    try:
        file = wal.open("rb")
    except FileNotFoundError:
        return 0
    with file:
        header = file.read(_HEADER.size)
        size = wal.stat().st_size
        if size <= _HEADER.size:
            return 0
        magic, _, page_bytes, _, *salts, _, _ = _HEADER.unpack(header)
        if magic not in _MAGICS or not 512 <= page_bytes <= 65536 or page_bytes & (page_bytes - 1):
            return BROKEN
        last, step = 0, _FRAME.size + page_bytes
        for number, offset in enumerate(range(_HEADER.size, size - step + 1, step), start=1):
            file.seek(offset)
            _, commit, *found, _, _ = _FRAME.unpack(file.read(_FRAME.size))
            # Frames of earlier rounds have two other salts; a flipped bit changes one of them.
            if commit and (found[0] == salts[0] or found[1] == salts[1]):
                last = number
        return last
