"""Both ends of the pipeline's transport for its tests: a sender and a backend, on grpcio, over the loopback."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from threading import Lock
from types import TracebackType
from typing import Self

import grpc
from google.protobuf.duration_pb2 import Duration
from google.rpc import error_details_pb2, status_pb2
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from enricher.otlp.transport import EXPORT_METHOD

Answer = Callable[[bytes, grpc.ServicerContext], bytes]


def request(*names: str, padding: int = 0) -> bytes:
    """One ExportTraceServiceRequest with a span of each name."""
    built = ExportTraceServiceRequest()
    scope = built.resource_spans.add().scope_spans.add()
    for name in names:
        scope.spans.add(name=name, trace_state="x" * padding)
    return built.SerializeToString()


def names(body: bytes) -> list[str]:
    """The names of all spans, in order."""
    parsed = ExportTraceServiceRequest.FromString(body)
    return [span.name for resource in parsed.resource_spans for scope in resource.scope_spans for span in scope.spans]


@contextmanager
def sender(
    port: int, *, compression: grpc.Compression = grpc.Compression.NoCompression
) -> Iterator[grpc.UnaryUnaryMultiCallable]:
    """Calls Export with bytes; a connection of its own."""
    options = (("grpc.max_send_message_length", -1), ("grpc.use_local_subchannel_pool", 1), ("grpc.enable_retries", 0))
    with grpc.insecure_channel(f"127.0.0.1:{port}", options=options, compression=compression) as channel:
        yield channel.unary_unary(EXPORT_METHOD, None, None)


def retry_info(code: grpc.StatusCode, delay_ns: int) -> bytes:
    """Details of a status, with a RetryInfo."""
    status = status_pb2.Status(code=code.value[0], message="later")
    info = error_details_pb2.RetryInfo(retry_delay=Duration(seconds=delay_ns // 10**9, nanos=delay_ns % 10**9))
    status.details.add().Pack(info)
    return status.SerializeToString()


def refuse(code: grpc.StatusCode, *, retry_after_ns: int | None = None) -> Answer:
    def answer(body: bytes, context: grpc.ServicerContext) -> bytes:
        if retry_after_ns is not None:
            context.set_trailing_metadata((("grpc-status-details-bin", retry_info(code, retry_after_ns)),))
        context.abort(code, f"refused with {code.name}")

    return answer


def accept(body: bytes, context: grpc.ServicerContext) -> bytes:
    return b""


class Backend(grpc.GenericRpcHandler):
    """Takes requests. Answers the first ones with `script`, one each, all others with `then`."""

    def __init__(
        self,
        script: Sequence[Answer] = (),
        then: Answer = accept,
        *,
        port: int = 0,
        max_message_bytes: int = 4 << 20,
        compression: bool = True,
    ) -> None:
        self._lock = Lock()
        self._script = list(script)
        self._then = then
        self.seen: list[bytes] = []  # every request that came
        self.taken: list[bytes] = []  # those that were answered OK
        self.metadata: dict[str, str] = {}  # of the last one
        self._handler = grpc.unary_unary_rpc_method_handler(self._export)
        self._server = grpc.server(
            ThreadPoolExecutor(16),
            handlers=(self,),
            options=(
                ("grpc.so_reuseport", 0),
                ("grpc.max_receive_message_length", max_message_bytes),
                ("grpc.compression_enabled_algorithms_bitset", 0b111 if compression else 0b001),
            ),
        )
        self.port = self._server.add_insecure_port(f"127.0.0.1:{port}")

    def listen(self, address: str) -> int:
        """Also there; its port."""
        return self._server.add_insecure_port(address)

    def listen_securely(self, address: str, credentials: grpc.ServerCredentials) -> int:
        return self._server.add_secure_port(address, credentials)

    def __enter__(self) -> Self:
        self._server.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """As a crash: what is under way is cut off."""
        self._server.stop(None).wait()

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler | None:
        return self._handler if handler_call_details.method == EXPORT_METHOD else None

    def names(self) -> list[str]:
        """Of all spans taken so far, in order."""
        with self._lock:
            return [name for body in self.taken for name in names(body)]

    def _export(self, body: bytes, context: grpc.ServicerContext) -> bytes:
        with self._lock:
            self.seen.append(body)
            self.metadata = {key: value for key, value in context.invocation_metadata() if isinstance(value, str)}
            answer = self._script.pop(0) if self._script else self._then
        response = answer(body, context)
        with self._lock:
            self.taken.append(body)
        return response
