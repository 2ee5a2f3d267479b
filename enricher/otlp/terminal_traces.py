"""Spans gathered by trace until the trace has been quiet for a while, for the exporter that shows them.

Pure: requests as trees and the time are handed in. Bounded in traces, in spans of a trace, in text of a span, in
memory of all of them and in the life of a trace, whatever comes.
"""

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from enricher.otlp.span_json import Tree, Value, scalar, service_name, several, single

CLAIM_PREFIX: Final = "ebpf."
# What says how evidence was found, and is none itself.
METHOD: Final = "ebpf.match.method"
COMPLETE: Final = "ebpf.complete"
OBSERVED: Final = "ebpf.observed"
STAMPS: Final = frozenset({METHOD, COMPLETE, OBSERVED})
_STATUS_ERROR: Final = 2
_MAX_TEXT: Final = 200  # characters of a name or a message
_MAX_CLAIMS: Final = 16  # of a span; more than anybody reads
_SPAN_BYTES: Final = 400  # without its texts
_MAX_BYTES: Final = 16 << 20
_LONGEST_LIFE: Final = 10  # quiet times; a trace that never rests is shown in pieces


@dataclass(frozen=True, slots=True)
class ShownSpan:
    """What is shown of a span. Times are UNIX time in ns."""

    span_id: bytes
    parent_span_id: bytes  # empty: it has none
    name: str
    kind: int
    service: str
    start_ns: int
    end_ns: int
    error: str | None  # the status message; None: the status is no error
    claims: Mapping[str, Value]

    @property
    def size(self) -> int:
        """Bytes of memory, about."""
        texts = (self.name, self.error, *self.claims, *self.claims.values())
        return _SPAN_BYTES + sum(map(sys.getsizeof, texts))

    @property
    def has_evidence(self) -> bool:
        return not self.claims.keys() <= STAMPS


@dataclass(slots=True)
class Trace:
    trace_id: bytes
    first_ns: int = 0  # when something first came
    last_ns: int = 0  # when something last came
    spans: list[ShownSpan] = field(default_factory=list)
    left_out: int = 0  # spans that came and are not kept
    size: int = 0  # of the spans kept, in bytes

    @property
    def enriched(self) -> int:
        """Spans with evidence among those kept, which are all of them unless there are very many."""
        return sum(span.has_evidence for span in self.spans)


class TraceGatherer:
    """Not thread-safe. Keeps `max_traces` and about `max_bytes` at most, and of each trace `max_spans` spans and as
    many more with evidence.
    """

    def __init__(
        self,
        quiet_ns: int,
        push_out: Callable[["Trace"], None],
        *,
        max_traces: int = 1000,
        max_spans: int = 100,
        max_bytes: int = _MAX_BYTES,
    ) -> None:
        """`push_out` gets the traces that have to make room, though they may not be whole."""
        self._quiet_ns = quiet_ns
        self._push_out = push_out
        self._max_traces = max_traces
        self._max_spans = max_spans
        self._max_bytes = max_bytes
        self._traces: dict[bytes, Trace] = {}  # the one that has been quiet for longest comes first
        self._size = 0

    def __len__(self) -> int:
        return len(self._traces)

    def add(self, request: Tree, now_ns: int) -> None:
        """`request`: an ExportTraceServiceRequest."""
        for resource_spans in several(request, "resourceSpans"):
            service = _text(service_name(resource_spans))
            for scope_spans in several(resource_spans, "scopeSpans"):
                for span in several(scope_spans, "spans"):
                    self._keep(span, service, now_ns)
                    while len(self._traces) > self._max_traces or self._size > self._max_bytes:
                        self._push_out(self._take(next(iter(self._traces))))

    def quiet(self, now_ns: int) -> list[Trace]:
        """Takes out the traces of which nothing has come for the quiet time, and those that go on for long."""
        began_before_ns = now_ns - _LONGEST_LIFE * self._quiet_ns
        quiet_since_ns = now_ns - self._quiet_ns
        due = [
            trace.trace_id
            for trace in self._traces.values()
            if trace.last_ns <= quiet_since_ns or trace.first_ns <= began_before_ns
        ]
        return [self._take(trace_id) for trace_id in due]

    def rest(self) -> list[Trace]:
        """Takes out all."""
        return [self._take(trace_id) for trace_id in list(self._traces)]

    def _take(self, trace_id: bytes) -> Trace:
        trace = self._traces.pop(trace_id)
        self._size -= trace.size
        return trace

    def _keep(self, span: Tree, service: str, now_ns: int) -> None:
        trace_id = bytes.fromhex(span.get("traceId", ""))
        trace = self._traces.pop(trace_id, None) or Trace(trace_id, first_ns=now_ns)
        self._traces[trace_id] = trace  # to the end, as the latest
        trace.last_ns = now_ns
        if len(trace.spans) >= 2 * self._max_spans:
            trace.left_out += 1
            return
        shown = _shown(span, service)
        if len(trace.spans) < self._max_spans or shown.has_evidence:
            trace.spans.append(shown)
            size = shown.size
            trace.size += size
            self._size += size
        else:
            trace.left_out += 1


@dataclass(frozen=True, slots=True)
class Placed:
    """A span's place in the tree of its trace."""

    span: ShownSpan
    parent: ShownSpan | None
    # For the span and each of its ancestors but the root, outermost first: whether it is its parent's last child.
    last: Sequence[bool]
    has_children: bool


def placed(spans: Sequence[ShownSpan]) -> Iterator[Placed]:
    """Every span once, below its parent and by start.

    A root is a span whose parent is not among `spans`; of spans that are each other's ancestors, the first.
    """
    by_start = sorted(spans, key=lambda span: (span.start_ns, -span.end_ns))
    known = {span.span_id for span in by_start}
    children: dict[bytes, list[ShownSpan]] = {}
    for span in by_start:
        children.setdefault(span.parent_span_id, []).append(span)
    seen: set[int] = set()  # by object: a span that was sent twice has the same id
    roots = [span for span in by_start if span.parent_span_id not in known]
    for root in [*roots, *by_start]:
        todo: list[tuple[ShownSpan, ShownSpan | None, tuple[bool, ...]]] = [(root, None, ())]
        while todo:
            span, parent, last = todo.pop()
            if id(span) in seen:
                continue
            seen.add(id(span))
            below = children.pop(span.span_id, [])
            yield Placed(span, parent, last, bool(below))
            todo.extend((child, span, (*last, number == 0)) for number, child in enumerate(reversed(below)))


def _shown(span: Tree, service: str) -> ShownSpan:
    status = single(span, "status")
    is_error = status.get("code") == _STATUS_ERROR
    return ShownSpan(
        span_id=bytes.fromhex(span.get("spanId", "")),
        parent_span_id=bytes.fromhex(span.get("parentSpanId", "")),
        name=_text(span.get("name", "")),
        kind=span.get("kind", 0),
        service=service,
        start_ns=int(span.get("startTimeUnixNano", 0)),
        end_ns=int(span.get("endTimeUnixNano", 0)),
        error=_text(status.get("message", "")) if is_error else None,
        claims=_claims(several(span, "attributes")),
    )


def _claims(attributes: Sequence[Tree]) -> dict[str, Value]:
    found: dict[str, Value] = {}
    for attribute in attributes:
        key = attribute.get("key", "")
        if key.startswith(CLAIM_PREFIX) and len(found) < _MAX_CLAIMS:
            value = scalar(attribute)  # None: no claim of ours
            if value is not None:
                found[_text(key)] = _text(value) if isinstance(value, str) else value
    return found


def _text(text: str) -> str:
    """Text of others, short, and with nothing in it that could steer the terminal."""
    short = text if len(text) <= _MAX_TEXT else text[: _MAX_TEXT - 1] + "…"
    return short if short.isprintable() else "".join(c if c.isprintable() else "�" for c in short)
