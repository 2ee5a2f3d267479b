"""The interface of a match method. What it may ask of the evidence index is in enricher/_native.pyi."""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from operator import itemgetter
from typing import Protocol

from enricher._native import Request as ScannedRequest
from enricher._native import Span
from enricher.join.evidence import SpanEvidence
from enricher.join.explanation import Trial


@dataclass(frozen=True, slots=True)
class Method:
    """A method's declaration."""

    name: str  # value of ebpf.match.method
    summary: str
    exact: bool
    needs: tuple[str, ...]  # probes, by their names in the configuration


@dataclass(frozen=True, slots=True)
class Window:
    """How much of a span's time counts."""

    tail_ns: int
    threshold_ns: int
    settled_ns: int | None = None  # spans for which something may still come after this are not decided; None: all are


@dataclass(frozen=True)
class Request:
    """A scanned request, and who sent its spans: by the ordinal of the first, in gRPC's notation
    (`ipv4:127.0.0.1:5555`). Several, where requests were joined."""

    scanned: ScannedRequest
    peers: Sequence[tuple[int, str]]

    def peer(self, ordinal: int) -> str:
        """Who sent this span; "" if that is not known."""
        at = bisect_right(self.peers, ordinal, key=itemgetter(0))
        return self.peers[at - 1][1] if at else ""

    @cached_property
    def spans(self) -> Sequence[Span]:
        """As of `scanned`: asked for by one method after the other, and not at all if the first ties them."""
        return self.scanned.spans()

    @cached_property
    def by_origin(self) -> Sequence[Sequence[int]]:
        """The ordinals of the spans that have equal resources and came from the same sender."""
        return [
            range(*pieces[0]) if len(pieces) == 1 else [ordinal for piece in pieces for ordinal in range(*piece)]
            for pieces in self.scanned.by_origin(self.peers)
        ]


@dataclass(frozen=True, slots=True)
class Match:
    """What a method found among the spans it was given. Numbers in lists are places of spans in the request."""

    matched: int = 0  # spans whose identity it found, with evidence or without
    evidence: Sequence[SpanEvidence] = ()
    incomplete: Sequence[int] = ()  # matched, nothing found, but evidence for them was lost
    unmatched: Sequence[int] = ()
    open_until_ns: int = 0  # something may still come until then (see Window), and nothing else is told; 0: none
    identified: Sequence[int] | None = field(default=None, repr=False)  # None: all but the unmatched


class MatchMethod(Protocol):
    """A method at work."""

    method: Method

    def saw(self, request: Request) -> None:
        """A request has come; it is matched later. For methods that need to know a span's neighbours."""

    def match(self, request: Request, unmatched: Sequence[int] | None, window: Window) -> Match:
        """Ties the spans at `unmatched` (None: all)."""

    def explain(self, request: Request, ordinal: int, window: Window) -> Trial:
        """What `match` makes of one span, for people."""
