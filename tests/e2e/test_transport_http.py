"""OTLP over HTTP, pages and control calls on the native transport."""

import gzip
import http.client
import json
import socket
import threading
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from enricher._native import Queue
from enricher.config.model.receivers import Cors
from enricher.config.model.security import BearerAuth
from enricher.otlp.transport import EXPORT_METHOD
from tests.e2e.receiving import LIMITS, failed, new_queue, opened, outcomes, serving
from tests.e2e.testbed.processes import wait_until
from tests.e2e.transport import request

PROTOBUF, JSON = "application/x-protobuf", "application/json"


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    def refusal(self) -> status_pb2.Status:
        return status_pb2.Status.FromString(self.body)


def ask(port: int, method: str, path: str, body: bytes | None = None, **headers: str) -> Answer:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
        response = connection.getresponse()
        found = {name.lower(): value for name, value in response.getheaders()}
        return Answer(response.status, found, response.read())
    finally:
        connection.close()


def post(port: int, body: bytes, content_type: str = PROTOBUF, **headers: str) -> Answer:
    return ask(port, "POST", "/v1/traces", body, content_type=content_type, **headers)


@contextmanager
def listening(queue: Queue, **rest: object) -> Iterator[int]:
    endpoint, port = opened("http", **{"max_message_bytes": LIMITS.max_message_bytes} | rest)
    with serving(endpoint, queue=queue):
        yield port


def bodies(queue: Queue) -> list[bytes]:
    return [entry.body for entry in queue.take_new(0, 0)]


def as_json(*names: str) -> bytes:
    spans = [{"traceId": "5b8efff798038103d269b633813fc60c", "spanId": "eee19b7ec3c1b174", "name": n} for n in names]
    return json.dumps({"resourceSpans": [{"scopeSpans": [{"spans": spans}]}]}).encode()


def test_a_request_in_protobuf_arrives_byte_for_byte() -> None:
    queue = new_queue()
    body = request("a") + b"\xfa\x07\x03xyz"
    with listening(queue) as port:
        answer = post(port, body)
    assert (answer.status, answer.headers["content-type"], answer.body) == (200, PROTOBUF, b"")
    assert bodies(queue) == [body]
    assert outcomes(queue) == {"accepted": 1}


def test_a_request_in_json_arrives_as_protobuf() -> None:
    queue = new_queue()
    with listening(queue) as port:
        answer = post(port, as_json("a", "b"), f"{JSON}; charset=utf-8")
    assert (answer.status, answer.headers["content-type"], answer.body) == (200, JSON, b"{}")
    [body] = bodies(queue)
    [span, _] = ExportTraceServiceRequest.FromString(body).resource_spans[0].scope_spans[0].spans
    assert (span.name, span.span_id.hex()) == ("a", "eee19b7ec3c1b174")


def test_a_large_request_in_json_arrives_too() -> None:
    queue = new_queue()
    with listening(queue) as port:
        assert post(port, as_json(*(f"span {n}" for n in range(5000))), JSON).status == 200
    assert queue.statistics()["spans"] == 5000


@pytest.mark.parametrize(("content_type", "body"), [(PROTOBUF, b""), (JSON, b"{}")])
def test_an_empty_request_is_a_request(content_type: str, body: bytes) -> None:
    queue = new_queue()
    with listening(queue) as port:
        assert post(port, body, content_type).status == 200
    assert outcomes(queue) == {"accepted": 1}


@pytest.mark.parametrize(
    ("encoding", "encode"), [("gzip", gzip.compress), ("deflate", zlib.compress), ("identity", bytes)]
)
def test_a_compressed_request_arrives_as_it_was(encoding: str, encode: Callable[[bytes], bytes]) -> None:
    queue = new_queue()
    body = request("a", padding=900_000)
    with listening(queue) as port:
        assert post(port, encode(body), content_encoding=encoding).status == 200
    assert bodies(queue) == [body]


@pytest.mark.parametrize("content_type", [PROTOBUF, JSON])
def test_what_is_no_request_is_refused_in_its_own_format(content_type: str) -> None:
    queue = new_queue()
    with listening(queue) as port:
        answer = post(port, b"\xff", content_type)
    assert (answer.status, answer.headers["content-type"]) == (400, content_type)
    assert "retry-after" not in answer.headers
    code = answer.refusal().code if content_type == PROTOBUF else json.loads(answer.body)["code"]
    assert code == grpc.StatusCode.INVALID_ARGUMENT.value[0]
    assert outcomes(queue) == {"malformed": 1}


def test_what_is_not_what_its_encoding_says_is_malformed() -> None:
    queue = new_queue()
    with listening(queue) as port:
        assert post(port, b"plain", content_encoding="gzip").status == 400
        assert post(port, gzip.compress(request("a"))[:-1], content_encoding="gzip").status == 400
    assert outcomes(queue) == {"malformed": 2}


def test_who_comes_when_the_queue_is_full_is_told_when_to_come_again() -> None:
    queue = new_queue(max_requests=1)
    with listening(queue) as port:
        assert post(port, request("a")).status == 200
        answer = post(port, request("b"))
        in_json = post(port, as_json("b"), JSON)
    assert (answer.status, answer.headers["retry-after"]) == (503, "1")
    refusal, info = answer.refusal(), error_details_pb2.RetryInfo()
    assert refusal.code == grpc.StatusCode.UNAVAILABLE.value[0]
    assert refusal.details[0].Unpack(info)
    assert info.retry_delay.seconds == 1
    assert json.loads(in_json.body)["details"][0]["retryDelay"] == "1s"
    assert outcomes(queue) == {"accepted": 1, "busy": 2}


@pytest.mark.parametrize(
    ("code", "retry_after_ns", "status"),
    [
        (0, None, 200),
        (1, None, 503),
        (2, None, 500),
        (3, None, 400),
        (4, None, 503),
        (5, None, 404),
        (6, None, 500),
        (7, None, 403),
        (8, None, 413),
        (8, 1, 429),
        (9, None, 500),
        (10, None, 503),
        (11, None, 503),
        (12, None, 404),
        (13, None, 500),
        (14, None, 503),
        (14, 2_500_000_000, 503),
        (15, None, 503),
        (16, None, 401),
    ],
)
def test_a_late_answer_is_retried_over_http_where_it_would_be_over_grpc(
    code: int, retry_after_ns: int | None, status: int
) -> None:
    queue = new_queue(answers_late=True)
    answers: list[Answer] = []
    with listening(queue) as port:
        asking = threading.Thread(target=lambda: answers.append(post(port, request("a"))))
        asking.start()
        [entry] = wait_until(lambda: queue.take_new(0, 0), "the request")
        entry.answer(code, "the backend's words", retry_after_ns)
        asking.join(10)
    [answer] = answers
    assert answer.status == status
    after = {None: None, 1: "1", 2_500_000_000: "3"}[retry_after_ns]
    assert answer.headers.get("retry-after") == after
    if code:
        assert answer.refusal().message == "the backend's words"


def chunked(port: int, pieces: list[bytes]) -> Answer:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("POST", "/v1/traces", iter(pieces), {"content-type": PROTOBUF}, encode_chunked=True)
        response = connection.getresponse()
        return Answer(response.status, dict(response.getheaders()), response.read())
    finally:
        connection.close()


def test_a_request_in_chunks_is_taken_up_to_the_limit() -> None:
    queue = new_queue()
    fits, too_large = request("a", padding=(1 << 20) - 100), request("a", padding=1 << 20)
    with listening(queue) as port:
        assert chunked(port, [fits[:1000], fits[1000:]]).status == 200
        assert chunked(port, [too_large[:1000], too_large[1000:]]).status == 413
    assert bodies(queue) == [fits]
    assert outcomes(queue) == {"accepted": 1, "too_large": 1}


def test_the_limit_holds_after_decompression_and_before_anything_is_read() -> None:
    queue = new_queue()
    with listening(queue) as port:
        assert post(port, gzip.compress(request("a", padding=2 << 20)), content_encoding="gzip").status == 413
        assert post(port, gzip.compress(b" " * (2 << 20)), JSON, content_encoding="gzip").status == 413
        head = b"POST /v1/traces HTTP/1.1\r\nhost: x\r\ncontent-type: application/x-protobuf\r\n"
        with socket.create_connection(("127.0.0.1", port), 10) as line:  # nothing of it is sent
            line.sendall(head + b"content-length: 99999999999\r\n\r\n")
            assert line.recv(4096).startswith(b"HTTP/1.1 413")
    assert outcomes(queue) == {"too_large": 3}


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"content_type": "text/plain"},
        {"content_type": PROTOBUF, "content_encoding": "snappy"},
        {"content_type": PROTOBUF, "content_encoding": "gzip, gzip"},
    ],
)
def test_what_cannot_be_read_is_told_so(headers: dict[str, str]) -> None:
    queue = new_queue()
    with listening(queue) as port:
        answer = ask(port, "POST", "/v1/traces", b"x", **headers)
    assert answer.status == 415
    assert outcomes(queue) == {"malformed": 1}
    if "content_encoding" in headers:
        assert answer.headers["accept-encoding"] == "identity,gzip,deflate,zstd"


def test_other_paths_and_methods_are_not_there() -> None:
    queue = new_queue()
    with listening(queue, traces_path="/otlp/traces") as port:
        assert ask(port, "GET", "/otlp/traces").status == 405
        assert ask(port, "GET", "/otlp/traces").headers["allow"] == "POST"
        assert ask(port, "POST", "/v1/traces", b"", content_type=PROTOBUF).status == 404
        assert ask(port, "OPTIONS", "/otlp/traces", Origin="https://a").status == 405
        assert ask(port, "POST", "/otlp/traces", b"", content_type=PROTOBUF).status == 200
    assert outcomes(queue) == {"accepted": 1}


def test_a_connection_is_used_again() -> None:
    queue = new_queue()
    with listening(queue) as port:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        for number in range(20):
            connection.request("POST", "/v1/traces", request(str(number)), {"content-type": PROTOBUF})
            response = connection.getresponse()
            assert (response.status, response.read()) == (200, b"")
        connection.close()
    peers = {entry.peers[0][1] for entry in queue.take_new(0, 0)}
    assert len(peers) == 1
    assert peers.pop().startswith("ipv4:127.0.0.1:")


def test_a_browser_may_send_from_the_origins_that_are_allowed() -> None:
    queue = new_queue()
    cors = Cors(allowed_origins=("https://*.shop.example",), allowed_headers=("x-team",))
    wants = {"Access_Control_Request_Method": "POST", "Access_Control_Request_Headers": "content-type"}
    with listening(queue, cors=cors) as port:
        allowed = ask(port, "OPTIONS", "/v1/traces", Origin="https://a.shop.example", **wants)
        refused = ask(port, "OPTIONS", "/v1/traces", Origin="https://shop.evil", **wants)
        sent = post(port, request("a"), Origin="https://a.shop.example")
        unasked = post(port, request("a"))
    assert allowed.status == refused.status == 204
    assert allowed.headers["access-control-allow-origin"] == "https://a.shop.example"
    assert allowed.headers["access-control-allow-methods"] == "POST"
    assert "x-team" in allowed.headers["access-control-allow-headers"]
    assert "access-control-allow-origin" not in refused.headers
    assert sent.headers["access-control-allow-origin"] == "https://a.shop.example"
    assert sent.headers["vary"] == unasked.headers["vary"] == "origin"
    assert "access-control-allow-origin" not in unasked.headers


def test_a_bearer_token_is_wanted_where_one_is_set() -> None:
    queue = new_queue()
    with listening(queue, auth=BearerAuth(bearer_token="secret")) as port:
        for header in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "Basic secret"}):
            answer = post(port, request("a"), **header)
            assert (answer.status, answer.headers["www-authenticate"]) == (401, "Bearer")
        assert post(port, request("a"), Authorization="Bearer secret").status == 200
    assert outcomes(queue) == {"accepted": 1, "unauthenticated": 3}


def test_a_bearer_token_is_wanted_over_grpc_too() -> None:
    queue = new_queue()
    endpoint, port = opened("grpc", auth=BearerAuth(bearer_token="secret"))
    with serving(endpoint, queue=queue), grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        export = channel.unary_unary(EXPORT_METHOD)
        assert failed(lambda: export(request("a"))).code() is grpc.StatusCode.UNAUTHENTICATED
        assert export(request("a"), metadata=(("authorization", "Bearer secret"),)) == b""
    assert outcomes(queue) == {"accepted": 1, "unauthenticated": 1}


def test_pages_are_made_by_python() -> None:
    asked: list[tuple[str, str]] = []

    def pages(method: str, path: str) -> tuple[int, str, bytes]:
        asked.append((method, path))
        if path == "/raises":
            raise ZeroDivisionError
        if path == "/odd":
            return 9999, "text/plain", b""
        return 201, "text/html; charset=utf-8", b"<p>"

    endpoint, port = opened("pages", answer=pages)
    raised: list[object] = []
    with pytest.MonkeyPatch.context() as patch, serving(endpoint):
        patch.setattr("sys.unraisablehook", lambda what: raised.append(what.exc_type))
        answer = ask(port, "GET", "/a?b=c")
        assert (answer.status, answer.headers["content-type"]) == (201, "text/html; charset=utf-8")
        assert answer.body == b"<p>"
        head = ask(port, "HEAD", "/")
        assert (head.status, head.headers["content-length"], head.body) == (201, "3", b"")
        assert ask(port, "GET", "/raises").status == 500
        assert ask(port, "GET", "/odd").status == 500
        assert ask(port, "POST", "/", b"ignored").status == 201
    assert asked == [("GET", "/a?b=c"), ("GET", "/"), ("GET", "/raises"), ("GET", "/odd"), ("POST", "/")]
    assert raised == [ZeroDivisionError]


def test_who_asks_for_more_pages_than_can_wait_is_told_so_and_spans_get_in() -> None:
    queue = new_queue()
    leave = threading.Event()

    def pages(method: str, path: str) -> tuple[int, str, bytes]:
        leave.wait(30)
        return 200, "text/plain", b""

    at_pages, port = opened("pages", answer=pages)
    at_http, spans_port = opened("http")
    answers: list[Answer] = []
    with serving(at_pages, at_http, queue=queue) as server:
        asking = [threading.Thread(target=lambda: answers.append(ask(port, "GET", "/"))) for _ in range(40)]
        for thread in asking:
            thread.start()
        wait_until(lambda: server.statistics()["page_requests"] == 40, "all to have asked")
        assert post(spans_port, request("a")).status == 200
        leave.set()
        for thread in asking:
            thread.join(10)
        refused = server.statistics()["callbacks_refused"]
    statuses = sorted(answer.status for answer in answers)
    assert statuses == [200] * (40 - refused) + [503] * refused
    assert refused >= 40 - 17  # all but those that may wait, and the one that is being made


def test_control_calls_are_answered_by_python() -> None:
    def control(path: str, message: bytes) -> tuple[int, str, bytes]:
        if path == "/enricher.Control/Fail":
            return 9, "not now", b""
        return 0, "", path.encode() + message

    endpoint, port = opened("control", answer=control, auth=BearerAuth(bearer_token="secret"))
    with serving(endpoint), grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        call, fail = channel.unary_unary("/enricher.Control/Say"), channel.unary_unary("/enricher.Control/Fail")
        token = (("authorization", "Bearer secret"),)
        assert call(b"!", metadata=token) == b"/enricher.Control/Say!"
        refused = failed(lambda: fail(b"", metadata=token))
        assert (refused.code(), refused.details()) == (grpc.StatusCode.FAILED_PRECONDITION, "not now")
        assert failed(lambda: call(b"!")).code() is grpc.StatusCode.UNAUTHENTICATED


def test_where_no_spans_are_taken_none_are() -> None:
    endpoint, port = opened("grpc")
    at_http, http_port = opened("http")
    with serving(endpoint, at_http), grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        export = channel.unary_unary(EXPORT_METHOD)
        assert failed(lambda: export(b"")).code() is grpc.StatusCode.UNIMPLEMENTED
        assert post(http_port, b"").status == 404


def test_who_writes_all_before_it_reads_hears_why_it_was_refused() -> None:
    head = b"POST /v1/traces HTTP/1.1\r\nhost: x\r\ncontent-type: application/x-protobuf\r\n"
    with listening(new_queue()) as port:
        for _ in range(10):
            with socket.create_connection(("127.0.0.1", port), 10) as line:
                line.sendall(head + b"content-length: %d\r\n\r\n" % (3 << 20) + bytes(3 << 20))
                assert line.recv(4096).startswith(b"HTTP/1.1 413")
