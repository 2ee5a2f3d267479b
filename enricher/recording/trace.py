"""A trace as it is explained: its spans, what each left with, and why."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from enricher.causes.cause import Value
from enricher.join.explanation import ConsideredWait, SpanExplanation, Trial
from enricher.recording.entries import Verdict
from enricher.recording.recent import Decided

if TYPE_CHECKING:
    from opentelemetry.proto.trace.v1.trace_pb2 import Span

# What one answer holds. A trace that is longer is rather a loop.
MOST_SPANS = 1000

VERDICTS: Mapping[Verdict, str] = {
    Verdict.UNTOUCHED: "there was nothing to say of any span of its request",
    Verdict.CHANGED: "there was something to say of a span of its request",
    Verdict.OPEN: "it was not decided",
    Verdict.FAULT: "a rule failed, so its request left untouched; see the log",
    Verdict.TOO_LARGE: "with its claims its request would have been too large",
}


SAMPLED_OUT = "it was sampled out"


@dataclass(frozen=True, slots=True)
class ExplainedSpan:
    name: str
    service: str  # service.name of its resource, "" if it has none
    verdict: str  # what became of the request it came in, or SAMPLED_OUT
    left_with: Mapping[str, Value]  # the attributes that were added when it left
    explanation: SpanExplanation  # with the evidence there was when it was made


@dataclass(frozen=True, slots=True)
class TraceExplanation:
    trace_id: str
    spans: tuple[ExplainedSpan, ...]  # by start
    not_explained: int = 0  # there were too many, or no time

    def tree(self) -> dict[str, Any]:
        """For JSON: as deep and as mixed as the dataclasses are."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class FoundSpan:
    """A span of the trace, before it is explained."""

    ordinal: int
    name: str
    service: str
    verdict: str
    left_with: Mapping[str, Value]

    def explained(self, explanation: SpanExplanation) -> ExplainedSpan:
        return ExplainedSpan(self.name, self.service, self.verdict, self.left_with, explanation)


def found_spans(decided: Decided, trace_id: bytes) -> list[FoundSpan]:
    """The spans of one trace in a request."""
    if trace_id not in decided.body:  # a quick look: most requests are of other traces
        return []
    came = list(_spans(decided.body))
    left = _as_left([span for _, span in came], [span for _, span in _spans(decided.left_as)])
    return [
        FoundSpan(
            ordinal,
            span.name,
            service,
            VERDICTS[decided.decision.verdict] if as_left else SAMPLED_OUT,
            dict(_values(as_left, behind=len(span.attributes))) if as_left else {},
        )
        for ordinal, ((service, span), as_left) in enumerate(zip(came, left, strict=True))
        if span.trace_id == trace_id
    ]


def by_start(trace_id: bytes, spans: Iterable[ExplainedSpan], not_explained: int = 0) -> TraceExplanation:
    ordered = sorted(spans, key=lambda span: span.explanation.start_unix_ns)
    return TraceExplanation(trace_id.hex(), tuple(ordered), not_explained)


def from_tree(tree: Mapping[str, Any]) -> TraceExplanation:
    """The inverse of `TraceExplanation.tree`. Raises TypeError, KeyError where it is of another version."""
    spans = tuple(
        ExplainedSpan(**(span | {"explanation": _explanation(span["explanation"])})) for span in tree["spans"]
    )
    return TraceExplanation(**(dict(tree) | {"spans": spans}))


def _explanation(tree: Mapping[str, Any]) -> SpanExplanation:
    trials = tuple(_trial(trial) for trial in tree["trials"])
    return SpanExplanation(**(dict(tree) | {"trials": trials, "left_off": tuple(tree["left_off"])}))


def _trial(tree: Mapping[str, Any]) -> Trial:
    considered = tuple(ConsideredWait(**wait) for wait in tree["considered"])
    incomplete_because = tuple(tree["incomplete_because"])
    return Trial(**(dict(tree) | {"considered": considered, "incomplete_because": incomplete_because}))


def _spans(body: bytes) -> "Iterator[tuple[str, Span]]":
    """In the order of their ordinals, each with the name of its service."""
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest  # 3 MiB

    for group in ExportTraceServiceRequest.FromString(body).resource_spans:
        named = (a.value.string_value for a in group.resource.attributes if a.key == "service.name")
        service = next(named, "")
        for scope in group.scope_spans:
            for span in scope.spans:
                yield service, span


def _as_left(came: "Sequence[Span]", left: "Sequence[Span]") -> "Iterator[Span | None]":
    """Each span that came as it left, None if it was sampled out. Those that left have kept their order."""
    rest = iter(left)
    following = next(rest, None)
    for span in came:
        if following and _same(span, following):
            yield following
            following = next(rest, None)
        else:
            yield None


def _same(span: "Span", other: "Span") -> bool:
    return (
        span.span_id == other.span_id
        and span.trace_id == other.trace_id
        and span.start_time_unix_nano == other.start_time_unix_nano
        and span.end_time_unix_nano == other.end_time_unix_nano
        and span.name == other.name
    )


def _values(span: "Span", *, behind: int) -> Iterator[tuple[str, Value]]:
    """The attributes behind those it came with."""
    for attribute in span.attributes[behind:]:
        kind = attribute.value.WhichOneof("value")
        if kind in ("string_value", "bool_value", "int_value", "double_value"):
            yield attribute.key, getattr(attribute.value, kind)
