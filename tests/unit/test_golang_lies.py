"""A real program whose function table does not tell the truth gets no probe where none belongs."""

import random
import re
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from elftools.elf.elffile import ELFFile

from enricher.golang.binary import GoBinary, ReasonCode
from enricher.golang.elf import ElfImage
from enricher.golang.pclntab import find_function_table
from enricher.golang.points import (
    GOROUTINE_MAKER_FUNCTION,
    GOROUTINE_QUEUE_FUNCTION,
    SPAN_END_FUNCTION,
    SPAN_START_FUNCTION,
)
from enricher.golang.probe_point import ProbePoint
from tests.unit.golang_builds import Build, Variant, inspected

PROGRAM = Variant("./clients", machine="amd64")
HTTP_FUNCTION = "net/http.(*persistConn).roundTrip"
FUNCTIONS = (SPAN_END_FUNCTION, SPAN_START_FUNCTION, GOROUTINE_MAKER_FUNCTION, GOROUTINE_QUEUE_FUNCTION, HTTP_FUNCTION)

STACK_CHECK = re.compile(rb"\x3b\x66\x10(?:\x76.|\x0f\x86.{4})\Z", re.DOTALL)
NAME_IN_RECORD = 4
WORD = struct.Struct("<I")


@dataclass(frozen=True)
class Place:
    """Where in the file a function's row, its record and its code are."""

    row: int
    record: int
    code: int
    size: int


@pytest.fixture(scope="module")
def honest(build: Build) -> bytes:
    return build(PROGRAM).read_bytes()


@pytest.fixture(scope="module")
def places(build: Build) -> dict[str, Place]:
    found: dict[str, Place] = {}
    image = ElfImage.open(str(build(PROGRAM)))
    assert image is not None
    with image:
        table = find_function_table(image)
        assert table is not None
        for name in FUNCTIONS:
            (function,) = table.functions(name)
            pattern = b"\0" + name.encode() + b"\0"
            (address,) = image.find(pattern, table._names, table._names_size)
            wanted = WORD.pack(address + 1 - table._names)
            for place in image.find(wanted, table._rows, table._records_size, align=4):
                record = place - NAME_IN_RECORD
                index = table._index_of(record - table._rows)
                if index is not None:
                    row = image.offset_of(table._rows) + 8 * index
                    found[name] = Place(row, image.offset_of(record), image.offset_of(function.address), function.size)
    return found


@pytest.fixture
def lie(honest: bytes, tmp_path: Path) -> Callable[..., GoBinary]:
    """Inspects the program with words of its file, by their offsets, replaced."""

    def inspect_lie(words: dict[int, int]) -> GoBinary:
        data = bytearray(honest)
        for place, word in words.items():
            WORD.pack_into(data, place, word % (1 << 32))
        path = tmp_path / "lie"
        path.write_bytes(data)
        return inspected(path)

    return inspect_lie


def word(data: bytes, place: int) -> int:
    found: int = WORD.unpack_from(data, place)[0]
    return found


def points(binary: GoBinary) -> list[ProbePoint]:
    named = (binary.span_end, binary.span_start, binary.goroutine_made, binary.goroutine_exit)
    return [*(point for point in named if point is not None), *(call.point for call in binary.calls)]


def codes(binary: GoBinary) -> list[ReasonCode]:
    return [reason.code for reason in binary.reasons]


def test_the_program_itself_has_all_points(build: Build, places: dict[str, Place]) -> None:
    assert len(points(inspected(build(PROGRAM)))) == 9
    assert set(places) == set(FUNCTIONS)


def test_a_row_that_its_record_contradicts_is_not_believed(
    lie: Callable[..., GoBinary], honest: bytes, places: dict[str, Place]
) -> None:
    start = places[SPAN_START_FUNCTION]
    binary = lie({start.row: word(honest, start.row) + 64})
    assert (binary.span_start, binary.goroutine_made) == (None, None)
    assert "elsewhere by what is around it" in binary.reasons[0].sentence


@pytest.mark.parametrize("by", [1, 5, 18, -16])
def test_a_function_that_is_said_to_begin_elsewhere_is_not_probed(
    by: int, lie: Callable[..., GoBinary], honest: bytes, places: dict[str, Place]
) -> None:
    start = places[SPAN_START_FUNCTION]
    entry = word(honest, start.row) + by
    binary = lie({start.row: entry, start.record: entry})
    assert (binary.span_start, binary.goroutine_made) == (None, None)
    assert codes(binary) == [ReasonCode.PROBE_POINT_UNKNOWN]


@pytest.mark.parametrize("entry", [-(1 << 20), 1 << 30, 0, 1 << 20])
def test_a_function_that_is_said_to_be_outside_of_the_code_or_inside_of_others_is_not_probed(
    entry: int, lie: Callable[..., GoBinary], honest: bytes, places: dict[str, Place]
) -> None:
    start = places[SPAN_START_FUNCTION]
    binary = lie({start.row: entry, start.record: entry})
    assert binary.span_start is None
    assert codes(binary) == [ReasonCode.FUNCTIONS_UNREADABLE]


def test_a_call_of_something_else_is_not_probed(
    lie: Callable[..., GoBinary], honest: bytes, places: dict[str, Place]
) -> None:
    queue = places[GOROUTINE_QUEUE_FUNCTION]
    entry = word(honest, queue.row) + 16
    binary = lie({queue.row: entry, queue.record: entry})
    assert binary.goroutine_made is None
    assert codes(binary) == [ReasonCode.PROBE_POINT_UNKNOWN]
    assert len(points(binary)) == 8


def test_two_calls_are_as_bad_as_none(lie: Callable[..., GoBinary], honest: bytes, places: dict[str, Place]) -> None:
    maker, queue = places[GOROUTINE_MAKER_FUNCTION], places[GOROUTINE_QUEUE_FUNCTION]
    spare = maker.code + maker.size - 5
    distance = queue.code - (spare + 5)
    binary = lie({spare - 3: (0xE8 << 24) | (word(honest, spare - 3) & 0xFFFFFF), spare + 1: distance})
    assert binary.goroutine_made is None
    assert codes(binary) == [ReasonCode.PROBE_POINT_UNKNOWN]


def test_a_maker_of_goroutines_of_any_size_is_not_searched(
    lie: Callable[..., GoBinary], honest: bytes, places: dict[str, Place]
) -> None:
    behind = places[GOROUTINE_MAKER_FUNCTION].row + 8
    binary = lie({behind: word(honest, behind) + (1 << 19)})
    assert binary.goroutine_made is None
    assert codes(binary) == [ReasonCode.PROBE_POINT_UNKNOWN]


def test_a_table_in_which_all_functions_have_one_name_is_given_up(
    honest: bytes, places: dict[str, Place], tmp_path: Path
) -> None:
    first = min(place.record for place in places.values())
    last = max(place.record for place in places.values())
    name = honest[places[SPAN_END_FUNCTION].record :][NAME_IN_RECORD : NAME_IN_RECORD + 4]
    path = tmp_path / "lie"
    path.write_bytes(honest[:first] + name * ((last - first) // 4) + honest[first + (last - first) // 4 * 4 :])
    binary = inspected(path)
    assert not {point.function for point in points(binary)} & set(FUNCTIONS)
    assert ReasonCode.FUNCTIONS_UNREADABLE in codes(binary)


def test_whatever_is_damaged_a_point_is_a_known_instruction_in_code(
    honest: bytes, places: dict[str, Place], tmp_path: Path
) -> None:
    path = tmp_path / "damaged"
    path.write_bytes(honest)
    with path.open("rb") as stream:
        code = [
            (segment["p_offset"], segment["p_offset"] + segment["p_filesz"])
            for segment in ELFFile(stream).iter_segments("PT_LOAD")
            if segment["p_flags"] & 1
        ]
    bytes_read = [
        place for p in places.values() for place in (*range(p.row, p.row + 12), *range(p.record, p.record + 44))
    ]
    bytes_read += [place for p in places.values() for place in range(p.code, p.code + 24)]
    maker = places[GOROUTINE_MAKER_FUNCTION]
    bytes_read += range(maker.code, maker.code + maker.size)
    chance = random.Random(1)
    found: set[int] = set()
    for _ in range(150):
        data = bytearray(honest)
        for place in chance.sample(bytes_read, chance.choice((1, 2, 4, 16))):
            data[place] = chance.choice((0, 0x55, 0x7F, 0xE8, 0xFF, chance.randrange(256)))
        path.write_bytes(data)
        told = points(inspected(path))
        found.add(len(told))
        for point in told:
            at = point.file_offset
            assert any(start <= at < end for start, end in code), point
            if point.instruction == "call":
                assert data[at] == 0xE8
            else:
                assert point.instruction in ("push %rbp", "jbe")
                jump_ends = at if point.instruction == "push %rbp" else at + (2 if data[at] == 0x76 else 6)
                assert STACK_CHECK.search(data[jump_ends - 9 : jump_ends]), point
    assert {4, 5, 6, 7} <= found
