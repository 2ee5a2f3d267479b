"""Each kind of exporter as a pipeline makes it from its settings: from the queue to where it sends."""

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from enricher._native import Queue
from enricher.config.model import (
    DebugExporter,
    Exporter,
    FileExporter,
    OtlpGrpcExporter,
    OtlpHttpExporter,
    RetryOnFailure,
    TerminalExporter,
)
from enricher.otlp.sending import fail_over
from enricher.otlp.sending.assembly import KINDS, Line, exporter, module_of
from enricher.telemetry.metrics import Metrics
from tests.e2e.http_backend import HttpBackend
from tests.e2e.testbed.processes import free_port, wait_until
from tests.e2e.transport import Backend, request
from tests.queue_entries import ready

MS = 1_000_000
QUICK = RetryOnFailure(initial_interval_ns=5 * MS, max_interval_ns=20 * MS)


class Running:
    def __init__(self, settings: Exporter, transport: str = "native") -> None:
        self.metrics = Metrics()
        self.queue = Queue(1000, 128 << 20, 4 << 20)
        self.exporter = exporter(settings, transport, Line(queue=self.queue, metrics=self.metrics))  # type: ignore[arg-type]

    def accept(self, *bodies: bytes) -> None:
        ready(self.queue, *bodies)

    def sent(self) -> int:
        return self.metrics.exporter_sent_spans.total()

    def series(self, name: str) -> dict[str, float]:
        return next(dict(series.values) for series in self.metrics.series() if series.name == name)


@contextmanager
def running(settings: Exporter, transport: str = "native") -> Iterator[Running]:
    made = Running(settings, transport)
    made.exporter.start()
    try:
        yield made
    finally:
        made.exporter.stop(10.0)


def test_every_kind_that_can_be_configured_can_be_made() -> None:
    assert set(KINDS) == set(Exporter.__args__)


@pytest.mark.parametrize("transport", ["native", "grpcio"])
def test_over_grpc(transport: str) -> None:
    with Backend() as backend:
        settings = OtlpGrpcExporter(endpoint=f"127.0.0.1:{backend.port}")
        with running(settings, transport) as made:
            made.accept(request("a"), request("b"))
            wait_until(lambda: made.sent() == 2, "two spans")
        assert sorted(backend.names()) == ["a", "b"]


def test_over_http() -> None:
    with HttpBackend() as backend:
        with running(OtlpHttpExporter(endpoint=f"http://127.0.0.1:{backend.port}/prefix")) as made:
            made.accept(request("a"))
            wait_until(lambda: made.sent() == 1, "a span")
        [seen] = backend.seen
        assert (seen.path, seen.body) == ("/prefix/v1/traces", request("a"))


def test_into_a_file(tmp_path: Path) -> None:
    path = tmp_path / "traces.json"
    with running(FileExporter(path=str(path))) as made:
        made.accept(request("a"), request("b"))
        wait_until(lambda: made.sent() == 2, "two spans")
    lines = [json.loads(line) for line in path.read_bytes().splitlines()]
    assert [line["resourceSpans"][0]["scopeSpans"][0]["spans"][0]["name"] for line in lines] == ["a", "b"]


@pytest.mark.parametrize("settings", [DebugExporter(), TerminalExporter()])
def test_to_standard_output(settings: Exporter, capsys: pytest.CaptureFixture[str]) -> None:
    with running(settings) as made:
        made.accept(request("a"))
        wait_until(lambda: made.sent() == 1, "a span")
    assert capsys.readouterr().out


@pytest.mark.parametrize("transport", ["native", "grpcio"])
def test_while_the_first_is_away_spans_go_to_the_next_and_return(
    transport: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fail_over, "RETURN_AFTER_NS", 200 * MS)
    port = free_port()
    first, place = f"127.0.0.1:{port}", "exporter_endpoint_in_use"
    with Backend() as second:
        other = f"127.0.0.1:{second.port}"
        settings = OtlpGrpcExporter(endpoint=first, fail_over=(other,), retry_on_failure=QUICK)
        with running(settings, transport) as made:
            made.accept(*(request(str(number)) for number in range(10)))
            wait_until(lambda: made.sent() == 10, "the spans at the other")
            assert made.metrics.exporter_retries.total() == 0, "at once, not after a wait"
            assert made.series(place) == {first: 0, other: 1}
            with Backend(port=port) as back:
                sent = 10

                def one_more() -> bool:
                    nonlocal sent
                    made.accept(request(str(sent)))
                    sent += 1
                    wait_until(lambda: made.sent() == sent, "the span")
                    return bool(back.taken)

                wait_until(one_more, "the first to be used again")
                assert made.series(place) == {first: 1, other: 0}
                assert made.series("exporter_fail_overs") == {"": 2}
        assert sorted(second.names() + back.names(), key=int) == [str(number) for number in range(sent)]


WITHOUT_GRPC = """
import sys, threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from enricher import pipeline  # as its process does
from enricher._native import Queue
from enricher.config.model import *
from enricher.otlp.sending.assembly import Line, exporter, module_of
from enricher.telemetry.metrics import Metrics

class Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        self.rfile.read(int(self.headers["content-length"]))
        self.send_response(200)
        self.end_headers()
    def log_message(self, *_):
        pass

server = HTTPServer(("127.0.0.1", 0), Handler)
threading.Thread(target=server.serve_forever, daemon=True).start()
http = OtlpHttpExporter(endpoint=f"http://127.0.0.1:{server.server_address[1]}", fail_over=("http://127.0.0.1:1",))
body = bytes.fromhex(sys.argv[1])
retry = RetryOnFailure(enabled=False)
grpc = OtlpGrpcExporter(endpoint="127.0.0.1:1", retry_on_failure=retry)
for settings in (http, grpc, FileExporter(path=sys.argv[2]), DebugExporter(), TerminalExporter()):
    queue, metrics = Queue(10, 1 << 20, 1 << 20), Metrics()
    running = exporter(settings, "native", Line(queue=queue, metrics=metrics))
    assert queue.offer(body, "")[0] == 0
    queue.put(queue.take_new(0, 0))
    running.start()
    running.stop(10.0)
    done = metrics.exporter_sent_spans.total(), metrics.exporter_send_failed_spans.total()
    assert done == ((0, 1) if settings is grpc else (1, 0)), (settings, done)
print(*sorted(name for name in sys.modules if name.split(".")[0] in UNWANTED))
"""


def test_with_the_native_transport_neither_grpc_nor_protobuf_is_imported(tmp_path: Path) -> None:
    script = f"UNWANTED = {{'grpc', 'google', 'opentelemetry', 'grpc_health'}}\n{WITHOUT_GRPC}"
    done = subprocess.run(
        [sys.executable, "-c", script, request("a").hex(), str(tmp_path / "file.json")],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "", done.stdout


def test_the_module_of_a_kind_is_that_of_its_transport() -> None:
    assert module_of(OtlpGrpcExporter(), "grpcio").endswith(".grpcio")
    assert module_of(OtlpGrpcExporter(), "native").endswith(".grpc")
    assert module_of(DebugExporter(), "grpcio").endswith(".debug")
