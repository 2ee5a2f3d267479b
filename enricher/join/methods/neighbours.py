"""Spans that share a process, a thread or a connection: whether only one thing at a time went on there.

What is known are the spans that have come by. Where some of those that ran at a time are not one chain from ancestor
to descendant, nobody can tell whose a wait of that time was.
"""

from collections import OrderedDict, deque
from collections.abc import Hashable
from typing import Generic, TypeVar

from enricher.join.blocked import KernelSpan

SHARED_KEPT = 1024
SPANS_KEPT = 4096  # of each, and in all as many as 64 of these hold

Shared = TypeVar("Shared", bound=Hashable)


class Neighbours(Generic[Shared]):
    """The spans seen, by what they share. Bounded: the longest unused go first."""

    def __init__(self) -> None:
        self._recent: OrderedDict[Shared, deque[KernelSpan]] = OrderedDict()
        self._count = 0

    def add(self, shared: Shared, span: KernelSpan) -> None:
        """A span has come by."""
        recent = self._recent.setdefault(shared, deque())
        self._recent.move_to_end(shared)
        recent.append(span)
        self._count += 1
        if len(recent) > SPANS_KEPT:
            recent.popleft()
            self._count -= 1
        while len(self._recent) > 1 and (len(self._recent) > SHARED_KEPT or self._count > 64 * SPANS_KEPT):
            self._count -= len(self._recent.popitem(last=False)[1])

    def are_one_chain(self, shared: Shared, start_ns: int, end_ns: int) -> bool:
        """Whether those that ran in that time, at least one, are each the parent of the next."""
        recent = self._recent.get(shared, ())
        spans = {seen.span_id: seen for seen in recent if seen.start_ns < end_ns and start_ns < seen.end_ns}
        parents = {seen.parent_span_id for seen in spans.values()}
        leaves = [span_id for span_id in spans if span_id not in parents]
        if len(leaves) != 1:
            return False
        chain, span_id = 0, leaves[0]
        while span_id in spans and chain <= len(spans):
            chain, span_id = chain + 1, spans[span_id].parent_span_id
        return chain == len(spans)
