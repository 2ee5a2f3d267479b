"""`traceparent` in HTTP/2: the header blocks that probes/headers.bpf.c hands over, decoded.

HPACK (RFC 7541) says a header by its place in a table that all header blocks of the connection have built. So a
connection is followed from its first block on, each block is decoded whether or not it matters, and after anything that
was not understood the rest of the connection is left alone: a table that is wrong once gives wrong headers ever after.
The process made these bytes, or somebody who sends it requests: all that is done with them is bounded, the time it
takes, too.
"""

import re
import time
from collections.abc import Callable, Container
from dataclasses import dataclass, field
from enum import IntEnum, IntFlag
from struct import Struct
from typing import TYPE_CHECKING, Protocol, Self

from enricher.evidence.records import Event, EventFlag, EventKind, FdType, SpanIds

if TYPE_CHECKING:
    from hpack import Decoder

CONNECTION_LIMIT = 1024
BLOCK_LIMIT = 16 << 10  # bytes of a header block as it came, of any of its connection's frames, too
LIST_LIMIT = 32 << 10  # bytes of the headers that it stands for: one byte may stand for 4 KiB
# hpack takes 32 us for the block of a gRPC request. It gets this part of a core, and after a rest more for a while.
_SHARE = 4
_BURST_NS = 100_000_000

_RECORD = Struct("<QQQQIIiIIHHBBBBB3x")  # struct header_block in probes/http2.h
_LENGTH_AT = 9

# W3C Trace Context, 3.2. Version 00 ends here, a later one may go on behind a dash; ff is none.
_TRACEPARENT = re.compile(rb"(?!ff)([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-[0-9a-f]{2}(-.*)?", re.DOTALL)


class _Kind(IntEnum):
    """`enum block_kind` in probes/http2.h."""

    PIECE = 1
    CLOSED = 2


class _FrameType(IntEnum):
    """Those that carry header blocks (RFC 9113, 6.2 and 6.10)."""

    HEADERS = 1
    CONTINUATION = 9


class _FrameFlag(IntFlag):
    END_HEADERS = 0x04
    PADDED = 0x08
    PRIORITY = 0x20


class _NotUnderstood(Exception):
    """The connection cannot be followed any further."""


@dataclass(slots=True)
class HeaderStatistics:
    """Counts since the start, for the log."""

    blocks: int = 0  # decoded
    traceparents: int = 0
    connections: int = 0
    given_up: int = 0  # connections that were not understood, or for which there was no time or no room


@dataclass(frozen=True, slots=True)
class _Piece:
    """A record: bytes of one frame's payload, or that the connection was closed."""

    content: bytes
    opened_ns: int
    now_ns: int
    goid: int
    parent_goid: int
    tgid: int
    tid: int
    fd: int
    left: int
    stream: int
    syscall: int
    kind: int
    written: int
    frame_type: int
    frame_flags: int
    is_first: int

    @classmethod
    def read(cls, record: bytes) -> Self:
        fields = list(_RECORD.unpack_from(record))
        length = fields.pop(_LENGTH_AT)
        return cls(record[_RECORD.size : _RECORD.size + length], *fields)


@dataclass(slots=True)
class _Connection:
    opened_ns: int
    decoder: "Decoder"
    payload: bytearray = field(default_factory=bytearray)  # of the frame that is not yet whole
    block: bytearray = field(default_factory=bytearray)  # of the header block that is not yet whole


class Ring(Protocol):
    """Where the records come from: a `HeaderRing`."""

    def read(self) -> tuple[list[bytes], bool]: ...


class HeaderBlocks:
    """Makes events of the header blocks of all connections."""

    def __init__(self, ring: Ring, clock: Callable[[], int] = time.monotonic_ns, burst_ns: int = _BURST_NS) -> None:
        self.statistics = HeaderStatistics()
        self._ring = ring
        self._clock = clock
        # By process and descriptor; whoever was silent for longest comes first.
        self._connections: dict[tuple[int, int], _Connection] = {}
        self._burst_ns = burst_ns
        self._budget_ns = burst_ns
        self._budget_at_ns = clock()

    def drain(self) -> tuple[list[Event], bool]:
        """An event for each request with a valid traceparent, and whether that is all up to now: False where a
        record was still being written."""
        records, caught_up = self._ring.read()
        if not records:
            return [], caught_up
        now_ns = self._clock()
        self._budget_ns = min(self._budget_ns + (now_ns - self._budget_at_ns) // _SHARE, self._burst_ns)
        self._budget_at_ns = now_ns
        events = []
        for record in records:
            piece = _Piece.read(record)
            event = self._take(piece)
            if event is not None:
                events.append(event)
        self.statistics.traceparents += len(events)
        return events, caught_up

    def forget(self, watched: Container[int]) -> None:
        """Drops the connections of processes that are not watched any more: their end is not told."""
        for key in [key for key in self._connections if key[0] not in watched]:
            del self._connections[key]

    def _take(self, piece: _Piece) -> Event | None:
        key = (piece.tgid, piece.fd)
        connection = self._connections.pop(key, None)
        if connection is None or connection.opened_ns != piece.opened_ns:
            # One that is not known from its first block on has been given up, or stays unknown.
            if not piece.is_first or piece.kind == _Kind.CLOSED:
                return None
            connection = self._open(piece)
        if piece.kind == _Kind.CLOSED:
            return None
        try:
            event = self._add(connection, piece)
        except _NotUnderstood:
            self.statistics.given_up += 1
            return None
        self._connections[key] = connection
        return event

    def _open(self, piece: _Piece) -> _Connection:
        from hpack import Decoder

        if len(self._connections) >= CONNECTION_LIMIT:
            del self._connections[next(iter(self._connections))]
            self.statistics.given_up += 1
        self.statistics.connections += 1
        # Its table is bounded by what an encoder may use unasked, 4 KiB: servers that offer more are rare.
        return _Connection(piece.opened_ns, Decoder(max_header_list_size=LIST_LIMIT))

    def _add(self, connection: _Connection, piece: _Piece) -> Event | None:
        connection.payload += piece.content
        if len(connection.payload) + len(connection.block) > BLOCK_LIMIT:
            raise _NotUnderstood
        if piece.left:
            return None
        flags = _FrameFlag(piece.frame_flags)
        is_headers = piece.frame_type == _FrameType.HEADERS
        connection.block += _without_padding(connection.payload, flags) if is_headers else connection.payload
        connection.payload.clear()
        if not flags & _FrameFlag.END_HEADERS:
            return None
        block = bytes(connection.block)
        connection.block.clear()
        return _event(piece, self._decode(connection.decoder, block))

    def _decode(self, decoder: "Decoder", block: bytes) -> SpanIds | None:
        from hpack import HPACKError

        if self._budget_ns <= 0:
            raise _NotUnderstood
        began_ns = time.thread_time_ns()
        try:
            headers = list(decoder.decode(block, raw=True))
        except HPACKError as error:
            raise _NotUnderstood from error
        finally:
            self._budget_ns -= time.thread_time_ns() - began_ns
        self.statistics.blocks += 1
        # Of several a service takes whichever it likes; a block without a method is a trailer.
        values = [value for name, value, *_ in headers if name == b"traceparent"]
        is_request = any(name == b":method" for name, *_ in headers)
        return read_traceparent(bytes(values[0])) if is_request and len(values) == 1 else None


def read_traceparent(value: bytes) -> SpanIds | None:
    """The ids in the value of such a header, None where it is not valid."""
    found = _TRACEPARENT.fullmatch(value)
    if found is None or (found[1] == b"00" and found[4]):
        return None
    trace_id, span_id = bytes.fromhex(found[2].decode()), bytes.fromhex(found[3].decode())
    return SpanIds(trace_id=trace_id, span_id=span_id) if any(trace_id) and any(span_id) else None


def _without_padding(payload: bytearray, flags: _FrameFlag) -> bytearray:
    start, end = 0, len(payload)
    if flags & _FrameFlag.PADDED:
        if not payload:
            raise _NotUnderstood
        start, end = 1, end - payload[0]
    if flags & _FrameFlag.PRIORITY:
        start += 5
    if start > end:
        raise _NotUnderstood
    return payload[start:end]


def _event(piece: _Piece, span: SpanIds | None) -> Event | None:
    if span is None:
        return None
    # Other requests are under way on the connection, and the goroutine is not the one that handles this one.
    flags = EventFlag.CALL_MULTIPLEXED | (EventFlag.TRACEPARENT_WRITTEN if piece.written else 0)
    return Event(
        kind=EventKind.TRACEPARENT,
        start_ns=piece.now_ns,
        end_ns=piece.now_ns,
        goid=piece.goid,
        parent_goid=piece.parent_goid,
        tgid=piece.tgid,
        tid=piece.tid,
        flags=flags,
        syscall=piece.syscall,
        fd=piece.fd,
        fd_type=FdType.SOCKET,
        detail=span.pack(),
    )
