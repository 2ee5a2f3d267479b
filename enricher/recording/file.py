"""The file of a recording: what it is and by which settings, then blocks of entries.

    magic, version, head          8 bytes, u32, then u32 length, u32 CRC-32 and a JSON object
    block                         u32 stored length, u32 length, u32 CRC-32 of what is stored, entries by zlib

Numbers are little-endian. Blocks rather than one stream, so that what was written before a crash can be read, and
what is damaged is told by its place. Only the magic and the version stay as they are in other versions.
"""

import json
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from struct import Struct
from typing import BinaryIO, ClassVar, Final, Self, get_type_hints

from enricher.errors import EnricherError
from enricher.evidence.records import EVENTS_VERSION, RECORD_SIZE
from enricher.recording.entries import End, Entry, MalformedEntry, packed, unpacked

MAGIC: Final = b"\x93ENRICH\n"
VERSION: Final = 1
MOST_HEAD_BYTES: Final = 1 << 16
# The longest entry is a request that left: 512 MiB is the most that can be configured to be taken.
MOST_BLOCK_BYTES: Final = 600 << 20
# At level 1 records and spans shrink to a sixth at 120 MB/s; level 6 takes 46 MB/s for a tenth less.
COMPRESSION_LEVEL: Final = 1

_VERSION: Final = Struct("<I")
_HEAD: Final = Struct("<II")
_BLOCK: Final = Struct("<III")


class NotARecording(EnricherError):
    """The file is something else."""

    code: ClassVar[str] = "not_a_recording"


class UnknownRecording(EnricherError):
    """A recording that this version of the program cannot read."""

    code: ClassVar[str] = "unknown_recording"


class DamagedRecording(EnricherError):
    """A recording that cannot be read to its end; what was before `offset` was right."""

    code: ClassVar[str] = "damaged_recording"

    def __init__(self, path: str, offset: int, what: str, *, fix: str) -> None:
        super().__init__(f"{path}: {what} at byte {offset}; what stands before was read", fix=fix)
        self.path = path
        self.offset = offset


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """Who recorded, and what decides beside the entries."""

    product_version: str
    kernel: str
    machine: str
    started_unix_ns: int
    enriching: bool  # False: spans only passed through
    stamp_all: bool
    tail_ns: int
    threshold_ns: int
    retention_ns: int
    max_waits: int
    max_span_ends: int
    max_body_bytes: int
    host: str  # its name, as SDKs have it for host.name
    events_version: int = EVENTS_VERSION
    record_size: int = RECORD_SIZE


def preamble(head: Head) -> bytes:
    """What a file begins with."""
    text = json.dumps(asdict(head)).encode()
    return MAGIC + _VERSION.pack(VERSION) + _HEAD.pack(len(text), zlib.crc32(text)) + text


def block(entries: Iterable[Entry]) -> bytes:
    """As it stands in the file. Without the GIL for most of its time, if the entries are long."""
    compressor = zlib.compressobj(COMPRESSION_LEVEL)
    stored, length = [], 0
    for entry in entries:
        for piece in packed(entry):
            stored.append(compressor.compress(piece))
            length += len(piece)
    stored.append(compressor.flush())
    content = b"".join(stored)
    return _BLOCK.pack(len(content), length, zlib.crc32(content)) + content


class Recording:
    """A recording that is read. Use as a context manager."""

    def __init__(self, path: Path) -> None:
        """Raises NotARecording, UnknownRecording, DamagedRecording."""
        self.path = path
        try:
            self._file: BinaryIO = path.open("rb")
        except OSError as error:
            raise NotARecording(f"{path}: cannot be read: {error.strerror}") from error
        try:
            self.head = self._read_head()
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def entries(self) -> Iterator[Entry]:
        """In their order; the last one is an End. Raises DamagedRecording where the file is cut off or damaged."""
        while True:
            offset = self._file.tell()
            head = self._file.read(_BLOCK.size)
            if len(head) < _BLOCK.size:
                raise self._cut_off(offset)
            stored_length, length, checksum = _BLOCK.unpack(head)
            if max(stored_length, length) > MOST_BLOCK_BYTES:
                raise self._damaged(offset, "a block that is too long")
            stored = self._file.read(stored_length)
            if len(stored) < stored_length:
                raise self._cut_off(offset)
            if zlib.crc32(stored) != checksum:
                raise self._damaged(offset, "a block with a wrong checksum")
            try:
                for entry in unpacked(_inflated(stored, length)):
                    yield entry
                    if isinstance(entry, End):
                        return
            except (MalformedEntry, zlib.error) as error:
                raise self._damaged(offset, f"a block that cannot be understood ({error})") from error

    def _read_head(self) -> Head:
        start = self._file.read(len(MAGIC) + _VERSION.size + _HEAD.size)
        if not start.startswith(MAGIC):
            raise NotARecording(f"{self.path}: this is no recording", fix="make one with `enricher record FILE`")
        if len(start) < len(MAGIC) + _VERSION.size + _HEAD.size:
            raise self._cut_off(len(start))
        (version,) = _VERSION.unpack_from(start, len(MAGIC))
        if version != VERSION:
            raise UnknownRecording(
                f"{self.path}: a recording of format {version}, this program reads format {VERSION}",
                fix="use the version of enricher that has recorded it",
            )
        length, checksum = _HEAD.unpack_from(start, len(MAGIC) + _VERSION.size)
        text = self._file.read(min(length, MOST_HEAD_BYTES))
        if len(text) < min(length, MOST_HEAD_BYTES):
            raise self._cut_off(len(start))
        if length > MOST_HEAD_BYTES or zlib.crc32(text) != checksum:
            raise self._damaged(len(start), "a head with a wrong checksum")
        return self._head(text, len(start))

    def _head(self, text: bytes, offset: int) -> Head:
        try:
            tree = json.loads(text)
        except ValueError as error:
            raise self._damaged(offset, f"a head that is no JSON ({error})") from error
        types = get_type_hints(Head)
        if not isinstance(tree, dict) or any(type(tree.get(f.name)) is not types[f.name] for f in fields(Head)):
            raise self._damaged(offset, "a head in which something is missing or of the wrong type")
        head = Head(**{f.name: tree[f.name] for f in fields(Head)})
        if (head.events_version, head.record_size) != (EVENTS_VERSION, RECORD_SIZE):
            raise UnknownRecording(
                f"{self.path}: its events are of version {head.events_version}, this program reads {EVENTS_VERSION}",
                fix=f"use enricher {head.product_version}, which has recorded it, or record anew",
            )
        return head

    def _cut_off(self, offset: int) -> DamagedRecording:
        fix = "copy it anew, or record anew and let `enricher record` end by itself or by Ctrl-C"
        return DamagedRecording(str(self.path), offset, "it is cut off", fix=fix)

    def _damaged(self, offset: int, what: str) -> DamagedRecording:
        return DamagedRecording(str(self.path), offset, what, fix="copy it anew from where it was recorded")


def _inflated(stored: bytes, length: int) -> bytes:
    """Raises zlib.error, MalformedEntry."""
    inflater = zlib.decompressobj()
    content = inflater.decompress(stored, length + 1)  # not more than is told: a small block can hold a huge one
    if len(content) != length or not inflater.eof or inflater.unused_data:
        raise MalformedEntry("it is not as long as it says")
    return content
