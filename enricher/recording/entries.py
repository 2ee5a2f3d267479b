"""What a recording is made of: six kinds of entries, each packed as kind, length and content.

Numbers are little-endian. Times are CLOCK_MONOTONIC in ns unless they say otherwise.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum, IntEnum
from struct import Struct
from typing import ClassVar, Final

from enricher.evidence.records import RECORD_SIZE

_ENTRY: Final = Struct("<BI")  # kind, length of the content
_EVIDENCE: Final = Struct("<Q")
_CLOCK: Final = Struct("<QQ")
_ARRIVAL: Final = Struct("<QQH")
_DECISION: Final = Struct("<QQqBQ")
_SAMPLING: Final = Struct("<dQ??")
NOT_SETTLED: Final = -1


class Kind(IntEnum):
    EVIDENCE = 1
    CLOCK_SAMPLE = 2
    ARRIVAL = 3
    DECISION = 4
    END = 5
    SAMPLING = 6


class Verdict(IntEnum):
    """What became of a request when it was decided."""

    UNTOUCHED = 1  # it left as the bytes it came in
    CHANGED = 2
    OPEN = 3  # not decided yet: evidence may still come
    FAULT = 4  # a rule failed: it left untouched
    TOO_LARGE = 5  # claims would have made it larger than a receiver takes: it left untouched


class EndReason(Enum):
    """Why a recording ends where it does. The value is for people."""

    STOPPED = "the enricher was stopped"
    SIZE = "it has reached its greatest size"
    TIME = "it has lasted for as long as was asked for"
    SLOW = "spans came faster than the file could be written"


class MalformedEntry(ValueError):
    """The bytes are not an entry, though their checksum was right."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """What one look into the evidence log brought: packed `Event`s, with heartbeats and OVERTAKEN."""

    kind: ClassVar[Kind] = Kind.EVIDENCE
    read_ns: int
    records: bytes

    def pieces(self) -> tuple[bytes, ...]:
        """The content; in pieces, as what is long need not be copied."""
        return _EVIDENCE.pack(self.read_ns), self.records


@dataclass(frozen=True, slots=True)
class ClockSample:
    """What two clocks said at one moment."""

    kind: ClassVar[Kind] = Kind.CLOCK_SAMPLE
    monotonic_ns: int
    realtime_ns: int

    def pieces(self) -> tuple[bytes, ...]:
        return (_CLOCK.pack(self.monotonic_ns, self.realtime_ns),)


@dataclass(frozen=True, slots=True)
class Arrival:
    """A request has come. `peer` in gRPC's notation, `body` as it was received."""

    kind: ClassVar[Kind] = Kind.ARRIVAL
    number: int
    arrived_ns: int
    peer: str
    body: bytes

    def pieces(self) -> tuple[bytes, ...]:
        peer = self.peer.encode(errors="replace")[:0xFFFF]
        return _ARRIVAL.pack(self.number, self.arrived_ns, len(peer)), peer, self.body


@dataclass(frozen=True, slots=True)
class Decision:
    """A request was decided, or was to be."""

    kind: ClassVar[Kind] = Kind.DECISION
    number: int  # of its arrival
    at_ns: int
    settled_ns: int | None  # as `Window.settled_ns` then
    verdict: Verdict
    open_until_ns: int = 0  # of verdict OPEN
    body: bytes = b""  # of verdict CHANGED, what left

    def pieces(self) -> tuple[bytes, ...]:
        settled_ns = NOT_SETTLED if self.settled_ns is None else self.settled_ns
        return _DECISION.pack(self.number, self.at_ns, settled_ns, self.verdict, self.open_until_ns), self.body


@dataclass(frozen=True, slots=True)
class End:
    """The recording was ended, and is whole."""

    kind: ClassVar[Kind] = Kind.END
    reason: EndReason

    def pieces(self) -> tuple[bytes, ...]:
        return (self.reason.name.encode(),)


@dataclass(frozen=True, slots=True)
class Sampling:
    """From here on spans are sampled so; as of processors.sampling. Without one, none is left out."""

    kind: ClassVar[Kind] = Kind.SAMPLING
    ratio: float
    slow_ns: int
    keep_errors: bool
    keep_evidence: bool

    def pieces(self) -> tuple[bytes, ...]:
        return (_SAMPLING.pack(self.ratio, self.slow_ns, self.keep_errors, self.keep_evidence),)


Entry = Evidence | ClockSample | Arrival | Decision | End | Sampling


def packed(entry: Entry) -> tuple[bytes, ...]:
    """To be written one after the other."""
    pieces = entry.pieces()
    return _ENTRY.pack(entry.kind, sum(map(len, pieces))), *pieces


def unpacked(data: bytes) -> Iterator[Entry]:
    """The entries in `data`. Raises MalformedEntry."""
    at = 0
    while at < len(data):
        if len(data) - at < _ENTRY.size:
            raise MalformedEntry("the last entry is not whole")
        kind, length = _ENTRY.unpack_from(data, at)
        at += _ENTRY.size
        content = memoryview(data)[at : at + length]
        if len(content) != length:
            raise MalformedEntry("the last entry is not whole")
        yield _unpacked(kind, content)
        at += length


def _unpacked(kind: int, content: memoryview) -> Entry:
    try:
        return _READERS[Kind(kind)](content)
    except (ValueError, KeyError) as error:  # of UnicodeDecodeError, and of numbers that no enum has
        raise MalformedEntry(f"an entry of kind {kind} makes no sense: {error}") from error


def _head(struct: Struct, content: memoryview) -> tuple[int, ...]:
    if len(content) < struct.size:
        raise ValueError(f"{len(content)} bytes are too few")
    return struct.unpack_from(content)


def _evidence(content: memoryview) -> Evidence:
    (read_ns,) = _head(_EVIDENCE, content)
    records = bytes(content[_EVIDENCE.size :])
    if len(records) % RECORD_SIZE:
        raise ValueError(f"{len(records)} bytes are no whole records")
    return Evidence(read_ns, records)


def _clock(content: memoryview) -> ClockSample:
    monotonic_ns, realtime_ns = _head(_CLOCK, content)
    return ClockSample(monotonic_ns, realtime_ns)


def _arrival(content: memoryview) -> Arrival:
    number, arrived_ns, length = _head(_ARRIVAL, content)
    body_at = _ARRIVAL.size + length
    if body_at > len(content):
        raise ValueError("the sender's address is not whole")
    peer = bytes(content[_ARRIVAL.size : body_at]).decode(errors="replace")
    return Arrival(number, arrived_ns, peer, bytes(content[body_at:]))


def _decision(content: memoryview) -> Decision:
    number, at_ns, settled_ns, verdict, open_until_ns = _head(_DECISION, content)
    return Decision(
        number,
        at_ns,
        None if settled_ns == NOT_SETTLED else settled_ns,
        Verdict(verdict),
        open_until_ns,
        bytes(content[_DECISION.size :]),
    )


def _end(content: memoryview) -> End:
    return End(EndReason[bytes(content).decode()])


def _sampling(content: memoryview) -> Sampling:
    if len(content) != _SAMPLING.size:
        raise ValueError(f"{len(content)} bytes are not {_SAMPLING.size}")
    ratio, slow_ns, keep_errors, keep_evidence = _SAMPLING.unpack(content)
    if not 0 <= ratio <= 1:
        raise ValueError(f"a ratio of {ratio}")
    return Sampling(ratio, slow_ns, keep_errors, keep_evidence)


_READERS: Final[Mapping[Kind, Callable[[memoryview], Entry]]] = {
    Kind.EVIDENCE: _evidence,
    Kind.CLOCK_SAMPLE: _clock,
    Kind.ARRIVAL: _arrival,
    Kind.DECISION: _decision,
    Kind.END: _end,
    Kind.SAMPLING: _sampling,
}
