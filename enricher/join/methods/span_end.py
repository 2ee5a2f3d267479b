"""A probe in the SDK's End() saw this very span end, on which goroutine and when: exact for every kind of span.

The span's end in kernel time is that of the probe, its start lies its own duration before, and not before the
start it was given: native/src/matching.rs says why. The waits of that goroutine in between are the span's.
"""

from collections.abc import Sequence

from enricher._native import EvidenceIndex
from enricher.join.methods.method import Match, Method, Request, Window

METHOD = Method(
    name="span_end",
    summary="a probe in the Go SDK's End() saw the span end: its goroutine and kernel time are known",
    exact=True,
    needs=("go_sdk",),
)


class SpanEnd:
    method = METHOD

    def __init__(self, index: EvidenceIndex) -> None:
        self._index = index

    def saw(self, request: Request, window: Window) -> None:
        """Nothing to remember: the index knows the span ends."""

    def match(self, request: Request, unmatched: Sequence[int] | None, window: Window) -> Match:
        """`unmatched` must be None: this is the best method, and the first."""
        assert unmatched is None
        found = self._index.match(
            request.scanned, window.clock_ns, window.tail_ns, window.threshold_ns, window.settled_ns
        )
        return Match(
            matched=found.matched,
            evidence=found.evidence,
            incomplete=found.incomplete,
            unmatched=found.unmatched if found.matched < request.scanned.span_count else (),
            open_until_ns=found.open_until_ns,
        )
