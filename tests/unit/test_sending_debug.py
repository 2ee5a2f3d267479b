"""What the debug exporter shows, and that nothing in it can steer a terminal."""

import io
from dataclasses import dataclass
from typing import Literal

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from enricher.config.model import DebugExporter
from enricher.otlp.sending.debug import DebugSender, shown
from enricher.otlp.transport import Failure, StatusCode, Taken


@dataclass(frozen=True, slots=True)
class Body:
    body: bytes


def request() -> ExportTraceServiceRequest:
    made = ExportTraceServiceRequest()
    resource = made.resource_spans.add()
    resource.resource.attributes.add(key="service.name").value.string_value = "shop"
    scope = resource.scope_spans.add()
    scope.scope.name = "http"
    span = scope.spans.add(
        trace_id=b"t" * 16, span_id=b"s" * 8, name="GET /", kind=2, start_time_unix_nano=1_000, end_time_unix_nano=2_000
    )
    span.attributes.add(key="http.status").value.int_value = 200
    span.attributes.add(key="ok").value.bool_value = True
    span.attributes.add(key="parts").value.array_value.values.add().double_value = 1.5
    span.events.add(name="retransmit", time_unix_nano=1_500).attributes.add(key="n").value.int_value = 3
    span.links.add(trace_id=b"u" * 16, span_id=b"v" * 8)
    span.status.code = 2
    span.status.message = "it broke"
    scope.spans.add(name="inner")
    return made


def text(made: ExportTraceServiceRequest, verbosity: Literal["basic", "normal", "detailed"]) -> str:
    stream = io.StringIO()
    sender = DebugSender(DebugExporter(verbosity=verbosity), stream)
    assert sender.send([Body(made.SerializeToString())], 1) == Taken()
    return stream.getvalue()


def test_basic_is_a_line_for_each_request() -> None:
    assert text(request(), "basic") == "traces: 2 spans, 1 scope, 1 resource\n"


def test_normal_is_a_line_for_each_span() -> None:
    first, second = text(request(), "normal").splitlines()
    assert first == (
        f"GET / trace_id={'74' * 16} span_id={'73' * 8} kind=server took=1.00 µs status=error "
        'message="it broke" service="shop" http.status=200 ok=True parts={"values": [{"doubleValue": 1.5}]}'
    )
    assert second.startswith("inner trace_id= ")


def test_detailed_leaves_nothing_out() -> None:
    shown_lines = text(request(), "detailed").splitlines()
    for line in (
        '  service.name="shop"',
        "  scope http",
        "      startTimeUnixNano: 1000",
        "      http.status=200",
        "      event timeUnixNano=1500 name=retransmit",
        "        n=3",
        f"      link traceId={'75' * 16} spanId={'76' * 8}",
    ):
        assert line in shown_lines, shown_lines


@pytest.mark.parametrize("verbosity", ["basic", "normal", "detailed"])
def test_nothing_in_a_span_can_steer_the_terminal_or_begin_a_line(
    verbosity: Literal["basic", "normal", "detailed"],
) -> None:
    evil = "\x1b[2J\n\r\x07\u202e\x9b"
    made = request()
    resource = made.resource_spans[0]
    resource.schema_url = evil
    resource.resource.attributes[0].value.string_value = evil
    resource.scope_spans[0].scope.name = resource.scope_spans[0].scope.version = evil
    span = resource.scope_spans[0].spans[0]
    span.name = span.status.message = span.trace_state = span.events[0].name = span.links[0].trace_state = evil
    for key in (evil, "list", "text"):
        span.attributes.add(key=key).value.string_value = evil
    span.attributes[-2].value.array_value.values.add().string_value = evil
    plain = text(request(), verbosity)
    said = text(made, verbosity)
    assert all(line.isprintable() for line in said.splitlines())
    assert said.count("\n") <= plain.count("\n") + 4


def test_text_is_shown_as_it_is_where_it_is_harmless() -> None:
    assert shown("größe ☃") == "größe ☃"
    assert shown("a\tb\x1b") == "a\\tb\\x1b"


def test_once_the_output_is_gone_every_span_is_refused() -> None:
    stream = io.StringIO()
    sender = DebugSender(DebugExporter(), stream)
    stream.close()
    for _ in range(2):
        answer = sender.send([Body(request().SerializeToString())], 1)
        assert isinstance(answer, Failure)
        assert answer.code is StatusCode.FAILED_PRECONDITION
        assert "the output is gone" in answer.message
