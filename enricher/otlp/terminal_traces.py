"""Spans gathered by trace until the trace has been quiet for a while, for the exporter that shows them.

Pure: parsed requests and the time are handed in. Bounded in traces, in spans of a trace, in text of a span, in
memory of all of them and in the life of a trace, whatever comes.
"""

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
    from opentelemetry.proto.common.v1.common_pb2 import KeyValue
    from opentelemetry.proto.trace.v1.trace_pb2 import Span

Value = bool | int | float | str

CLAIM_PREFIX: Final = "ebpf."
# What says how evidence was found, and is none itself.
METHOD: Final = "ebpf.match.method"
COMPLETE: Final = "ebpf.complete"
OBSERVED: Final = "ebpf.observed"
STAMPS: Final = frozenset({METHOD, COMPLETE, OBSERVED})
_SERVICE_NAME: Final = "service.name"
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

    def add(self, request: "ExportTraceServiceRequest", now_ns: int) -> None:
        for resource_spans in request.resource_spans:
            service = _text(_attribute(resource_spans.resource.attributes, _SERVICE_NAME) or "")
            for scope_spans in resource_spans.scope_spans:
                for span in scope_spans.spans:
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

    def _keep(self, span: "Span", service: str, now_ns: int) -> None:
        trace = self._traces.pop(span.trace_id, None) or Trace(span.trace_id, first_ns=now_ns)
        self._traces[span.trace_id] = trace  # to the end, as the latest
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


def _shown(span: "Span", service: str) -> ShownSpan:
    is_error = span.status.code == span.status.STATUS_CODE_ERROR
    return ShownSpan(
        span_id=span.span_id,
        parent_span_id=span.parent_span_id,
        name=_text(span.name),
        kind=span.kind,
        service=service,
        start_ns=span.start_time_unix_nano,
        end_ns=span.end_time_unix_nano,
        error=_text(span.status.message) if is_error else None,
        claims=_claims(span.attributes),
    )


def _claims(attributes: "Sequence[KeyValue]") -> dict[str, Value]:
    found: dict[str, Value] = {}
    for attribute in attributes:
        if attribute.key.startswith(CLAIM_PREFIX) and len(found) < _MAX_CLAIMS:
            value = _value(attribute)
            if value is not None:
                found[_text(attribute.key)] = value
    return found


def _attribute(attributes: "Sequence[KeyValue]", key: str) -> str:
    return next((attribute.value.string_value for attribute in attributes if attribute.key == key), "")


def _value(attribute: "KeyValue") -> Value | None:
    match attribute.value.WhichOneof("value"):
        case "string_value":
            return _text(attribute.value.string_value)
        case "bool_value":
            return attribute.value.bool_value
        case "int_value":
            return attribute.value.int_value
        case "double_value":
            return attribute.value.double_value
        case _:
            return None  # no claim of ours


def _text(text: str) -> str:
    """Text of others, short, and with nothing in it that could steer the terminal."""
    short = text if len(text) <= _MAX_TEXT else text[: _MAX_TEXT - 1] + "…"
    return short if short.isprintable() else "".join(c if c.isprintable() else "�" for c in short)
