"""As much of ELF as a Go executable needs: segments, section addresses, relative relocations, search.

The file is read with pread and never mapped: the binaries belong to other people, and one that is
truncated while it is mapped would end this process with SIGBUS. Nothing is kept of what was read, so
a binary of any size costs one chunk of memory. Every header may lie, so all reading is paid from a
budget; a file that exhausts it is given up.

A general ELF library makes an object of every symbol and section it walks over. Go binaries have some
100,000 functions, of which one is wanted, so tables are searched as bytes instead.

Format: System V ABI, chapters 4 and 5, with the amd64 and arm64 supplements.
"""

import os
import stat
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import ClassVar, Literal, Self

from enricher.errors import EnricherError

Machine = Literal["amd64", "arm64"]

_MACHINES: dict[int, Machine] = {62: "amd64", 183: "arm64"}
_RELATIVE_RELOCATION: dict[Machine, int] = {"amd64": 8, "arm64": 1027}
_ELF64_LITTLE_ENDIAN = b"\x7fELF\x02\x01"
_EXECUTABLE_TYPES = (2, 3)
_PT_LOAD, _PT_DYNAMIC = 1, 2
_PF_X, _PF_W = 1, 2
_SHT_NOBITS = 8
_DT_NULL, _DT_RELA, _DT_RELASZ = 0, 7, 8

_IDENTITY = struct.Struct("<16sHH")
_FILE_HEADER = struct.Struct("<16sHHIQQQIHHHHHH")
_PROGRAM_HEADER = struct.Struct("<IIQQQQQQ")
_SECTION_HEADER = struct.Struct("<IIQQQQIIQQ")
_DYNAMIC_ENTRY = struct.Struct("<QQ")
_RELOCATION = struct.Struct("<QQq")
_WORD = struct.Struct("<Q")

_MOST_PROGRAM_HEADERS = 128
_MOST_SECTION_HEADERS = 1024
_MOST_DYNAMIC_BYTES = 1 << 16
_MOST_SECTION_NAME_BYTES = 1 << 16
_LONGEST_READ = 1 << 20

# Linear search of a gigabyte takes about half a second. Each call and each hit costs at least a page,
# so that a file full of decoys is given up after some 260,000 of them and not after hours.
_BUDGET_BYTES = 1 << 30
_LEAST_COST_BYTES = 4096


class UnreadableBinary(EnricherError):
    """The file cannot be read, or is an ELF file whose headers contradict it or each other.

    `path`: the file; `problem`: what is wrong with it.
    """

    code: ClassVar[str] = "unreadable_binary"

    def __init__(self, path: str, problem: str) -> None:
        super().__init__(
            f"{path}: {problem}",
            fix="Check that the file is a whole executable and that it may be read.",
        )
        self.path = path
        self.problem = problem


@dataclass(frozen=True, slots=True)
class Segment:
    """The part of a PT_LOAD segment that is in the file."""

    address: int
    offset: int
    size: int
    writable: bool
    executable: bool


@dataclass(frozen=True, slots=True)
class Section:
    """A section that has bytes in the file and an address in memory."""

    address: int
    size: int


class ElfImage:
    """An open 64-bit little-endian executable for amd64 or arm64. Addresses are the file's own.

    Use `open`. Everything here raises `UnreadableBinary`, and nothing else, where the file is broken.
    """

    def __init__(self, path: str, descriptor: int) -> None:
        self.path = path
        self._descriptor = descriptor
        self._budget = _BUDGET_BYTES
        self._size = os.fstat(descriptor).st_size
        header = _FILE_HEADER.unpack(self._pread(0, _FILE_HEADER.size))
        _, _, machine, _, _, program_offset, section_offset, _, _, *table_shape = header
        program_size, program_count, section_size, section_count, names_index = table_shape
        self.machine: Machine = _MACHINES[machine]
        self.segments, self._dynamic = self._read_segments(program_offset, program_size, program_count)
        self.sections = self._read_sections(section_offset, section_size, section_count, names_index)
        self._relocations = self._find_relocations()

    @classmethod
    def open(cls, path: str) -> Self | None:
        """Open `path`; None if it is not an ELF executable for one of the machines known."""
        try:
            # Without O_NONBLOCK a named pipe would block here until somebody writes.
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except (OSError, ValueError) as error:
            raise UnreadableBinary(path, f"cannot be opened: {error}") from error
        try:
            image = cls(path, descriptor) if _is_for_known_machine(descriptor) else None
        except OSError as error:
            os.close(descriptor)
            raise UnreadableBinary(path, f"cannot be read: {error}") from error
        except BaseException:
            os.close(descriptor)
            raise
        if image is None:
            os.close(descriptor)
        return image

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._descriptor)

    def unreadable(self, problem: str) -> UnreadableBinary:
        """An error about this file, to be raised."""
        return UnreadableBinary(self.path, problem)

    # --- memory as the program will see it ---

    def offset_of(self, address: int) -> int:
        """Where in the file the byte at `address` is."""
        return self._offset_and_room(address)[0]

    def room_at(self, address: int) -> int:
        """Number of bytes from `address` to the end of its segment."""
        return self._offset_and_room(address)[1]

    def read(self, address: int, size: int) -> bytes:
        """The `size` bytes at `address`, as they are in the file (not relocated)."""
        offset, room = self._offset_and_room(address)
        if not 0 <= size <= min(room, _LONGEST_READ):
            raise self.unreadable(f"{size} bytes at {address:#x} are outside of its segment or too many")
        return self._pread(offset, size)

    def pointer(self, address: int) -> int:
        """The pointer at `address` after relative relocation, for a program loaded at its own addresses."""
        relocation = next(self._find_relocation(_WORD.pack(address), 0), None)
        if relocation is not None:
            return relocation[1]
        word: int = _WORD.unpack(self.read(address, _WORD.size))[0]
        return word

    def find(self, pattern: bytes, address: int, size: int, *, align: int = 1) -> Iterator[int]:
        """Addresses in [address, address + size) where `pattern` begins, at multiples of `align` from
        `address`, in order."""
        offset, room = self._offset_and_room(address)
        if not 0 <= size <= room:
            raise self.unreadable(f"{size} bytes at {address:#x} reach out of their segment")
        for found in self._find_in_file(pattern, offset, size, align):
            yield address + found - offset

    def pointers_to(self, target: int) -> Iterator[int]:
        """Aligned addresses of writable memory that hold a pointer to `target`, relocated ones first."""
        for place, _ in self._find_relocation(_WORD.pack(target), 16):
            yield place
        for segment in self.segments:
            if segment.writable:
                yield from self.find(_WORD.pack(target), segment.address, segment.size, align=8)

    def is_code(self, address: int, size: int = 1) -> bool:
        """Whether the `size` bytes at `address` are in an executable segment."""
        for segment in self.segments:
            into = address - segment.address
            # Where segments overlap, the first one counts, as for all reading.
            if 0 <= into < segment.size:
                return segment.executable and size <= segment.size - into
        return False

    # --- headers ---

    def _read_segments(self, offset: int, entry_size: int, count: int) -> tuple[tuple[Segment, ...], tuple[int, int]]:
        """The segments to load, and offset and size in the file of the dynamic table (0, 0: none)."""
        if entry_size != _PROGRAM_HEADER.size or not 0 < count <= _MOST_PROGRAM_HEADERS:
            raise self.unreadable(f"{count} program headers of {entry_size} bytes")
        table = self._pread(offset, count * entry_size)
        segments: list[Segment] = []
        dynamic = (0, 0)
        for kind, flags, start, address, _, size, *_ in _PROGRAM_HEADER.iter_unpack(table):
            if kind not in (_PT_LOAD, _PT_DYNAMIC) or not size:
                continue
            if start + size > self._size:
                raise self.unreadable(f"a segment ends at byte {start + size} of {self._size}")
            if address + size > 1 << 64:
                raise self.unreadable(f"a segment at {address:#x} leaves the address space")
            if kind == _PT_DYNAMIC:
                dynamic = (start, size)
            else:
                writable, executable = bool(flags & _PF_W), bool(flags & _PF_X)
                segments.append(Segment(address, start, size, writable, executable))
        return tuple(segments), dynamic

    def _read_sections(self, offset: int, entry_size: int, count: int, names_index: int) -> dict[str, Section]:
        """Sections by name; empty where the table was cut off. Nothing depends on sections alone: they
        only save a search."""
        if (
            entry_size != _SECTION_HEADER.size
            or not names_index < count <= _MOST_SECTION_HEADERS
            or not offset
            or offset + count * entry_size > self._size
        ):
            return {}
        headers = list(_SECTION_HEADER.iter_unpack(self._pread(offset, count * entry_size)))
        names_offset, names_size = headers[names_index][4:6]
        if names_size > _MOST_SECTION_NAME_BYTES or names_offset + names_size > self._size:
            return {}
        names = self._pread(names_offset, names_size)
        sections: dict[str, Section] = {}
        for name, kind, _, address, _, size, *_ in headers:
            if address and kind != _SHT_NOBITS:
                text = names[name : names.find(b"\0", name)].decode("ascii", "replace")
                sections.setdefault(text, Section(address, size))
        return sections

    def _find_relocations(self) -> tuple[int, int]:
        """Offset and size in the file of the table of relocations with addends; (0, 0): none."""
        offset, size = self._dynamic
        if not size:
            return 0, 0
        table = self._pread(offset, min(size, _MOST_DYNAMIC_BYTES) // 16 * 16)
        values: dict[int, int] = {}
        for tag, value in _DYNAMIC_ENTRY.iter_unpack(table):
            if tag == _DT_NULL:
                break
            values[tag] = value
        address, total = values.get(_DT_RELA, 0), values.get(_DT_RELASZ, 0)
        if not total:
            return 0, 0
        offset, room = self._offset_and_room(address)
        if total > room:
            raise self.unreadable(f"{total} bytes of relocations at {address:#x} reach out of their segment")
        return offset, total

    # --- bytes ---

    def _find_relocation(self, word: bytes, field: Literal[0, 16]) -> Iterator[tuple[int, int]]:
        """(place, target) of the relative relocations whose word at byte `field` is `word`: 0 the place,
        16 the target."""
        offset, size = self._relocations
        for found in self._find_in_file(word, offset + field, size - field, _RELOCATION.size):
            place, info, target = _RELOCATION.unpack(self._pread(found - field, _RELOCATION.size))
            if info == _RELATIVE_RELOCATION[self.machine]:
                yield place, target % (1 << 64)

    def _find_in_file(self, pattern: bytes, start: int, size: int, align: int) -> Iterator[int]:
        position, end = start, start + size
        while position + len(pattern) <= end:
            chunk = self._pread(position, min(_LONGEST_READ, end - position))
            at = 0
            while (at := chunk.find(pattern, at)) >= 0:
                self._spend(_LEAST_COST_BYTES)
                past = (position + at - start) % align
                if not past:
                    yield position + at
                at += align - past
            position += len(chunk) - len(pattern) + 1

    def _pread(self, offset: int, size: int) -> bytes:
        self._spend(max(size, _LEAST_COST_BYTES))
        if offset + size > self._size:
            raise self.unreadable(f"bytes {offset} to {offset + size} are needed, it has {self._size}")
        try:
            data = os.pread(self._descriptor, size, offset)
        except OSError as error:
            raise self.unreadable(f"cannot be read: {error}") from error
        if len(data) != size:
            raise self.unreadable("was truncated while it was read")
        return data

    def _spend(self, cost: int) -> None:
        self._budget -= cost
        if self._budget < 0:
            raise self.unreadable(f"needs more than {_BUDGET_BYTES >> 20} MiB of reading")

    def _offset_and_room(self, address: int) -> tuple[int, int]:
        for segment in self.segments:
            into = address - segment.address
            if 0 <= into < segment.size:
                return segment.offset + into, segment.size - into
        raise self.unreadable(f"no segment holds address {address:#x}")


def _is_for_known_machine(descriptor: int) -> bool:
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        return False
    start = os.pread(descriptor, _IDENTITY.size, 0)
    if len(start) < _IDENTITY.size:
        return False
    identity, kind, machine = _IDENTITY.unpack(start)
    return identity.startswith(_ELF64_LITTLE_ENDIAN) and kind in _EXECUTABLE_TYPES and machine in _MACHINES
