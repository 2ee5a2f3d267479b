"""Functions by name out of the table that every Go program carries for its own stack traces.

It is there in stripped binaries too, so symbol tables are not needed. Only the wanted name is looked
up: its offset among the names, then the function records that hold this offset.

Layout: internal/abi/symtab.go, runtime/symtab.go and cmd/link/internal/ld/pcln.go of Go. One of three
numbers at its start tells the layout: those of Go 1.16, 1.18 and 1.20. (Go 1.17, the oldest that passes
arguments in registers, writes that of 1.16; the newest known, 1.27, that of 1.20.)
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from enricher.golang.elf import ElfImage, Machine, UnreadableBinary

_SECTIONS = (".gopclntab", ".data.rel.ro.gopclntab")
_INSTRUCTION_QUANTUM: dict[Machine, int] = {"amd64": 1, "arm64": 4}
_MOST_FUNCTIONS = 5_000_000
_POINTER_SIZE = 8

# runtime.moduledata, the same from Go 1.17 to 1.27.
_MODULE_TEXT_RANGES_OFFSET = 160
_MODULE_TEXT_RANGES = struct.Struct("<QQQQ")


@dataclass(frozen=True, slots=True)
class _Layout:
    """Offsets in bytes. `tables`: where the header has the offsets of the names, of what follows them, and
    of the function table. A row of that table is (entry, offset of the record), each of `row.size / 2`
    bytes; `name` and `func_id` are in the record. `text_start`: None where entries are addresses."""

    magic: int
    tables: tuple[int, int, int]
    text_start: int | None
    row: struct.Struct
    name: int
    func_id: int


_LAYOUTS = (
    _Layout(0xFFFFFFF1, (32, 40, 64), 24, struct.Struct("<II"), 4, 40),
    _Layout(0xFFFFFFF0, (32, 40, 64), 24, struct.Struct("<II"), 4, 36),
    _Layout(0xFFFFFFFA, (24, 32, 56), None, struct.Struct("<QQ"), 8, 40),
)
_HEADER_SIZE = 72
_START = struct.Struct("<IBBBBQ")
_WORD = struct.Struct("<Q")


@dataclass(frozen=True, slots=True)
class Function:
    """Machine code in [address, address + size). `func_id` tells the runtime's special functions and the
    wrappers that the compiler made from plain ones (internal/abi.FuncID; the values vary with Go)."""

    name: str
    address: int
    size: int
    func_id: int


class FunctionTable:
    """The table at `address` of `image`. Use `find_function_table`."""

    def __init__(self, image: ElfImage, address: int, layout: _Layout, count: int) -> None:
        self._image = image
        self._layout = layout
        self._count = count
        header = image.read(address, _HEADER_SIZE)
        names, names_end, rows = (_WORD.unpack_from(header, place)[0] for place in layout.tables)
        if not layout.tables[-1] < names < names_end <= rows <= image.room_at(address):
            raise image.unreadable(f"a function table at {address:#x} whose parts overlap")
        self._names, self._names_size = address + names, names_end - names
        self._rows = address + rows
        # Records follow their rows, in order, so the last row bounds the search for one.
        _, last_record = self._row(count - 1)
        self._records_size = min(last_record + layout.func_id + 4, image.room_at(self._rows))
        self._text_start = 0 if layout.text_start is None else self._read_text_start(address, layout.text_start)

    def functions(self, name: str) -> Iterator[Function]:
        """Those called `name`: usually one, or two where it has a wrapper for another calling convention (the
        linker then writes the name twice).

        A name is "package/path.Function" or "package/path.(*Type).Method".
        """
        image, layout = self._image, self._layout
        pattern = b"\0" + name.encode() + b"\0"
        for address in image.find(pattern, self._names, self._names_size):
            wanted = struct.pack("<I", address + 1 - self._names)
            for place in image.find(wanted, self._rows, self._records_size, align=4):
                record = place - layout.name - self._rows
                index = self._index_of(record)
                if index is not None:
                    yield self._function(name, index, record)
                    # Half of the search is saved: a place among the names belongs to one function.
                    break

    def _function(self, name: str, index: int, record: int) -> Function:
        address = self._entry(index)
        size = self._entry(index + 1) - address
        if size <= 0 or not self._image.is_code(address, size):
            raise self._image.unreadable(f"{name} is at {address:#x} with {size} bytes, which is not code")
        # A record begins with the entry that its row has, and rows are in the order of their functions.
        if self._entry_at(self._rows + record) != address or (index and self._entry(index - 1) > address):
            raise self._image.unreadable(f"{name} is at {address:#x} by its row, and elsewhere by what is around it")
        func_id = self._image.read(self._rows + record + self._layout.func_id, 1)[0]
        return Function(name, address, size, func_id)

    def _index_of(self, record: int) -> int | None:
        """The row of the record at this offset; None: no record begins there."""
        low, high = 0, self._count
        while low < high:
            middle = (low + high) // 2
            _, offset = self._row(middle)
            if offset == record:
                return middle
            if offset < record:
                low = middle + 1
            else:
                high = middle
        return None

    def _row(self, index: int) -> tuple[int, int]:
        row = self._layout.row
        entry, record = row.unpack(self._image.read(self._rows + index * row.size, row.size))
        return entry, record

    def _entry(self, index: int) -> int:
        """Address of function `index`; for the number of functions, the address behind the last one."""
        return self._entry_at(self._rows + index * self._layout.row.size)

    def _entry_at(self, place: int) -> int:
        if self._layout.text_start is None:
            return self._image.pointer(place)
        return self._text_start + int.from_bytes(self._image.read(place, self._layout.row.size // 2), "little")

    def _read_text_start(self, address: int, place: int) -> int:
        text_start = self._image.pointer(address + place)
        # Go 1.26 stopped writing it. The module data, which begins with a pointer to this table, has it.
        return text_start or self._module_text(address)

    def _module_text(self, address: int) -> int:
        image = self._image
        for module in image.pointers_to(address):
            if image.room_at(module) < _MODULE_TEXT_RANGES_OFFSET + _MODULE_TEXT_RANGES.size:
                continue
            start = module + _MODULE_TEXT_RANGES_OFFSET
            lowest, highest, text, text_end = (image.pointer(start + word) for word in range(0, 32, 8))
            if text <= lowest < highest <= text_end and image.is_code(text):
                return text
        raise image.unreadable("no module data points to its function table")


def find_function_table(image: ElfImage) -> FunctionTable | None:
    """None: there is none of a known layout. Raises UnreadableBinary if there is, but it is broken."""
    broken: UnreadableBinary | None = None
    for address in _candidates(image):
        if image.room_at(address) < _HEADER_SIZE:
            continue
        magic, *padding, quantum, pointer_size, count = _START.unpack(image.read(address, _START.size))
        layout = next((layout for layout in _LAYOUTS if layout.magic == magic), None)
        if (
            layout is not None
            and not any(padding)
            and quantum == _INSTRUCTION_QUANTUM[image.machine]
            and pointer_size == _POINTER_SIZE
            and 0 < count <= _MOST_FUNCTIONS
        ):
            try:
                return FunctionTable(image, address, layout, count)
            except UnreadableBinary as error:
                # Eight bytes found by search can be anything. The right ones may still come.
                broken = error
    if broken is not None:
        raise broken
    return None


def _candidates(image: ElfImage) -> Iterator[int]:
    for name in _SECTIONS:
        if name in image.sections:
            yield image.sections[name].address
            return
    # An external linker puts the table of a PIE into .data.rel.ro, under no name of its own (Go to 1.25).
    # Code is searched last, as linkers that keep read-only data with code are rare and code is big.
    for segment in sorted(image.segments, key=lambda segment: segment.executable):
        for layout in _LAYOUTS:
            start = struct.pack("<IBBBB", layout.magic, 0, 0, _INSTRUCTION_QUANTUM[image.machine], _POINTER_SIZE)
            yield from image.find(start, segment.address, segment.size, align=8)
