"""Probes in the SDK saw this very span start and end, on which goroutine and when: exact for every kind of span.

What that goroutine was blocked in meanwhile is the span's, and what was blocked for it elsewhere:
native/src/matching.rs says what that is.
"""

from collections.abc import Sequence

from enricher._native import EvidenceIndex
from enricher.join.explanation import Trial, considered
from enricher.join.methods.method import Match, Method, Request, Window

METHOD = Method(
    name="span_end",
    summary="probes in the Go SDK saw the span start and end: its goroutine and kernel times are known",
    exact=True,
    needs=("go_sdk",),
)


class SpanEnd:
    method = METHOD

    def __init__(self, index: EvidenceIndex) -> None:
        self._index = index

    def saw(self, request: Request) -> None:
        """Nothing to remember: the index knows the span ends."""

    def match(self, request: Request, unmatched: Sequence[int] | None, window: Window) -> Match:
        """`unmatched` must be None: this is the best method, and the first."""
        assert unmatched is None
        found = self._index.match(request.scanned, window.tail_ns, window.threshold_ns, window.settled_ns)
        return Match(
            matched=found.matched,
            evidence=found.evidence,
            incomplete=found.incomplete,
            unmatched=found.unmatched if found.matched < request.scanned.span_count else (),
            open_until_ns=found.open_until_ns,
        )

    def explain(self, request: Request, ordinal: int, window: Window) -> Trial:
        """What the index says of one span."""
        found = self._index.explain(request.scanned, ordinal, window.tail_ns, window.threshold_ns)
        if not found.matched:
            return Trial(METHOD.name, matched=False, why=found.why)
        return Trial(
            METHOD.name,
            matched=True,
            why=found.why,
            identity={
                "tgid": found.tgid,
                "goid": found.goid,
                "started_goid": found.started_goid,
                "start_ns": found.start_ns,
                "end_ns": found.end_ns,
                "tail_end_ns": found.tail_end_ns,
            },
            considered=tuple(considered(wait, why, claimed=claimed) for wait, claimed, why in found.considered),
            incomplete_because=tuple(found.incomplete_because),
        )
