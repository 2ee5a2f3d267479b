"""The native client by itself: statuses of HTTP, TLS, Unix sockets, compression, and backends that misbehave."""

import gzip
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Literal

import grpc
import hpack
import pytest
from google.protobuf.json_format import Parse
from google.rpc import status_pb2
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)

from enricher._native import Client, ClientTls, UnusableClient, json_to_protobuf
from enricher.config.endpoints import Target
from enricher.config.model import ClientTls as TlsSettings
from enricher.config.model import OtlpGrpcExporter, OtlpHttpExporter
from enricher.otlp.retry import Verdict, classify
from enricher.otlp.sending.grpc import grpc_sender
from enricher.otlp.sending.http import endpoint_and_path, http_sender
from enricher.otlp.transport import CannotSendError, Failure, Sender, StatusCode, Taken
from tests.e2e.certificates import Authority, Identity
from tests.e2e.http_backend import HttpBackend, RawServer, Reply
from tests.e2e.testbed.processes import free_port, wait_until
from tests.e2e.transport import Backend, request

MS = 1_000_000
S = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Body:
    body: bytes


def send(sender: Sender, *bodies: bytes, timeout_ns: int = 10 * S) -> Taken | Failure:
    return sender.send([Body(body) for body in bodies or (request("a"),)], timeout_ns)


@contextmanager
def over_grpc(port: int, **settings: object) -> Iterator[Sender]:
    configured = OtlpGrpcExporter(**{"endpoint": f"127.0.0.1:{port}", **settings})
    made = grpc_sender(configured, configured.targets[0])
    try:
        yield made
    finally:
        made.close()


@contextmanager
def over_http(port: int, **settings: object) -> Iterator[Sender]:
    configured = OtlpHttpExporter(**{"endpoint": f"http://127.0.0.1:{port}", **settings})
    made = http_sender(configured, configured.targets[0])
    try:
        yield made
    finally:
        made.close()


# What OTLP/HTTP says of a status: whether the request is worth another try, as it is or in parts.
RETRYABLE = {429, 502, 503, 504}
STATUSES = (300, 301, 307, 400, 401, 403, 404, 405, 408, 409, 413, 415, 422, 429, 500, 501, 502, 503, 504, 505)


@pytest.mark.parametrize("wait", [None, "7", "date", "nonsense"])
@pytest.mark.parametrize("status", STATUSES)
def test_each_status_of_http_is_retried_or_not_as_the_specification_has_it(status: int, wait: str | None) -> None:
    value = format_datetime(datetime.now(UTC) + timedelta(seconds=7), usegmt=True) if wait == "date" else wait
    headers = {} if value is None else {"retry-after": value}
    with HttpBackend(then=Reply(status, headers)) as backend, over_http(backend.port) as sender:
        answer = send(sender)
    assert isinstance(answer, Failure)
    verdict = classify(answer.code, answer.retry_delay_ns)
    expected = Verdict.RETRY if status in RETRYABLE else Verdict.TOO_LARGE if status == 413 else Verdict.PERMANENT
    assert verdict is expected
    assert str(status) in answer.message
    if status in RETRYABLE and wait in {"7", "date"}:
        assert answer.retry_delay_ns is not None
        assert 5 * S <= answer.retry_delay_ns <= 7 * S
    else:
        assert not answer.retry_delay_ns
    assert len(backend.seen) == 1, "a redirection is not followed"


@pytest.mark.parametrize("status", [200, 202, 204])
def test_each_success_of_http_is_one(status: int) -> None:
    with HttpBackend(then=Reply(status)) as backend, over_http(backend.port) as sender:
        assert send(sender) == Taken()


def partial() -> ExportTraceServiceResponse:
    response = ExportTraceServiceResponse()
    response.partial_success.rejected_spans = 3
    response.partial_success.error_message = "too old"
    return response


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("application/x-protobuf", partial().SerializeToString()),
        ("application/json", b'{"partialSuccess": {"rejectedSpans": "3", "errorMessage": "too old"}}'),
        ("application/json; charset=utf-8", b'{"partialSuccess": {"rejectedSpans": 3, "errorMessage": "too old"}}'),
    ],
)
def test_a_partial_success_over_http_is_read_in_the_encoding_it_comes_in(kind: str, body: bytes) -> None:
    with HttpBackend(then=Reply(200, {"content-type": kind}, body)) as backend, over_http(backend.port) as sender:
        assert send(sender) == Taken(3, "too old")


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("application/x-protobuf", status_pb2.Status(code=3, message="no name").SerializeToString()),
        ("application/json", b'{"code": 3, "message": "no name"}'),
        ("text/plain", b"no name\n"),
    ],
)
def test_what_a_backend_says_to_a_failure_over_http_is_told(kind: str, body: bytes) -> None:
    with HttpBackend(then=Reply(400, {"content-type": kind}, body)) as backend, over_http(backend.port) as sender:
        assert send(sender) == Failure(StatusCode.INVALID_ARGUMENT, "HTTP status 400 Bad Request: no name")


@pytest.mark.parametrize(("kind", "body"), [("text/html", b"<h1>400</h1>"), ("application/json", b"{")])
def test_what_is_not_for_us_to_read_is_left_out(kind: str, body: bytes) -> None:
    with HttpBackend(then=Reply(400, {"content-type": kind}, body)) as backend, over_http(backend.port) as sender:
        assert send(sender) == Failure(StatusCode.INVALID_ARGUMENT, "HTTP status 400 Bad Request")


def test_a_refusal_that_comes_before_all_is_sent_is_heard() -> None:
    """As servers give it that do not read what is too large for them; Go's then waits for us to stop."""

    def serve(connection: socket.socket) -> None:
        head = b""
        while b"\r\n\r\n" not in head:
            head += connection.recv(1000)
        connection.sendall(b"HTTP/1.1 413 Content Too Large\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
        connection.shutdown(socket.SHUT_WR)
        while connection.recv(1 << 16):
            pass

    with RawServer(serve) as server, over_http(server.port) as sender:
        answer = send(sender, request("a", padding=3_000_000))
    assert answer == Failure(StatusCode.RESOURCE_EXHAUSTED, "HTTP status 413 Payload Too Large")


def test_joined_requests_go_over_http_as_one_with_headers_on_one_connection() -> None:
    bodies = [request(str(number)) for number in range(5)]
    with (
        HttpBackend() as backend,
        over_http(backend.port, headers={"X-Tenant": "blue", "authorization": "Bearer abc"}) as sender,
    ):
        for _ in range(3):
            assert send(sender, *bodies) == Taken()
        assert backend.connections == 1
    for seen in backend.seen:
        assert seen.path == "/v1/traces"
        assert seen.body == b"".join(bodies)
        expected = {
            "x-tenant": "blue",
            "authorization": "Bearer abc",
            "content-type": "application/x-protobuf",
            "user-agent": "enricher",
            "host": f"127.0.0.1:{backend.port}",
        }
        assert seen.headers.items() >= expected.items()
        assert "content-encoding" not in seen.headers


def test_json_goes_over_http_where_it_is_asked_for() -> None:
    bodies = [request("a", "größe"), request("c")]
    with HttpBackend() as backend, over_http(backend.port, encoding="json", compression="gzip") as sender:
        assert send(sender, *bodies) == Taken()
        answer = send(sender, b"\xff")
    [seen] = backend.seen
    assert seen.headers["content-type"] == "application/json"
    text = gzip.decompress(seen.body)
    assert json_to_protobuf(text, 1 << 20) == b"".join(bodies)
    assert Parse(text, ExportTraceServiceRequest()) == ExportTraceServiceRequest.FromString(b"".join(bodies))
    assert isinstance(answer, Failure)
    assert answer.code is StatusCode.INVALID_ARGUMENT


@pytest.mark.parametrize(
    ("address", "plaintext", "expected"),
    [
        ("http://h:1/v1/traces", True, ("h:1", "/v1/traces")),
        ("http://h/v1/traces", True, ("h:80", "/v1/traces")),
        ("https://h/x/", False, ("h:443", "/x/")),
        ("https://[::1]/x", False, ("[::1]:443", "/x")),
        ("https://[::1]:4318", False, ("[::1]:4318", "/")),
    ],
)
def test_a_url_is_endpoint_and_path(address: str, plaintext: bool, expected: tuple[str, str]) -> None:
    assert endpoint_and_path(Target(address, plaintext)) == expected


@pytest.mark.parametrize("compression", ["gzip", "zstd"])
def test_packed_requests_arrive_as_they_were(compression: Literal["gzip", "zstd"], tmp_path: Path) -> None:
    bodies = [request(str(number), padding=100 * number) for number in range(50)]
    with HttpBackend() as backend, over_http(backend.port, compression=compression) as sender:
        assert send(sender, *bodies) == Taken()
    [seen] = backend.seen
    assert seen.headers["content-encoding"] == compression
    assert len(seen.body) < len(b"".join(bodies)) / 4
    assert unpacked(compression, seen.body) == b"".join(bodies)

    head, message = grpc_request(lambda port: over_grpc(port, compression=compression), *bodies)
    assert head["grpc-encoding"] == compression
    flag, length = struct.unpack(">BI", message[:5])
    assert (flag, length) == (1, len(message) - 5)
    assert unpacked(compression, message[5:]) == b"".join(bodies)


def unpacked(compression: str, packed: bytes) -> bytes:
    if compression == "gzip":
        return gzip.decompress(packed)
    import zstandard

    return zstandard.ZstdDecompressor().decompressobj().decompress(packed)


# --- HTTP/2 by hand, for what no well-behaved backend does -------------------------------------------------------

DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = 0, 1, 3, 4, 6, 7, 8, 9
END_STREAM, END_HEADERS, ACK = 1, 4, 1


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


def exactly(connection: socket.socket, size: int) -> bytes:
    content = b""
    while len(content) < size:
        part = connection.recv(size - len(content))
        if not part:
            raise ConnectionError
        content += part
    return content


def frames(connection: socket.socket) -> Iterator[tuple[int, int, int, bytes]]:
    """Kind, flags, stream and payload of each."""
    while True:
        head = exactly(connection, 9)
        size, kind, flags = int.from_bytes(head[:3], "big"), head[3], head[4]
        yield kind, flags, int.from_bytes(head[5:], "big"), exactly(connection, size)


def greeted(connection: socket.socket) -> None:
    exactly(connection, len(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"))
    connection.sendall(frame(SETTINGS, 0, 0) + frame(WINDOW_UPDATE, 0, 0, struct.pack(">I", 1 << 24)))


def whole_request(connection: socket.socket, decoder: hpack.Decoder) -> tuple[int, dict[str, str], bytes]:
    """Stream, headers and message of the next request on the connection, of which there is one decoder."""
    headers: dict[str, str] = {}
    message = b""
    for kind, flags, stream, payload in frames(connection):
        if kind == SETTINGS and not flags & ACK:
            connection.sendall(frame(SETTINGS, ACK, 0))
        elif kind == HEADERS:
            headers = {str(k): str(v) for k, v in decoder.decode(payload)}
            connection.sendall(frame(WINDOW_UPDATE, 0, stream, struct.pack(">I", 1 << 24)))
        elif kind == DATA:
            message += payload
        if kind in {HEADERS, DATA} and flags & END_STREAM:
            return stream, headers, message
    raise AssertionError


def block(*pairs: tuple[str, str]) -> bytes:
    encoded: bytes = hpack.Encoder().encode(pairs, huffman=False)
    return encoded


RESPONSE = ((":status", "200"), ("content-type", "application/grpc"))
TRAILERS_OK = (("grpc-status", "0"),)


def answer_ok(connection: socket.socket, stream: int) -> None:
    connection.sendall(
        frame(HEADERS, END_HEADERS, stream, block(*RESPONSE))
        + frame(DATA, 0, stream, bytes(5))
        + frame(HEADERS, END_HEADERS | END_STREAM, stream, block(*TRAILERS_OK))
    )


def grpc_request(connect: Callable[[int], object], *bodies: bytes) -> tuple[dict[str, str], bytes]:
    """Headers and body of the request, as they are on the wire."""
    seen: list[tuple[dict[str, str], bytes]] = []

    def serve(connection: socket.socket) -> None:
        greeted(connection)
        stream, headers, message = whole_request(connection, hpack.Decoder())
        seen.append((headers, message))
        answer_ok(connection, stream)
        for _ in frames(connection):
            pass

    with RawServer(serve) as server, connect(server.port) as sender:  # type: ignore[attr-defined]
        assert send(sender, *bodies) == Taken()
    return seen[0]


def test_a_request_over_grpc_looks_as_the_protocol_has_it() -> None:
    bodies = [request("a"), request("b")]
    headers, message = grpc_request(lambda port: over_grpc(port, headers={"x-tenant": "blue"}), *bodies)
    assert (
        headers.items()
        >= {
            ":method": "POST",
            ":scheme": "http",
            ":path": "/opentelemetry.proto.collector.trace.v1.TraceService/Export",
            "te": "trailers",
            "content-type": "application/grpc",
            "user-agent": "enricher",
            "grpc-timeout": "10000m",
            "x-tenant": "blue",
        }.items()
    )
    assert headers[":authority"].startswith("127.0.0.1:")
    assert "grpc-accept-encoding" not in headers
    assert message == b"\x00" + struct.pack(">I", len(b"".join(bodies))) + b"".join(bodies)


def served(answer: Callable[[socket.socket, int], None]) -> RawServer:
    """Takes each request, and answers it by `answer`."""

    def serve(connection: socket.socket) -> None:
        greeted(connection)
        decoder = hpack.Decoder()
        while True:
            stream, _, _ = whole_request(connection, decoder)
            answer(connection, stream)

    return RawServer(serve)


def failure_of(answer: Callable[[socket.socket, int], None], timeout_ns: int = 10 * S) -> Failure:
    with served(answer) as server, over_grpc(server.port) as sender:
        said = send(sender, timeout_ns=timeout_ns)
    assert isinstance(said, Failure)
    return said


@pytest.mark.parametrize("code", range(14))
def test_a_reset_says_nothing_about_the_request_and_it_is_worth_another_try(code: int) -> None:
    said = failure_of(
        lambda connection, stream: connection.sendall(frame(RST_STREAM, 0, stream, struct.pack(">I", code)))
    )
    assert said.code is StatusCode.UNAVAILABLE


def test_a_connection_that_ends_without_an_answer_is_worth_another_try() -> None:
    assert failure_of(lambda connection, stream: connection.close()).code is StatusCode.UNAVAILABLE

    def abort(connection: socket.socket, stream: int) -> None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.close()

    assert failure_of(abort).code is StatusCode.UNAVAILABLE


def test_an_answer_without_a_status_is_none() -> None:
    def silent(connection: socket.socket, stream: int) -> None:
        connection.sendall(
            frame(HEADERS, END_HEADERS, stream, block(*RESPONSE)) + frame(DATA, END_STREAM, stream, bytes(5))
        )

    assert failure_of(silent).code is StatusCode.UNAVAILABLE


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (400, StatusCode.INTERNAL),
        (401, StatusCode.UNAUTHENTICATED),
        (403, StatusCode.PERMISSION_DENIED),
        (404, StatusCode.UNIMPLEMENTED),
        (418, StatusCode.UNKNOWN),
        (429, StatusCode.UNAVAILABLE),
        (502, StatusCode.UNAVAILABLE),
        (503, StatusCode.UNAVAILABLE),
        (504, StatusCode.UNAVAILABLE),
    ],
)
def test_what_a_proxy_says_in_the_words_of_http_is_understood(status: int, code: StatusCode) -> None:
    def proxy(connection: socket.socket, stream: int) -> None:
        headers = block((":status", str(status)), ("retry-after", "3"))
        connection.sendall(frame(HEADERS, END_HEADERS | END_STREAM, stream, headers))

    said = failure_of(proxy)
    assert (said.code, said.retry_delay_ns) == (code, 3 * S)
    assert str(status) in said.message


def test_what_does_not_speak_grpc_is_no_backend() -> None:
    def page(connection: socket.socket, stream: int) -> None:
        headers = block((":status", "200"), ("content-type", "text/html"))
        connection.sendall(frame(HEADERS, END_HEADERS, stream, headers) + frame(DATA, END_STREAM, stream, b"<html>"))

    assert failure_of(page).code is StatusCode.UNKNOWN


def test_headers_without_end_are_cut_off() -> None:
    sent = [0]

    def endless(connection: socket.socket, stream: int) -> None:
        part = block(*((f"x-{number}", "y" * 100) for number in range(100)))[:16_000]
        connection.sendall(frame(HEADERS, 0, stream, block(*RESPONSE)))
        while True:
            connection.sendall(frame(CONTINUATION, 0, stream, part))
            sent[0] += len(part)

    assert failure_of(endless).code is StatusCode.UNAVAILABLE
    assert sent[0] < 64 << 20


def test_many_headers_are_refused() -> None:
    def many(connection: socket.socket, stream: int) -> None:
        large = block(*RESPONSE, *((f"x-{number}", "y" * 1000) for number in range(100)))
        pieces = [large[at : at + 16_000] for at in range(0, len(large), 16_000)]
        connection.sendall(frame(HEADERS, 0, stream, pieces[0]))
        for piece in pieces[1:-1]:
            connection.sendall(frame(CONTINUATION, 0, stream, piece))
        connection.sendall(frame(CONTINUATION, END_HEADERS, stream, pieces[-1]))

    assert failure_of(many).code is StatusCode.UNAVAILABLE


def test_a_message_without_end_is_an_answer_and_costs_no_memory() -> None:
    def endless(connection: socket.socket, stream: int) -> None:
        connection.sendall(frame(HEADERS, END_HEADERS, stream, block(*RESPONSE)))
        window = 1 << 18
        connection.settimeout(0.05)
        while True:
            window -= 16_000
            connection.sendall(frame(DATA, 0, stream, bytes(16_000)))
            while window < 16_000:
                for kind, _, about, payload in frames(connection):
                    if kind == RST_STREAM:
                        return
                    if kind == WINDOW_UPDATE and about == 0:
                        window += int.from_bytes(payload, "big")
                        break

    before = resident()
    with served(endless) as server, over_grpc(server.port) as sender:
        assert send(sender) == Taken()
    assert resident() < before + (16 << 20)


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


@pytest.mark.parametrize("head", ["content-length: 1000000000", "transfer-encoding: chunked"])
def test_a_huge_answer_over_http_is_an_answer_and_costs_no_memory(head: str) -> None:
    def serve(connection: socket.socket) -> None:
        connection.recv(1 << 16)
        connection.sendall(f"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n{head}\r\n\r\n".encode())
        chunk = bytes(1 << 16)
        prefix = b"10000\r\n" if "chunked" in head else b""
        while True:
            connection.sendall(prefix + chunk + (b"\r\n" if prefix else b""))

    before = resident()
    with RawServer(serve) as server, over_http(server.port) as sender:
        assert send(sender) == Taken()
    assert resident() < before + (16 << 20)


def test_headers_without_end_over_http_are_cut_off() -> None:
    def serve(connection: socket.socket) -> None:
        connection.recv(1 << 16)
        connection.sendall(b"HTTP/1.1 200 OK\r\n")
        while True:
            connection.sendall(b"x-header: " + b"y" * 1000 + b"\r\n")

    with RawServer(serve) as server, over_http(server.port) as sender:
        answer = send(sender)
    assert isinstance(answer, Failure)
    assert answer.code is StatusCode.UNAVAILABLE


@pytest.mark.parametrize("connect", [over_grpc, over_http])
def test_a_backend_that_never_answers_is_given_up_after_the_timeout(connect: Callable[[int], object]) -> None:
    def silent(connection: socket.socket) -> None:
        while connection.recv(1 << 16):
            pass

    with RawServer(silent) as server, connect(server.port) as sender:  # type: ignore[attr-defined]
        began = time.monotonic()
        answer = send(sender, timeout_ns=200 * MS)
        took = time.monotonic() - began
    assert answer == Failure(StatusCode.DEADLINE_EXCEEDED, "no answer within 0.2 s")
    assert 0.15 < took < 5


@pytest.mark.parametrize("connect", [over_grpc, over_http])
def test_a_backend_that_does_not_speak_http_is_none(connect: Callable[[int], object]) -> None:
    def other(connection: socket.socket) -> None:
        connection.sendall(b"220 mail.example ESMTP\r\n")
        connection.recv(1 << 16)

    with RawServer(other) as server, connect(server.port) as sender:  # type: ignore[attr-defined]
        answer = send(sender)
    assert isinstance(answer, Failure)
    assert answer.code is StatusCode.UNAVAILABLE


@pytest.mark.parametrize("connect", [over_grpc, over_http])
def test_a_backend_that_is_not_there_says_so(connect: Callable[[int], object]) -> None:
    with connect(free_port()) as sender:  # type: ignore[attr-defined]
        answer = send(sender)
    assert isinstance(answer, Failure)
    assert answer.code is StatusCode.UNAVAILABLE
    assert "Connection refused" in answer.message


def test_after_a_goaway_the_next_request_has_a_new_connection() -> None:
    def last(connection: socket.socket, stream: int) -> None:
        answer_ok(connection, stream)
        connection.sendall(frame(GOAWAY, 0, 0, struct.pack(">II", stream, 0)))

    with served(last) as server, over_grpc(server.port) as sender:
        for _ in range(5):
            wait_until(lambda: send(sender) == Taken(), "an answer")
        assert server.accepted >= 5


def test_a_close_cuts_off_what_is_under_way() -> None:
    entered, closed = threading.Event(), threading.Event()

    def silent(connection: socket.socket) -> None:
        while connection.recv(1 << 16):
            entered.set()
        closed.set()

    with RawServer(silent) as server, over_grpc(server.port) as sender:
        answers: list[Taken | Failure] = []
        thread = threading.Thread(target=lambda: answers.append(send(sender, timeout_ns=3600 * S)))
        thread.start()
        assert entered.wait(10)
        sender.close()
        thread.join(10)
        assert answers == [Failure(StatusCode.CANCELLED, "shutting down")]
        assert send(sender) == answers[0]
        assert closed.wait(10), "no connection is left"


@pytest.mark.parametrize("connect", [over_grpc, over_http])
def test_a_unix_socket_is_as_good_as_any(connect: Callable[..., object], tmp_path: Path) -> None:
    path = tmp_path / "backend.sock"
    if connect is over_grpc:
        backend = Backend()
        backend.listen(f"unix:{path}")
        with backend, over_grpc(0, endpoint=f"unix://{path}") as sender:
            assert send(sender) == Taken()
            assert backend.names() == ["a"]
        return
    seen: list[bytes] = []

    def serve(connection: socket.socket) -> None:
        seen.append(connection.recv(1 << 16))
        connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
        connection.recv(1)

    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen()
    client = Client.http(f"unix://{path}", keepalive_time_ns=S, keepalive_timeout_ns=S)
    with RawServer(serve, listener=listener):
        assert client.send([Body(request("a"))], 10 * S)[0] == 0
    client.close()
    assert seen[0].startswith(b"POST /v1/traces HTTP/1.1\r\n")
    assert b"host: localhost\r\n" in seen[0].lower()


# --- TLS ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


def server_context(identity: Identity, clients: Authority | None = None) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(identity.certificate, identity.key)
    if clients is not None:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(clients.certificate)
    return context


def https(port: int, **tls: object) -> object:
    return over_http(port, endpoint=f"https://127.0.0.1:{port}", tls=TlsSettings(**tls))


def secure_backend(identity: Identity, clients: Authority | None = None) -> Backend:
    backend = Backend()
    credentials = grpc.ssl_server_credentials(
        [(identity.key.read_bytes(), identity.certificate.read_bytes())],
        clients.certificate.read_bytes() if clients else None,
        require_client_auth=clients is not None,
    )
    backend.port = backend.listen_securely("127.0.0.1:0", credentials)
    return backend


def test_tls_to_a_trusted_backend_over_both(authority: Authority) -> None:
    identity = authority.issue("server")
    ca_file = str(authority.certificate)
    with HttpBackend(tls=server_context(identity)) as backend, https(backend.port, ca_file=ca_file) as sender:
        assert send(sender) == Taken()
        assert send(sender) == Taken()
        assert backend.connections == 1
    with secure_backend(identity) as secure:
        with over_grpc(secure.port, tls=TlsSettings(insecure=False, ca_file=ca_file)) as sender:
            assert send(sender, request("a"), request("b")) == Taken()
        assert secure.names() == ["a", "b"]


@pytest.mark.parametrize("case", ["unknown_authority", "expired", "other_host", "no_ca_file"])
def test_a_backend_that_cannot_be_trusted_gets_nothing(authority: Authority, tmp_path: Path, case: str) -> None:
    hosts = ("elsewhere",) if case == "other_host" else ("127.0.0.1",)
    identity = authority.issue("server", hosts=hosts, expired=case == "expired")
    trusted = Authority(tmp_path, "other") if case == "unknown_authority" else authority
    ca_file = None if case == "no_ca_file" else str(trusted.certificate)
    with HttpBackend(tls=server_context(identity)) as backend, https(backend.port, ca_file=ca_file) as sender:
        answer = send(sender)
    assert backend.seen == []
    assert isinstance(answer, Failure)
    assert answer.code is StatusCode.UNAVAILABLE
    assert "certificate" in answer.message
    with secure_backend(identity) as secure:
        with over_grpc(secure.port, tls=TlsSettings(insecure=False, ca_file=ca_file)) as sender:
            answer = send(sender)
        assert secure.seen == []
    assert isinstance(answer, Failure)
    assert "certificate" in answer.message


def test_another_name_can_be_asked_for_and_checking_be_left_out(authority: Authority) -> None:
    identity = authority.issue("server", hosts=("backend.example",))
    named = {"ca_file": str(authority.certificate), "server_name_override": "backend.example"}
    with HttpBackend(tls=server_context(identity)) as backend:
        with https(backend.port, **named) as sender:
            assert send(sender) == Taken()
        with https(backend.port, insecure_skip_verify=True) as sender:
            assert send(sender) == Taken()


def test_we_show_our_certificate_where_it_is_asked_for(authority: Authority) -> None:
    identity, own = authority.issue("server"), authority.issue("client")
    ca_file = str(authority.certificate)
    mine = {"ca_file": ca_file, "cert_file": str(own.certificate), "key_file": str(own.key)}
    with HttpBackend(tls=server_context(identity, authority)) as backend:
        with https(backend.port, **mine) as sender:
            assert send(sender) == Taken()
        with https(backend.port, ca_file=ca_file) as sender:
            answer = send(sender)
            assert isinstance(answer, Failure)
            assert answer.code is StatusCode.UNAVAILABLE
    with secure_backend(identity, authority) as secure:
        with over_grpc(secure.port, tls=TlsSettings(insecure=False, **mine)) as sender:
            assert send(sender) == Taken()
        assert secure.names() == ["a"]


def test_changed_certificates_are_in_force_from_the_next_connection_on(
    authority: Authority, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="enricher")
    trusted = tmp_path / "trusted.pem"
    trusted.write_bytes(authority.certificate.read_bytes())
    other = Authority(tmp_path, "other")
    first, second = authority.issue("first"), other.issue("second")
    port = free_port()
    with https(port, ca_file=str(trusted), reload_interval_ns=1) as sender:
        with HttpBackend(tls=server_context(first), port=port):
            assert send(sender) == Taken()
        with HttpBackend(tls=server_context(second), port=port):
            wait_until(lambda: "certificate" in str(send(sender)), "a refusal of the new backend")
            trusted.write_bytes(b"-----BEGIN CERTIFICATE-----\nxx\n-----END CERTIFICATE-----\n")
            assert isinstance(send(sender), Failure)
            assert "changed certificates cannot be used" in caplog.text
            trusted.write_bytes(other.certificate.read_bytes())
            wait_until(lambda: send(sender) == Taken(), "the new authority to be trusted")
            assert "changed certificates are in use" in caplog.text


@pytest.mark.parametrize(
    ("files", "reason"),
    [
        ({"ca_file": "none.pem"}, "none.pem"),
        ({"ca_file": "empty.pem"}, "no certificate in it"),
        ({"cert_file": "authority.pem", "key_file": "none.key"}, "none.key"),
        ({"cert_file": "first.pem", "key_file": "second.key"}, "first.pem"),
    ],
)
def test_files_that_cannot_be_used_are_told_at_the_start(
    authority: Authority, tmp_path: Path, files: dict[str, str], reason: str
) -> None:
    (tmp_path / "empty.pem").touch()
    authority.issue("first")
    authority.issue("second")
    tls = {key: str(tmp_path / name) for key, name in files.items()}
    with pytest.raises(CannotSendError, match=reason), https(1, **tls):
        pass


@pytest.mark.parametrize("endpoint", ["", "h", "http://h:1", "unix://x", "h:1/x"])
def test_an_endpoint_that_is_none_is_told_at_the_start(endpoint: str) -> None:
    with pytest.raises(UnusableClient):
        Client.grpc(endpoint, keepalive_time_ns=S, keepalive_timeout_ns=S)


def test_half_an_identity_is_none(authority: Authority) -> None:
    identity = authority.issue("client")
    tls = ClientTls(cert_file=str(identity.certificate), skip_verify=True, reload_interval_ns=S)
    with pytest.raises(UnusableClient, match="only one"):
        Client.grpc("h:1", tls=tls, keepalive_time_ns=S, keepalive_timeout_ns=S)


def test_a_backend_without_http2_is_none_for_grpc(authority: Authority) -> None:
    with HttpBackend(tls=server_context(authority.issue("server"))) as backend:
        tls = TlsSettings(insecure=False, ca_file=str(authority.certificate))
        with over_grpc(backend.port, tls=tls) as sender:
            answer = send(sender)
    assert isinstance(answer, Failure)
    assert answer.code is StatusCode.UNAVAILABLE
