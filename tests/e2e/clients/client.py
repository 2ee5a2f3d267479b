"""The client of the Python SDK: `python client.py PROTOCOL COMPRESSION SUBJECT REFERENCE`. See the package."""

import json
import sys
from collections.abc import Iterator

import grpc
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter as GrpcExporter
from opentelemetry.exporter.otlp.proto.http import Compression as HttpCompression
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter as HttpExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter
from opentelemetry.trace import Link, Span, SpanKind, Status, StatusCode, Tracer, set_span_in_context

TRACES = 20


def exporter(protocol: str, compression: str, to: str) -> SpanExporter:
    if protocol == "grpc":
        kind = grpc.Compression.Gzip if compression == "gzip" else grpc.Compression.NoCompression
        return GrpcExporter(endpoint=to, insecure=True, compression=kind)
    assert protocol == "http/protobuf", protocol
    return HttpExporter(endpoint=f"{to}/v1/traces", compression=HttpCompression(compression))


def traces(tracer: Tracer) -> Iterator[Span]:
    """Makes the spans, and yields each when it has ended."""
    first: Span | None = None
    for number in range(TRACES):
        links = [Link(first.get_span_context(), {"why": "前"})] if first else []
        server = tracer.start_span("GET /größe", Context(), SpanKind.SERVER, _attributes(number), links)
        inner = _child(tracer, server, "inner", SpanKind.INTERNAL)
        inner.add_event("found", {"count": number, "of": "größe"})
        inner.add_event("nothing more")
        client = _child(tracer, inner, "call", SpanKind.CLIENT)
        client.set_status(Status(StatusCode.ERROR, "refusé 拒绝"))
        client.record_exception(RuntimeError("refusé"))
        inner.set_status(Status(StatusCode.OK))
        queues = [_child(tracer, server, "queue", kind) for kind in (SpanKind.PRODUCER, SpanKind.CONSUMER)]
        for span in (client, inner, *queues, server):
            span.end()
            yield span
        first = first or server


def _child(tracer: Tracer, parent: Span, name: str, kind: SpanKind) -> Span:
    return tracer.start_span(name, set_span_in_context(parent, Context()), kind, {"name": name})


def _attributes(number: int) -> dict[str, str | bool | int | float | list[str] | list[bool] | list[int] | list[float]]:
    return {
        "text": "plain",
        "unicode": "Grüße, 世界 🌍",
        "empty": "",
        "yes": True,
        "no": False,
        "number": number,
        "negative": -7,
        "large": 2**62,
        "double": 0.1,
        "texts": ["a", "", "ü"],
        "flags": [True, False],
        "numbers": [1, -2, 3],
        "doubles": [0.5, -1.25],
        "nothing": [],
    }


def main() -> None:
    protocol, compression, subject, reference = sys.argv[1:]
    provider = TracerProvider(
        resource=Resource.create({"service.name": "client-python", "service.tags": ["größe", "大小"]})
    )
    provider.add_span_processor(BatchSpanProcessor(exporter(protocol, compression, subject)))
    provider.add_span_processor(BatchSpanProcessor(exporter("grpc", "none", reference)))
    tracer = provider.get_tracer("client", "1.2.3", "https://opentelemetry.io/schemas/1.30.0")
    contexts = [span.get_span_context() for span in traces(tracer)]
    assert provider.force_flush()
    provider.shutdown()
    print(json.dumps({"ids": [f"{c.trace_id:032x}{c.span_id:016x}" for c in contexts]}))


if __name__ == "__main__":
    main()
