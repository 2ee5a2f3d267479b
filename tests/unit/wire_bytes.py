"""Writes protobuf by hand: for what no library would write. Tags are (field number, wire type)."""

from google.protobuf.message import DecodeError
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from enricher._native import MalformedRequest, Request

VARINT, FIXED64, LENGTH, GROUP, END_GROUP, FIXED32 = range(6)
RESOURCE_SPANS, SCOPE_SPANS, SPANS = 1, 2, 2


def varint(value: int, width: int = 0) -> bytes:
    """`width`: write at least so many bytes."""
    parts = bytearray()
    while value > 0x7F:
        parts.append(value & 0x7F | 0x80)
        value >>= 7
    parts.append(value)
    while len(parts) < width:
        parts[-1] |= 0x80
        parts.append(0)
    return bytes(parts)


def tag(number: int, wire_type: int, width: int = 0) -> bytes:
    return varint(number << 3 | wire_type, width)


def delimited(number: int, content: bytes, *, tag_width: int = 0, length_width: int = 0) -> bytes:
    return tag(number, LENGTH, tag_width) + varint(len(content), length_width) + content


def in_span(*fields: bytes) -> bytes:
    """A request with one span of these bytes."""
    return delimited(RESOURCE_SPANS, delimited(SCOPE_SPANS, delimited(SPANS, b"".join(fields))))


def parsed(body: bytes) -> ExportTraceServiceRequest | None:
    """As protobuf reads it; None if it refuses it."""
    try:
        return ExportTraceServiceRequest.FromString(body)
    except DecodeError:
        return None


def scanned(body: bytes) -> Request | None:
    try:
        return Request.scan(body)
    except MalformedRequest:
        return None


def spans_of(request: ExportTraceServiceRequest) -> list[Span]:
    return [span for resource in request.resource_spans for scope in resource.scope_spans for span in scope.spans]


def assert_read_alike(body: bytes) -> bool:
    """Both accept it and find the same in it, or both refuse it. Returns which."""
    expected, request = parsed(body), scanned(body)
    assert (request is None) == (expected is None), f"accepted by protobuf: {expected is not None}: {body.hex()}"
    if expected is None or request is None:
        return False
    spans = spans_of(expected)
    assert [
        (span.trace_id, span.span_id, span.parent_span_id, span.kind, span.start_unix_ns, span.end_unix_ns)
        for span in request.spans()
    ] == [
        (
            span.trace_id,
            span.span_id,
            span.parent_span_id,
            span.kind,
            span.start_time_unix_nano,
            span.end_time_unix_nano,
        )
        for span in spans
    ]
    tails = [span.end_time_unix_nano for span in spans if span.kind == 2]
    assert request.span_count == len(spans)
    assert request.last_end_unix_ns == max((span.end_time_unix_nano for span in spans), default=0)
    assert request.last_tail_end_unix_ns == max(tails, default=0)
    assert request.body is body
    assert request.splice([]) is body
    return True


def assert_spliced_alike(body: bytes, ordinals: list[int], run: bytes) -> None:
    """What protobuf reads from the result is the original with `run` (attributes) added to these spans."""
    expected = ExportTraceServiceRequest.FromString(body)
    spans = spans_of(expected)
    for ordinal in ordinals:
        spans[ordinal].MergeFromString(run)
    found = ExportTraceServiceRequest.FromString(Request.scan(body).splice([(ordinal, run) for ordinal in ordinals]))
    # Messages with a NaN in them are not equal to themselves; their bytes are.
    assert found.SerializeToString(deterministic=True) == expected.SerializeToString(deterministic=True)
