"""Unix sockets as a way in."""

import http.client
import os
import socket
from pathlib import Path

import grpc
import pytest

from enricher._native import Server
from enricher.otlp.transport import EXPORT_METHOD
from tests.e2e.receiving import new_queue, opened, outcomes, serving
from tests.e2e.transport import request


def test_requests_come_over_a_path_and_their_sender_is_its_process(tmp_path: Path) -> None:
    queue = new_queue()
    endpoint, port = opened("grpc", f"unix://{tmp_path}/grpc.sock")
    with serving(endpoint, queue=queue) as server, grpc.insecure_channel(f"unix://{tmp_path}/grpc.sock") as channel:
        assert channel.unary_unary(EXPORT_METHOD)(request("a")) == b""
        assert server.port == port == 0
    [entry] = queue.take_new(0, 0)
    assert entry.peers == [(0, f"unix:pid={os.getpid()}")]


def test_requests_come_over_a_path_by_http(tmp_path: Path) -> None:
    queue = new_queue()
    path = tmp_path / "http.sock"
    endpoint, _ = opened("http", f"unix://{path}")
    with serving(endpoint, queue=queue):
        connection = http.client.HTTPConnection("localhost")
        connection.sock = socket.socket(socket.AF_UNIX)
        connection.sock.connect(str(path))
        connection.request("POST", "/v1/traces", request("a"), {"content-type": "application/x-protobuf"})
        assert connection.getresponse().status == 200
        connection.close()
    assert outcomes(queue) == {"accepted": 1}


def test_a_descriptor_that_is_no_socket_is_told(tmp_path: Path) -> None:
    server = Server(None, lambda _event, _what: None)
    with (tmp_path / "file").open("w") as file, pytest.raises(OSError, match="socket"):
        server.listen(file.fileno(), "grpc")
