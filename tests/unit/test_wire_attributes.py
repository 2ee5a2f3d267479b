"""Single attributes read from a scanned request, as the protobuf classes find them."""

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from enricher._native import Request

KEYS = ("text", "flag", "number", "ratio", "list", "empty", "absent")


def request() -> ExportTraceServiceRequest:
    built = ExportTraceServiceRequest()
    for number in range(2):
        resource = built.resource_spans.add()
        resource.resource.attributes.add(key="service.name").value.string_value = f"service {number}"
        resource.resource.attributes.add(key="process.pid").value.int_value = 7 + number
        for _ in range(2):
            span = resource.scope_spans.add().spans.add()
            span.name = "GET /"
            span.events.add(name="event").attributes.add(key="text").value.string_value = "not the span's"
            span.attributes.add(key="text").value.string_value = f"ä {number}"
            span.attributes.add(key="flag").value.bool_value = True
            span.attributes.add(key="number").value.int_value = -5
            span.attributes.add(key="ratio").value.double_value = 0.25
            span.attributes.add(key="list").value.array_value.values.add().int_value = 1
            span.attributes.add(key="empty")
            span.attributes.add(key="text").value.string_value = "again"
    return built


def test_scalars_are_read_and_nothing_else() -> None:
    scanned = Request.scan(request().SerializeToString())
    assert scanned.span_count == 4
    for ordinal in range(4):
        found = scanned.span_attributes(ordinal, KEYS)
        assert found == {"text": f"ä {ordinal // 2}", "flag": True, "number": -5, "ratio": 0.25}
        assert scanned.span_attributes(ordinal, ("ratio", "absent")) == {"ratio": 0.25}


def test_resources_are_told_apart_by_their_bytes() -> None:
    built = request()
    scanned = Request.scan(built.SerializeToString())
    assert [scanned.resource_of(ordinal) for ordinal in range(4)] == [0, 0, 1, 1]
    for number in range(2):
        assert scanned.resource(number) == built.resource_spans[number].resource.SerializeToString()
        wanted = {"service.name": f"service {number}", "process.pid": 7 + number}
        assert scanned.resource_attributes(number, tuple(wanted)) == wanted


def test_a_resource_in_two_parts_is_one() -> None:
    """Protobuf merges a message that is there twice."""
    one, other = (resource.SerializeToString() for resource in request().resource_spans)
    body = b"".join(bytes([1 << 3 | 2, len(part) & 0x7F | 0x80, len(part) >> 7]) + part for part in (one + other,))
    scanned = Request.scan(body)
    merged = ExportTraceServiceRequest.FromString(body).resource_spans[0].resource
    assert len(merged.attributes) == 4
    assert scanned.resource(0) == merged.SerializeToString()
    assert scanned.resource_attributes(0, ("service.name",)) == {"service.name": "service 0"}


def test_places_that_are_not_there_are_refused() -> None:
    scanned = Request.scan(request().SerializeToString())
    with pytest.raises(IndexError):
        scanned.span_attributes(4, KEYS)
    with pytest.raises(IndexError):
        scanned.resource_of(4)
    with pytest.raises(IndexError):
        scanned.resource(2)
    with pytest.raises(IndexError):
        scanned.resource_attributes(2, KEYS)
