"""Evidence of one span out of waits that a match method gave to it: what the native index does for itself."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from operator import or_
from typing import Self

from enricher._native import EvidenceIndex, Span, Wait
from enricher.join.windows import clip, union_ns


@dataclass(frozen=True, slots=True)
class BlockedSpan:
    """A span that was blocked, as `SpanEvidence`. It has no tail: what its goroutine did next is not known."""

    ordinal: int
    tgid: int
    start_ns: int
    end_ns: int
    complete: bool
    waits: tuple[Wait, ...]  # by start; at least one
    longest: Wait
    blocked_ns: int
    direct_ns: int
    via: str = "goroutine"

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
        return reduce(or_, (wait.wait_kind for wait in self.waits))


@dataclass(frozen=True, slots=True)
class KernelSpan:
    """A span in kernel time."""

    span_id: bytes
    parent_span_id: bytes
    start_ns: int
    end_ns: int

    @classmethod
    def of(cls, span: Span, index: EvidenceIndex) -> Self:
        """By the span's own clock. The end lies its duration after the start: SDKs take durations of a clock that
        nobody sets."""
        start_ns = index.kernel_time_ns(span.start_unix_ns)
        return cls(
            span.span_id, span.parent_span_id, start_ns, start_ns + max(0, span.end_unix_ns - span.start_unix_ns)
        )

    def inside_ns(self, wait: Wait) -> int:
        """How much of a wait lies inside the span; negative where they do not meet."""
        return min(wait.end_ns, self.end_ns) - max(wait.start_ns, self.start_ns)

    def blocked_ns(self, waits: Sequence[Wait]) -> int:
        """Of the union of waits."""
        return union_ns(clip(((wait.start_ns, wait.end_ns) for wait in waits), self.start_ns, self.end_ns))


def blocked_span(
    ordinal: int, tgid: int, times: KernelSpan, waits: Sequence[Wait], *, complete: bool, direct: Sequence[Wait]
) -> BlockedSpan:
    """`waits`: at least one, all of which reach into the span; `direct`: those of them that are in no child span."""
    return BlockedSpan(
        ordinal=ordinal,
        tgid=tgid,
        start_ns=times.start_ns,
        end_ns=times.end_ns,
        complete=complete,
        waits=tuple(sorted(waits, key=lambda wait: wait.start_ns)),
        longest=max(waits, key=times.inside_ns),
        blocked_ns=times.blocked_ns(waits),
        direct_ns=times.blocked_ns(direct),
    )
