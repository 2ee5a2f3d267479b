"""The interface of a match method. What it may ask of the evidence index is in enricher/_native.pyi."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from enricher._native import Request as ScannedRequest
from enricher.join.evidence import SpanEvidence


@dataclass(frozen=True, slots=True)
class Method:
    """A method's declaration."""

    name: str  # value of ebpf.match.method
    summary: str
    exact: bool
    needs: tuple[str, ...]  # probes, by their names in the configuration


@dataclass(frozen=True, slots=True)
class Window:
    """What turns a span's own times into the kernel's, and how much of them counts."""

    clock_ns: int  # CLOCK_REALTIME - CLOCK_MONOTONIC
    tail_ns: int
    threshold_ns: int
    settled_ns: int | None = None  # tails that may still change, and reach beyond, are not decided; None: all are


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
    open_until_ns: int = 0  # a tail may still change until then (see Window), and nothing else is told; 0: none
    identified: Sequence[int] = field(default=(), repr=False)


class MatchMethod(Protocol):
    """A method at work."""

    method: Method

    def saw(self, request: Request, window: Window) -> None:
        """A request has come; it is matched later. For methods that need to know a span's neighbours."""

    def match(self, request: Request, unmatched: Sequence[int] | None, window: Window) -> Match:
        """Ties the spans at `unmatched` (None: all)."""
