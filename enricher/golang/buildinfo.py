"""The build information that the Go linker leaves in every binary, stripped or not.

Layout: debug/buildinfo in Go's standard library. Up to Go 1.17 the header points to two Go strings,
from Go 1.18 on the two strings follow it with their lengths as varints.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from enricher.golang.elf import ElfImage

_MAGIC = b"\xff Go buildinf:"
_ALIGN = 16
_HEADER = struct.Struct("<14sBBQQ")
_GO_STRING = struct.Struct("<QQ")
_FLAG_BIG_ENDIAN, _FLAG_INLINE = 1, 2
_POINTER_SIZE = 8

# The module list stands between two marks of 16 bytes, by which tools find it in a running process.
_MARK_SIZE = 16

# kubelet, with some 200 modules, has 20 KB of them.
_LONGEST_STRING = 1 << 20
_VARINT_BYTES = 5


@dataclass(frozen=True, slots=True)
class BuildInfo:
    """`go_version` as the toolchain calls itself ("go1.26.8", "devel go1.28-3f0a..."). `modules` is the text
    that `go version -m` prints, without its indent; empty where the build tool recorded no modules."""

    go_version: str
    modules: str


def read_build_info(image: ElfImage) -> BuildInfo | None:
    """None: no Go binary. Raises UnreadableBinary where a header is there that makes no sense."""
    for address in _candidates(image):
        data = image.read(address, _HEADER.size)
        magic, pointer_size, flags, _, _ = _HEADER.unpack(data)
        if magic != _MAGIC:
            continue
        if flags & _FLAG_INLINE:
            version, after = _inline_string(image, address + _HEADER.size)
            modules, _ = _inline_string(image, after)
        elif pointer_size == _POINTER_SIZE and not flags & _FLAG_BIG_ENDIAN:
            version = _pointed_string(image, address + 16)
            modules = _pointed_string(image, address + 24)
        else:
            raise image.unreadable(f"build information for pointers of {pointer_size} bytes")
        return BuildInfo(version.decode("utf-8", "replace"), _unmarked(modules).decode("utf-8", "replace"))
    return None


def _candidates(image: ElfImage) -> Iterator[int]:
    if image.sections:
        section = image.sections.get(".go.buildinfo")
        if section is not None:
            yield section.address
        return
    for segment in image.segments:
        if segment.writable:
            yield from image.find(_MAGIC, segment.address, segment.size, align=_ALIGN)


def _inline_string(image: ElfImage, address: int) -> tuple[bytes, int]:
    """The string at `address` and the address behind it."""
    length = 0
    for index, byte in enumerate(image.read(address, min(_VARINT_BYTES, image.room_at(address)))):
        length |= (byte & 0x7F) << 7 * index
        if byte < 0x80:
            return _bounded(image, address + index + 1, length), address + index + 1 + length
    raise image.unreadable("build information with a length that does not end")


def _pointed_string(image: ElfImage, address: int) -> bytes:
    """The string whose Go header the pointer at `address` points to."""
    header = image.pointer(address)
    _, length = _GO_STRING.unpack(image.read(header, _GO_STRING.size))
    return _bounded(image, image.pointer(header), length)


def _bounded(image: ElfImage, address: int, length: int) -> bytes:
    if length > _LONGEST_STRING:
        raise image.unreadable(f"build information of {length} bytes")
    return image.read(address, length) if length else b""


def _unmarked(modules: bytes) -> bytes:
    return modules[_MARK_SIZE:-_MARK_SIZE] if len(modules) > 2 * _MARK_SIZE else b""
