"""The OTLP exporters of other languages' SDKs as clients, over every protocol they have, compressed and not.

Each sends the same spans straight to a reference over gRPC: what comes out behind the enricher must be equal to that,
whatever way it went in.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from tests.e2e.testbed import sdk_clients
from tests.e2e.testbed.enricher import Enricher
from tests.e2e.testbed.sdk_clients import SPANS, Language, OtlpProtocol
from tests.e2e.testbed.spans import KeptSpan, differences
from tests.e2e.testbed.workload import Sink

# The JSON of OTLP over HTTP is an exporter's in JavaScript only.
WAYS: tuple[tuple[Language, OtlpProtocol], ...] = (
    ("go", "grpc"),
    ("go", "http/protobuf"),
    ("python", "grpc"),
    ("python", "http/protobuf"),
    ("javascript", "grpc"),
    ("javascript", "http/protobuf"),
    ("javascript", "http/json"),
    ("java", "grpc"),
    ("java", "http/protobuf"),
)


@dataclass(frozen=True, slots=True)
class Line:
    """One enricher for all clients, and the receivers behind it and beside it."""

    enricher: Enricher
    subject: Sink
    reference: Sink

    def port(self, protocol: OtlpProtocol) -> int:
        return self.enricher.port if protocol == "grpc" else self.enricher.http_port


@pytest.fixture(scope="module")
def line(programs: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Line]:
    sdk_clients.prepare()
    directory = tmp_path_factory.mktemp("sdk-clients")
    with (
        Sink(directory, "subject") as subject,
        Sink(directory, "reference") as reference,
        Enricher(directory, subject.port, http=True) as enricher,
    ):
        yield Line(enricher, subject, reference)


@pytest.mark.parametrize("compression", ["none", "gzip"])
@pytest.mark.parametrize(("language", "protocol"), WAYS)
def test_every_span_of_an_sdk_arrives_once_and_as_it_was_sent(
    line: Line, language: Language, protocol: OtlpProtocol, compression: Literal["none", "gzip"]
) -> None:
    sent = sdk_clients.run(language, protocol, compression, line.port(protocol), line.reference.port)
    assert len(sent.ids) == len(set(sent.ids)) == SPANS
    reference = sent.among(line.reference.wait_for(sent.ids))
    subject = sent.among(line.subject.wait_for(sent.ids))
    _assert_as_agreed(reference)
    problems = differences(reference, subject)
    assert not problems, f"{len(problems)} of {SPANS} spans:\n" + "\n".join(problems[:3])


def _assert_as_agreed(reference: list[KeptSpan]) -> None:
    """The clients send all that a span can have: otherwise, that it arrives would mean little."""
    spans = [kept.span for kept in reference]
    server = next(span for span in spans if span.kind == Span.SPAN_KIND_SERVER and span.links)
    kinds = {attribute.value.WhichOneof("value") for attribute in server.attributes}
    assert kinds == {"string_value", "bool_value", "int_value", "double_value", "array_value"}
    assert any(a.key == "unicode" and a.value.string_value == "Grüße, 世界 🌍" for a in server.attributes)
    assert {span.kind for span in spans} == {*range(1, 6)}
    assert {len(span.events) for span in spans} == {0, 1, 2}
    assert {span.status.code for span in spans} == {
        Status.STATUS_CODE_UNSET,
        Status.STATUS_CODE_OK,
        Status.STATUS_CODE_ERROR,
    }
    assert any(span.status.message == "refusé 拒绝" for span in spans)
    assert len({span.trace_id for span in spans}) == SPANS // 5
    assert sum(not span.parent_span_id for span in spans) == SPANS // 5
