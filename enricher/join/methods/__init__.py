"""How a span is tied to the goroutine, thread or process it ran in: one file a method, best first.

A method sees only the spans that the better ones before it could not tie.
"""

from enricher._native import EvidenceIndex
from enricher.join.methods import connection, goroutine_labels, process, socket, span_end, thread, traceparent
from enricher.join.methods.method import MatchMethod, Method
from enricher.join.methods.origin import Origins


def registry() -> tuple[Method, ...]:
    """What there is, best first: see docs/architecture.md."""
    return (
        span_end.METHOD,
        connection.METHOD,
        goroutine_labels.METHOD,
        traceparent.METHOD,
        socket.METHOD,
        thread.METHOD,
        process.METHOD,
    )


def build(index: EvidenceIndex, origins: Origins) -> tuple[MatchMethod, ...]:
    """The methods at work on one index, best first. `connection` is found together with `span_end`."""
    return (
        span_end.SpanEnd(index),
        goroutine_labels.GoroutineLabels(index, origins),
        traceparent.TraceparentHeader(index, origins),
        socket.Socket(index, origins),
        thread.Thread(index, origins),
        process.Process(index, origins),
    )
