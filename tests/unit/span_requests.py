"""Builds scanned requests for tests of match methods: spans by their times in the kernel's clock."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from enricher._native import Request as ScannedRequest
from enricher.join.methods.method import Request, Window
from tests.unit.evidence_log import CLOCK_NS, MS, TRACE_ID

Value = str | int
PEER = "ipv4:127.0.0.1:5555"
WINDOW = Window(tail_ns=300 * MS, threshold_ns=MS)
SERVICE: Mapping[str, Value] = {"service.name": "shop"}


@dataclass(frozen=True)
class Sent:
    """A span as a test states it."""

    span_id: bytes
    start_ms: float
    end_ms: float
    parent_id: bytes = b""
    kind: "Span.SpanKind.ValueType" = Span.SPAN_KIND_INTERNAL
    attributes: Mapping[str, Value] = field(default_factory=dict)
    resource: Mapping[str, Value] = field(default_factory=lambda: SERVICE)
    trace_id: bytes = TRACE_ID


def request(*spans: Sent, peer: str = PEER) -> Request:
    """Spans with equal resources stand together, in the order of the first of each."""
    made = ExportTraceServiceRequest()
    resources: list[Mapping[str, Value]] = []
    for sent in spans:
        if sent.resource not in resources:
            resources.append(sent.resource)
            made.resource_spans.add().resource.attributes.extend(_attributes(sent.resource))
            made.resource_spans[-1].scope_spans.add()
        span = made.resource_spans[resources.index(sent.resource)].scope_spans[0].spans.add()
        span.trace_id, span.span_id, span.parent_span_id = sent.trace_id, sent.span_id, sent.parent_id
        span.name, span.kind = "work", sent.kind
        span.start_time_unix_nano = CLOCK_NS + int(sent.start_ms * MS)
        span.end_time_unix_nano = CLOCK_NS + int(sent.end_ms * MS)
        span.attributes.extend(_attributes(sent.attributes))
    return Request(ScannedRequest.scan(made.SerializeToString()), ((0, peer),))


def claims(body: bytes) -> list[dict[str, object]]:
    """The `ebpf.*` attributes of each span of a request that left, without that prefix."""
    sent = ExportTraceServiceRequest.FromString(body)
    return [_claims(span.attributes) for group in sent.resource_spans for span in group.scope_spans[0].spans]


def _claims(attributes: Sequence[KeyValue]) -> dict[str, object]:
    return {
        attribute.key.removeprefix("ebpf."): getattr(attribute.value, attribute.value.WhichOneof("value") or "")
        for attribute in attributes
        if attribute.key.startswith("ebpf.")
    }


def _attributes(values: Mapping[str, Value]) -> list[KeyValue]:
    return [
        KeyValue(key=key, value=AnyValue(string_value=value) if isinstance(value, str) else AnyValue(int_value=value))
        for key, value in values.items()
    ]
