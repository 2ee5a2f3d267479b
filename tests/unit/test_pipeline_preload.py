"""After `preload` a pipeline imports nothing more: as another user it may not be able to."""

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import importlib.abc
import os
import socket
import sys
import time
import urllib.request

import grpc
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from enricher import pipeline
from enricher._native import LogWriter
from enricher.config.load import load
from enricher.place import Place

EXPORT = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"
late = []


class Recorder(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        late.append(name)
        return None


def settings(exporter):
    port = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1"} if exporter == "otlp_grpc" else {}
    text = (
        "receivers: {otlp: {protocols: {grpc: {endpoint: '127.0.0.1:0'}}}}\\n"
        "service: {transport: " + sys.argv[2] + ", telemetry: {metrics: {address: '127.0.0.1:0'}}}\\n"
    )
    if exporter == "otlp_grpc":
        text += "exporters: {otlp_grpc: {sending_queue: {queue_size: 1}}}\\n"
    path = sys.argv[1] + "/" + exporter + ".yaml"
    with open(path, "w") as file:
        file.write(text)
    from pathlib import Path

    return load(Path(path), port)


def request():
    made = ExportTraceServiceRequest()
    span = made.resource_spans.add().scope_spans.add().spans.add()
    span.trace_id, span.span_id, span.name = b"t" * 16, b"s" * 8, "GET /"
    return made.SerializeToString()


def answers(port):
    found = []
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        for body in (b"\\xff", *[request()] * 5):
            try:
                channel.unary_unary(EXPORT)(body)
                found.append("OK")
            except grpc.RpcError as error:
                found.append(error.code().name)
        channel.unary_unary("/grpc.health.v1.Health/Check")(b"")
    return found


def use(exporter):
    fd = os.memfd_create("log")
    LogWriter(fd, 64)
    grpc_socket, pages = (socket.create_server(("127.0.0.1", 0)) for _ in range(2))
    metrics_port = pages.getsockname()[1]
    for listener in (grpc_socket, pages):
        listener.setblocking(False)
    listening = {"grpc": [grpc_socket], "pages": [pages]}
    if sys.argv[2] == "grpcio":
        listening.pop("grpc")[0].close()
    running = pipeline.Pipeline(chosen[exporter], fd, Place.alone(listening))
    port = running.start()
    said = answers(port)
    scraped = urllib.request.urlopen(f"http://127.0.0.1:{metrics_port}/metrics").read()
    assert b"enricher_receiver_accepted_spans" in scraped
    running.stop()
    os.close(fd)
    return said


chosen = {name: settings(name) for name in ("otlp_grpc", "terminal")}
for exporter in chosen.values():
    pipeline.preload(exporter)
with grpc.insecure_channel("127.0.0.1:1") as channel:  # what the client of this test needs is not the pipeline's
    channel.unary_unary(EXPORT)

sys.meta_path.insert(0, Recorder())
said = use("otlp_grpc"), use("terminal")
sys.meta_path.pop(0)
assert "INVALID_ARGUMENT" in said[0] and "OK" in said[0] and "UNAVAILABLE" in said[0], said
print(sorted(set(late)))
"""


@pytest.mark.parametrize("transport", ["native", "grpcio"])
def test_nothing_is_imported_once_the_pipeline_runs(tmp_path: Path, transport: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tmp_path), transport],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "[]", done.stdout
