"""The interface of a match method, and what it may ask of the evidence index."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from enricher.join.evidence import SpanEvidence, Wait


@dataclass(frozen=True, slots=True)
class Method:
    """A method's declaration."""

    name: str  # value of ebpf.match.method
    summary: str
    exact: bool
    needs: tuple[str, ...]  # probes, by their names in the configuration


class Span(Protocol):
    """The fields of a span that identity needs, as in OTLP; ids are b"" where they are not of their length."""

    @property
    def trace_id(self) -> bytes: ...
    @property
    def span_id(self) -> bytes: ...
    @property
    def parent_span_id(self) -> bytes: ...
    @property
    def start_unix_ns(self) -> int: ...
    @property
    def end_unix_ns(self) -> int: ...


class ScannedRequest(Protocol):
    """One export request, scanned."""

    @property
    def body(self) -> bytes: ...
    @property
    def span_count(self) -> int: ...
    @property
    def last_end_unix_ns(self) -> int: ...
    def spans(self) -> Sequence[Span]: ...
    def splice(self, patches: list[tuple[int, bytes]]) -> bytes: ...


class NativeMatch(Protocol):
    """What the index found by span ends."""

    @property
    def evidence(self) -> list[SpanEvidence]: ...
    @property
    def incomplete(self) -> list[int]: ...
    @property
    def matched(self) -> int: ...
    @property
    def unmatched(self) -> list[int]: ...
    @property
    def open_until_ns(self) -> int: ...


class Index(Protocol):
    """The evidence index, as far as the methods ask it. Times are CLOCK_MONOTONIC in ns."""

    @property
    def watched_without_span_ends(self) -> int: ...
    def match(self, request: ScannedRequest, clock_ns: int, tail_ns: int, threshold_ns: int) -> NativeMatch: ...
    def sender(self, peer: str) -> int | None: ...
    def process(self, tgid: int) -> tuple[int, int] | None: ...
    def kernel_waits(self, tgid: int, start_ns: int, end_ns: int) -> Sequence[Wait]: ...
    def lost(self, start_ns: int, end_ns: int, tgid: int) -> bool: ...


@dataclass(frozen=True, slots=True)
class Window:
    """What turns a span's own times into the kernel's, and how much of them counts."""

    clock_ns: int  # CLOCK_REALTIME - CLOCK_MONOTONIC
    tail_ns: int
    threshold_ns: int


@dataclass(frozen=True, slots=True)
class Request:
    """A scanned request and who sent it (`ipv4:127.0.0.1:5555`, in gRPC's notation; costs a call to learn)."""

    scanned: ScannedRequest
    peer: Callable[[], str]


@dataclass(frozen=True, slots=True)
class Match:
    """What a method found among the spans it was given. Numbers in lists are places of spans in the request."""

    matched: int = 0  # spans whose identity it found, with evidence or without
    evidence: Sequence[SpanEvidence] = ()
    incomplete: Sequence[int] = ()  # matched, nothing found, but evidence for them was lost
    unmatched: Sequence[int] = ()
    open_until_ns: int = 0  # the tails of matched spans may still change until then; 0: they may not
    identified: Sequence[int] = field(default=(), repr=False)


class MatchMethod(Protocol):
    """A method at work."""

    method: Method

    def saw(self, request: Request, window: Window) -> None:
        """A request has come; it is matched later. For methods that need to know a span's neighbours."""

    def match(self, request: Request, unmatched: Sequence[int] | None, window: Window) -> Match:
        """Ties the spans at `unmatched` (None: all)."""
