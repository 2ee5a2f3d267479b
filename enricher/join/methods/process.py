"""The process is known, the goroutine is not: only a wait that can be one span's alone is given to it.

For processes whose SDK or Go version has no known layout. Their threads' sleeps inside system calls are seen,
and the connection a request came by tells which process sent it. A wait belongs to a span if every span of that
process at that time is the span itself, or its ancestor, or its descendant: with two requests at once there is
no telling, and nothing is claimed.
"""

from collections import OrderedDict, deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from enricher._native import EvidenceIndex
from enricher.evidence.records import EventFlag
from enricher.join.evidence import Wait
from enricher.join.methods.method import Match, Method, Request, Window
from enricher.join.windows import Interval, clip, union_ns

METHOD = Method(
    name="process",
    summary="the sender's process is known, and a single chain of spans ran in it at the time",
    exact=False,
    needs=("syscalls",),
)

PROCESSES_KEPT = 64
SPANS_KEPT = 4096  # of each


@dataclass(frozen=True, slots=True)
class Seen:
    """A span of a process, in kernel time."""

    span_id: bytes
    parent_span_id: bytes
    start_ns: int
    end_ns: int

    def overlaps(self, wait: Wait) -> bool:
        return self.start_ns < wait.end_ns and wait.start_ns < self.end_ns


@dataclass(frozen=True, slots=True)
class ProcessEvidence:
    """Evidence of a span by its process; has no tail, as nobody knows what its goroutine did next."""

    ordinal: int
    start_ns: int
    end_ns: int
    waits: tuple[Wait, ...]
    longest: Wait
    blocked_ns: int

    @property
    def complete(self) -> bool:
        """Never: of the spans that ran at that time only those are known that have come by, so far."""
        return False

    @property
    def tail_end_ns(self) -> int:
        return self.end_ns

    @property
    def blocked_after_end_ns(self) -> int:
        return 0

    @property
    def blocked_count(self) -> int:
        return len(self.waits)

    @property
    def kinds(self) -> int:
        kinds = 0
        for wait in self.waits:
            kinds |= wait.wait_kind
        return kinds


class Process:
    method = METHOD

    def __init__(self, index: EvidenceIndex) -> None:
        self._index = index
        self._recent: OrderedDict[int, deque[Seen]] = OrderedDict()

    def saw(self, request: Request, window: Window) -> None:
        tgid = self._sender(request)
        if tgid is None:
            return
        recent = self._recent.setdefault(tgid, deque(maxlen=SPANS_KEPT))
        self._recent.move_to_end(tgid)
        if len(self._recent) > PROCESSES_KEPT:
            self._recent.popitem(last=False)
        recent.extend(self._spans(request, window))

    def match(self, request: Request, unmatched: Sequence[int] | None, window: Window) -> Match:
        tgid = self._sender(request) if unmatched else None
        if tgid is None or not unmatched:
            return Match(unmatched=unmatched or ())
        spans = self._spans(request, window)
        found = [self._evidence(tgid, ordinal, spans[ordinal], window.threshold_ns) for ordinal in unmatched]
        return Match(
            matched=len(unmatched),
            evidence=[evidence for evidence in found if evidence],
            identified=unmatched,
        )

    def _sender(self, request: Request) -> int | None:
        """The process that sent it, if this method is the one for it."""
        if not self._index.watched_without_span_ends:
            return None
        tgid = self._index.sender(request.peer())
        watched = self._index.process(tgid) if tgid is not None else None
        return tgid if watched and not watched[1] & EventFlag.PROCESS_HAS_SPAN_ENDS else None

    @staticmethod
    def _spans(request: Request, window: Window) -> list[Seen]:
        return [
            Seen(
                span.span_id,
                span.parent_span_id,
                span.start_unix_ns - window.clock_ns,
                span.end_unix_ns - window.clock_ns,
            )
            for span in request.scanned.spans()
        ]

    def _evidence(self, tgid: int, ordinal: int, span: Seen, threshold_ns: int) -> ProcessEvidence | None:
        waits = [
            wait
            for wait in self._index.kernel_waits(tgid, span.start_ns, span.end_ns)
            if not wait.going_on and self._alone(tgid, wait)
        ]
        blocked_ns = union_ns(clip(((w.start_ns, w.end_ns) for w in waits), span.start_ns, span.end_ns))
        if blocked_ns < max(threshold_ns, 1):
            return None
        return ProcessEvidence(
            ordinal=ordinal,
            start_ns=span.start_ns,
            end_ns=span.end_ns,
            waits=tuple(waits),
            longest=max(waits, key=lambda wait: _length(clip([(wait.start_ns, wait.end_ns)], *_times(span)))),
            blocked_ns=blocked_ns,
        )

    def _alone(self, tgid: int, wait: Wait) -> bool:
        """Whether the spans known at the time of the wait are one chain from ancestor to descendant."""
        spans = {seen.span_id: seen for seen in self._recent.get(tgid, ()) if seen.overlaps(wait)}
        parents = {seen.parent_span_id for seen in spans.values()}
        leaves = [span_id for span_id in spans if span_id not in parents]
        if len(leaves) != 1:
            return False
        chain, span_id = 0, leaves[0]
        while span_id in spans and chain <= len(spans):
            chain, span_id = chain + 1, spans[span_id].parent_span_id
        return chain == len(spans)


def _times(span: Seen) -> Interval:
    return span.start_ns, span.end_ns


def _length(parts: Iterable[Interval]) -> int:
    return sum(end - start for start, end in parts)
