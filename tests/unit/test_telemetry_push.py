"""Metrics over OTLP, as a receiver of them reads it."""

import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, HTTPServer

import grpc
import pytest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.metrics.v1.metrics_pb2 import AGGREGATION_TEMPORALITY_CUMULATIVE, Metric

from enricher.config.model import MetricsPush
from enricher.otlp.transport import Failure, Sendable, StatusCode, Taken
from enricher.telemetry.metrics import Distribution, Metrics, Series
from enricher.telemetry.otlp_metrics import encoded
from enricher.telemetry.push import GRPC_PATH, Push, push
from tests.e2e.testbed.processes import wait_until

MS = 1_000_000
HOLD = Distribution((0.1, 1.0), (2, 1, 2), 5.65)


def metrics_of(body: bytes) -> dict[str, Metric]:
    (group,) = ExportMetricsServiceRequest.FromString(body).resource_metrics
    (scope,) = group.scope_metrics
    return {metric.name: metric for metric in scope.metrics}


def resource_of(body: bytes) -> dict[str, str]:
    (group,) = ExportMetricsServiceRequest.FromString(body).resource_metrics
    return {attribute.key: attribute.value.string_value for attribute in group.resource.attributes}


def test_each_kind_is_encoded_as_what_it_is() -> None:
    series = [
        Series("sent_spans", "counter", "taken", "reason", {"a": 3, "b": 4}),
        Series.gauge("queue_bytes", "waiting", 1.5, "By"),
        Series("hold_seconds", "histogram", "held", "", {"": HOLD}, "s"),
    ]
    body = encoded(series, {"service.name": "enricher"}, "1.0", 100, 200)
    found = metrics_of(body)
    sent = found["enricher_sent_spans"].sum
    assert sent.is_monotonic
    assert sent.aggregation_temporality == AGGREGATION_TEMPORALITY_CUMULATIVE
    points = [(p.attributes[0].value.string_value, p.as_int) for p in sent.data_points]
    assert points == [("a", 3), ("b", 4)]
    assert {(p.start_time_unix_nano, p.time_unix_nano) for p in sent.data_points} == {(100, 200)}
    (waiting,) = found["enricher_queue_bytes"].gauge.data_points
    assert (waiting.as_double, waiting.time_unix_nano, len(waiting.attributes)) == (1.5, 200, 0)
    assert (found["enricher_queue_bytes"].unit, found["enricher_queue_bytes"].description) == ("By", "waiting")
    (held,) = found["enricher_hold_seconds"].histogram.data_points
    assert (held.count, held.sum) == (5, 5.65)
    assert (list(held.bucket_counts), list(held.explicit_bounds)) == ([2, 1, 2], [0.1, 1.0])
    assert resource_of(body) == {"service.name": "enricher"}


@dataclass
class Backend:
    """What has come: path, headers, body."""

    came: list[tuple[str, dict[str, str], bytes]] = field(default_factory=list)
    port: int = 0


@pytest.fixture
def over_grpc() -> Iterator[Backend]:
    backend = Backend()

    class Handler(grpc.GenericRpcHandler):
        def service(self, handler_call_details: grpc.HandlerCallDetails) -> "grpc.RpcMethodHandler[bytes, bytes]":
            def take(body: bytes, context: grpc.ServicerContext) -> bytes:
                metadata = dict(context.invocation_metadata())
                backend.came.append((handler_call_details.method, metadata, body))
                return b""

            return grpc.unary_unary_rpc_method_handler(take)

    from concurrent.futures import ThreadPoolExecutor

    server = grpc.server(ThreadPoolExecutor(2), handlers=[Handler()])
    backend.port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield backend
    server.stop(0).wait()


@pytest.fixture
def over_http() -> Iterator[Backend]:
    backend = Backend()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            backend.came.append((self.path, {key.lower(): value for key, value in self.headers.items()}, body))
            self.send_response(200)
            self.send_header("Content-Type", "application/x-protobuf")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *arguments: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    backend.port = server.server_port
    serving = threading.Thread(target=server.serve_forever)
    serving.start()
    yield backend
    server.shutdown()
    serving.join()
    server.server_close()


def settings(endpoint: str, protocol: str) -> MetricsPush:
    return MetricsPush(endpoint=endpoint, protocol=protocol, interval_ns=50 * MS, headers={"x-team": "ours"})  # type: ignore[arg-type]


def pushed(backend: Backend, wanted: MetricsPush, path: str) -> None:
    metrics = Metrics()
    made = push(wanted, metrics.series, 3, "1.2")
    metrics.add_source(made.series)
    metrics.exporter_sent_spans.add(7)
    made.start()
    try:
        wait_until(lambda: len(backend.came) >= 3, "it was sent again and again")
        metrics.exporter_sent_spans.add(1)
    finally:
        made.stop()
    assert {where for where, _, _ in backend.came} == {path}
    assert {headers["x-team"] for _, headers, _ in backend.came} == {"ours"}
    first, last = backend.came[0][2], backend.came[-1][2]
    assert metrics_of(first)["enricher_exporter_sent_spans"].sum.data_points[0].as_int == 7
    assert metrics_of(last)["enricher_exporter_sent_spans"].sum.data_points[0].as_int == 8, "a last time, at the end"
    assert metrics_of(last)["enricher_metrics_pushes"].sum.data_points[0].as_int >= 2
    resource = resource_of(last)
    assert resource == resource_of(first)
    assert (resource["service.name"], resource["service.version"], resource["enricher.worker"]) == (
        "enricher",
        "1.2",
        "3",
    )
    assert len(resource["service.instance.id"]) == 36


def test_a_backend_gets_them_over_grpc(over_grpc: Backend) -> None:
    pushed(over_grpc, settings(f"127.0.0.1:{over_grpc.port}", "grpc"), GRPC_PATH)


def test_a_backend_gets_them_over_http(over_http: Backend) -> None:
    pushed(over_http, settings(f"http://127.0.0.1:{over_http.port}", "http/protobuf"), "/v1/metrics")


@dataclass
class FakeSender:
    """Answers so, one after the other, and then that all is well."""

    answers: list[Taken | Failure]
    sent: int = 0
    closed: bool = False
    destination: str = "there"

    def send(self, bodies: Sequence[Sendable], timeout_ns: int) -> Taken | Failure:
        self.sent += 1
        return self.answers.pop(0) if self.answers else Taken()

    def close(self) -> None:
        self.closed = True


def test_a_backend_that_refuses_is_counted_told_once_and_tried_again(caplog: pytest.LogCaptureFixture) -> None:
    away = Failure(StatusCode.UNAVAILABLE, "away", None)
    sender = FakeSender([away, away, Taken(2, "too old"), Taken()])
    made = Push(sender, MS, list, 0, "1")
    made.start()
    wait_until(lambda: sender.sent > 4, "it was tried again")
    made.stop()
    (series,) = made.series()
    assert series.values["unavailable"] == 2
    assert series.values["partly_rejected"] == 1
    assert caplog.text.count("the metrics could not be sent") == 2
    assert sender.closed


def test_a_source_that_fails_does_not_end_it(caplog: pytest.LogCaptureFixture) -> None:
    def fail() -> list[Series]:
        raise ZeroDivisionError("by zero")

    made = Push(FakeSender([]), MS, fail, 0, "1")
    made.start()
    wait_until(lambda: next(made.series()).values.get("fault", 0) > 2, "it goes on")  # type: ignore[operator]
    made.stop()
    assert caplog.text.count("the metrics could not be sent") == 1
