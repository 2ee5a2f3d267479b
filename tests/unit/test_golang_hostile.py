"""Executables made to waste time, and the parts of a Go binary that no compiler here would write."""

import struct
from pathlib import Path

import pytest

from enricher.golang import points as golang_points
from enricher.golang.binary import GoBinary, ReasonCode, UnreadableBinary, inspect
from enricher.golang.binary import _parse_modules as parse_modules
from enricher.golang.elf import ElfImage
from enricher.golang.layouts import RuntimeLayout, runtime_layout
from enricher.golang.pclntab import Function
from enricher.golang.points import SPAN_END_FUNCTION

BASE = 0x400000
HEADERS = 64 + 56
MARK = b"0123456789abcdef"
TABLE_START = struct.pack("<IBBBB", 0xFFFFFFF1, 0, 0, 1, 8)


def executable(content: bytes, *, segments: int = 1, size: int | None = None) -> bytes:
    """An amd64 ELF file with `segments` times the same writable segment, which holds the whole of it."""
    start = 64 + 56 * segments
    total = start + len(content) if size is None else size
    header = struct.pack(
        "<16sHHIQQQIHHHHHH", b"\x7fELF\x02\x01\x01", 2, 62, 1, BASE, 64, 0, 0, 64, 56, segments, 64, 0, 0
    )
    return header + struct.pack("<IIQQQQQQ", 1, 6, 0, BASE, BASE, total, total, 4096) * segments + content


def build_info(version: str, modules: str) -> bytes:
    strings = b""
    for text in (version.encode(), MARK + modules.encode() + MARK):
        assert len(text) < 1 << 14
        strings += bytes([len(text) & 0x7F | 0x80, len(text) >> 7]) + text
    return bytes(-HEADERS % 16) + b"\xff Go buildinf:" + bytes([8, 2]) + bytes(16) + strings


def write(path: Path, content: bytes, size: int | None = None) -> Path:
    path.write_bytes(content)
    if size is not None:
        with path.open("r+b") as stream:
            stream.truncate(size)
    return path


NO_TABLE = ReasonCode.FUNCTIONS_UNREADABLE
SDK = "path\tx\nmod\tx\t(devel)\ndep\tgo.opentelemetry.io/otel/sdk\tv1.47.0\th1:x=\n"


def go_binary(path: Path) -> GoBinary:
    found = inspect(path)
    assert found is not None
    return found


def test_build_information_is_enough_to_tell_a_go_binary(tmp_path: Path) -> None:
    binary = go_binary(write(tmp_path / "x", executable(build_info("go1.26.8", SDK))))
    assert (binary.go_version, binary.main_module, binary.machine) == ("1.26.8", "x", "amd64")
    assert [reason.code for reason in binary.reasons] == [ReasonCode.FUNCTIONS_UNREADABLE]


@pytest.mark.parametrize(
    ("version", "modules", "codes"),
    [
        ("go1.28.0", SDK, [ReasonCode.GO_VERSION_UNKNOWN]),
        ("go1.28.0", "", [ReasonCode.GO_VERSION_UNKNOWN, ReasonCode.MODULES_ABSENT]),
        ("go1.26.8", "path\tcommand-line-arguments\ndep\texample.com/a\tv1.0.0\th1:x=\n", [ReasonCode.SDK_ABSENT]),
        ("go1.26.8", SDK.replace("v1.47.0", "v9.0.0"), [ReasonCode.SDK_VERSION_UNKNOWN, NO_TABLE]),
        ("go1.26.8", SDK + "=>\texample.com/fork\tv1.47.0\th1:x=\n", [ReasonCode.SDK_REPLACED, NO_TABLE]),
    ],
)
def test_what_is_not_known_has_its_reason(version: str, modules: str, codes: list[ReasonCode], tmp_path: Path) -> None:
    binary = go_binary(write(tmp_path / "x", executable(build_info(version, modules))))
    assert binary.span_end is None
    assert [reason.code for reason in binary.reasons] == codes


def test_a_file_full_of_build_information_headers_is_given_up(tmp_path: Path) -> None:
    decoy = b"\xff Go buildinf:" + bytes([4, 0])
    path = write(tmp_path / "x", executable(bytes(-HEADERS % 16) + decoy * 1000))
    with pytest.raises(UnreadableBinary, match="pointers of 4 bytes"):
        inspect(path)


def test_a_file_full_of_function_tables_is_given_up(tmp_path: Path) -> None:
    info = build_info("go1.26.8", SDK)
    decoys = bytes(-(HEADERS + len(info)) % 8) + (TABLE_START + struct.pack("<Q", 1000)) * 400_000
    binary = go_binary(write(tmp_path / "x", executable(info + decoys)))
    assert [str(reason) for reason in binary.reasons] == [
        "its function table cannot be read: needs more than 1024 MiB of reading"
    ]


def test_a_file_that_is_mostly_a_hole_is_given_up(tmp_path: Path) -> None:
    size = 1 << 36
    path = write(tmp_path / "x", executable(b"", size=size), size)
    with pytest.raises(UnreadableBinary, match="MiB of reading"):
        inspect(path)


def test_segments_that_all_cover_the_same_file_are_given_up(tmp_path: Path) -> None:
    size = 64 << 20
    path = write(tmp_path / "x", executable(b"", segments=128, size=size), size)
    with pytest.raises(UnreadableBinary, match="MiB of reading"):
        inspect(path)


@pytest.mark.parametrize(
    ("place", "value", "says"),
    [
        (56, struct.pack("<H", 129), "129 program headers"),
        (56, struct.pack("<H", 0), "0 program headers"),
        (54, struct.pack("<H", 55), "program headers of 55 bytes"),
        (32, struct.pack("<Q", 1 << 63), "are needed"),
        (64 + 32, struct.pack("<Q", 1 << 40), "a segment ends at byte"),
        (64 + 8, struct.pack("<Q", (1 << 64) - 1), "a segment ends at byte"),
        (64 + 16, struct.pack("<Q", (1 << 64) - 1), "leaves the address space"),
    ],
)
def test_headers_that_lie_are_unreadable(place: int, value: bytes, says: str, tmp_path: Path) -> None:
    data = bytearray(executable(build_info("go1.26.8", SDK)))
    data[place : place + len(value)] = value
    with pytest.raises(UnreadableBinary, match=says) as raised:
        inspect(write(tmp_path / "x", bytes(data)))
    assert raised.value.path == str(tmp_path / "x")
    assert raised.value.code == "unreadable_binary"
    assert raised.value.fix


@pytest.mark.parametrize(
    "length", [b"\xff\xff\xff\xff\xff\x7f", b"\xff\xff\xff\xff\x0f", b"\x80\x80\x80\x01", b"\xff\x7f"]
)
def test_build_information_with_a_false_length_is_unreadable(length: bytes, tmp_path: Path) -> None:
    header = bytes(-HEADERS % 16) + b"\xff Go buildinf:" + bytes([8, 2]) + bytes(16)
    with pytest.raises(UnreadableBinary):
        inspect(write(tmp_path / "x", executable(header + length)))


def test_modules_are_read_with_their_replacements() -> None:
    main, modules = parse_modules(
        "path\texample.com/app/cmd\n"
        "mod\texample.com/app\tv1.2.3\t\n"
        "dep\tgithub.com/other/one\tv1.0.0\th1:x=\n"
        "=>\tgo.opentelemetry.io/otel/fake\tv9.9.9\th1:x=\n"
        "dep\tgo.opentelemetry.io/otel\tv1.40.0\th1:x=\n"
        "=>\tgo.opentelemetry.io/otel\tv1.41.0\th1:x=\n"
        "dep\tgo.opentelemetry.io/otel/sdk\tv1.41.0\n"
        "=>\t../fork\t\n"
        "dep\tgo.opentelemetry.io/collector/service\tv0.165.0\th1:x=\n"
        "dep\tgo.opentelemetry.io/collector/pdata\tv1.65.0\th1:x=\n"
        "build\t-buildmode=exe\n"
        "\n"
        "dep\n"
    )
    assert main == "example.com/app"
    assert modules == {
        "go.opentelemetry.io/otel": "v1.41.0",
        "go.opentelemetry.io/otel/sdk": "=> ../fork",
        "go.opentelemetry.io/collector/service": "v0.165.0",
    }


def test_a_collector_is_told_by_its_service_module(tmp_path: Path) -> None:
    modules = SDK + "dep\tgo.opentelemetry.io/collector/service\tv0.165.0\th1:x=\n"
    assert go_binary(write(tmp_path / "x", executable(build_info("go1.26.8", modules)))).is_collector
    assert not go_binary(write(tmp_path / "y", executable(build_info("go1.26.8", SDK)))).is_collector


def image_of(path: Path) -> ElfImage:
    image = ElfImage.open(str(path))
    assert image is not None
    return image


def test_a_search_finds_what_lies_across_two_reads(tmp_path: Path) -> None:
    megabyte = 1 << 20
    content = bytearray(3 * megabyte)
    places = [megabyte - HEADERS - 3, 2 * megabyte - HEADERS - 11, 3 * megabyte - 7]
    for place in places:
        content[place : place + 7] = b"pattern"
    with image_of(write(tmp_path / "x", executable(bytes(content)))) as image:
        found = image.find(b"pattern", BASE, image.room_at(BASE))
        assert list(found) == [BASE + HEADERS + place for place in places]


def test_a_search_counts_its_steps_from_where_it_starts(tmp_path: Path) -> None:
    content = bytearray(100)
    for place in (5, 24, 40, 49, 72):
        content[place] = 0xFF
    with image_of(write(tmp_path / "x", executable(bytes(content)))) as image:
        start = BASE + HEADERS
        assert list(image.find(b"\xff", start, 100, align=24)) == [start + 24, start + 72]
        assert list(image.find(b"\xff", start + 1, 99, align=24)) == [start + 49]
        assert list(image.find(b"\xff", start, 49)) == [start + 5, start + 24, start + 40]


def test_memory_outside_of_the_segments_is_unreadable(tmp_path: Path) -> None:
    with image_of(write(tmp_path / "x", executable(b"end"))) as image:
        last = BASE + HEADERS
        assert image.read(last, 3) == b"end"
        for address, size in ((last, 4), (last + 3, 1), (BASE - 1, 1), (last, -1), (last, 1 << 40)):
            with pytest.raises(UnreadableBinary):
                image.read(address, size)
        with pytest.raises(UnreadableBinary):
            list(image.find(b"x", last, 4))


def test_a_wrapper_of_the_function_is_not_probed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runtime = runtime_layout("go1.26.8")
    assert isinstance(runtime, RuntimeLayout)
    code = bytes.fromhex("493b6610 7610 55 4889e5") + bytes(10)
    info = build_info("go1.26.8", SDK)
    address = BASE + HEADERS + len(info)
    wrapper = Function(SPAN_END_FUNCTION, address, 32, runtime.wrapper_func_id)
    itself = Function(SPAN_END_FUNCTION, address + len(code), 32, 0)

    class Table:
        def functions(self, name: str) -> list[Function]:
            return [wrapper, itself] if name == SPAN_END_FUNCTION else []

    monkeypatch.setattr(golang_points, "find_function_table", lambda _: Table())
    binary = go_binary(write(tmp_path / "x", executable(info + code * 3)))
    assert [reason.code for reason in binary.reasons] == [ReasonCode.FUNCTION_ABSENT]  # of the start of spans
    point = binary.span_end
    assert point is not None
    assert (point.address, point.file_offset) == (itself.address + 6, itself.address + 6 - BASE)


def test_a_name_that_two_functions_have_is_not_probed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = bytes.fromhex("493b6610 7610 55 4889e5") + bytes(10)
    info = build_info("go1.26.8", SDK)
    address = BASE + HEADERS + len(info)
    both = [Function(SPAN_END_FUNCTION, start, len(code), 0) for start in (address, address + len(code))]

    class Table:
        def functions(self, name: str) -> list[Function]:
            return both if name == SPAN_END_FUNCTION else []

    monkeypatch.setattr(golang_points, "find_function_table", lambda _: Table())
    binary = go_binary(write(tmp_path / "x", executable(info + code * 3)))
    assert binary.span_end is None
    assert [str(reason) for reason in binary.reasons] == [
        f"its function table has several functions called {SPAN_END_FUNCTION}"
    ]
