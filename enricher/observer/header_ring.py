"""The ring buffer `header_blocks` of probes/headers.bpf.c: its records as they are, of several sizes.

In plain Python, other than the ring of the events: it carries a record for each HTTP/2 request of processes whose spans
cannot be told in a better way, and decoding one costs many times what reading it here does.
"""

import ctypes
import mmap
from struct import Struct

_BUSY = 1 << 31
_DISCARDED = 1 << 30
_HEADER = Struct("=I4x")


class HeaderRing:
    """Reads a BPF ring buffer. Layout: Documentation/bpf/ringbuf.rst and kernel/bpf/ringbuf.c, Linux 5.8: one page with
    the consumer's position, one with the producer's, then the data, mapped twice so that no record is ever split."""

    def __init__(self, map_fd: int, size: int) -> None:
        """`size`: the map's max_entries, in bytes. Raises OSError if it cannot be mapped."""
        page = mmap.PAGESIZE
        self._size = size
        self._consumer = mmap.mmap(map_fd, page)
        # The kernel reads this at any moment, so that it has to be written by one store.
        self._consumed = ctypes.c_uint64.from_buffer(self._consumer)
        self._rest = memoryview(mmap.mmap(map_fd, page + 2 * size, prot=mmap.PROT_READ, offset=page))
        self._produced = self._rest[:8].cast("Q")
        self._data = self._rest[page:]

    def read(self) -> tuple[list[bytes], bool]:
        """Every record up to the first that is still being written, and whether that was all there was when the call
        began."""
        at, until = self._consumed.value, self._produced[0]
        records: list[bytes] = []
        while at < until:
            start = at % self._size
            (header,) = _HEADER.unpack_from(self._data, start)
            if header & _BUSY:
                break
            length = header & ~_DISCARDED
            if not header & _DISCARDED:
                records.append(bytes(self._data[start + 8 : start + 8 + length]))
            at += (length + 15) & ~7
        if records or at != self._consumed.value:
            self._consumed.value = at
        return records, at >= until
