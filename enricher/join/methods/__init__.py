"""How a span is tied to the goroutine, thread or process it ran in: one file a method, best first.

A method sees only the spans that the better ones before it could not tie.
"""

from collections.abc import Callable

from enricher._native import EvidenceIndex
from enricher.join.methods import process, span_end
from enricher.join.methods.method import MatchMethod, Method

# The order is the rank: see docs/architecture.md. `process` stays last.
_METHODS: tuple[tuple[Method, Callable[[EvidenceIndex], MatchMethod]], ...] = (
    (span_end.METHOD, span_end.SpanEnd),
    (process.METHOD, process.Process),
)


def registry() -> tuple[Method, ...]:
    """What there is, best first."""
    return tuple(method for method, _ in _METHODS)


def build(index: EvidenceIndex) -> tuple[MatchMethod, ...]:
    """The methods at work on one index, best first."""
    return tuple(make(index) for _, make in _METHODS)
