"""exporters.otlp_grpc on grpcio: the reference that the native client is held against, in plain text alone."""

from collections.abc import Sequence
from threading import Event
from typing import Final

import grpc

from enricher.config.endpoints import Target
from enricher.config.model import OtlpGrpcExporter
from enricher.otlp.rpc_status import DETAILS_KEY, retry_delay_ns
from enricher.otlp.sending.assembly import Line
from enricher.otlp.transport import EXPORT_METHOD, CannotSendError, Exporter, Failure, Sendable, StatusCode, Taken

# What a backend answers to say that all went well: nothing, or an empty partial_success (the collector does).
_PLAIN_SUCCESS: Final = frozenset({b"", b"\n\x00"})
# How core says that an answer is larger than we take, which is 4 MiB.
_HUGE_ANSWER: Final = "CLIENT: Received message larger than max"


def build(settings: OtlpGrpcExporter, line: Line) -> Exporter:
    """Raises CannotSendError."""
    return line.otlp(settings, [GrpcioSender(settings, target) for target in settings.targets])


class GrpcioSender:
    """A `Sender` over one channel."""

    def __init__(self, settings: OtlpGrpcExporter, target: Target) -> None:
        if not target.plaintext or settings.compression == "zstd":
            raise CannotSendError(
                target.address,
                "there is neither TLS nor zstd with grpcio",
                fix="Leave service.transport out, or set tls.insecure and another compression",
            )
        self._destination = target.address
        self._metadata = tuple(settings.headers.items())
        is_unix = target.address.startswith("unix:")
        self._channel = grpc.insecure_channel(
            target.address if is_unix else f"dns:///{target.address}",
            options=_options(settings),
            compression=grpc.Compression.Gzip if settings.compression == "gzip" else grpc.Compression.NoCompression,
        )
        self._export = self._channel.unary_unary(EXPORT_METHOD, None, None)
        self._closed = Event()

    @property
    def destination(self) -> str:
        return self._destination

    def send(self, bodies: Sequence[Sendable], timeout_ns: int) -> Taken | Failure:
        body = bodies[0].body if len(bodies) == 1 else b"".join([part.body for part in bodies])
        try:
            # Not wait_for_ready: a backend that is away would show as a deadline exceeded, without the reason.
            answer: bytes = self._export(body, timeout=timeout_ns / 1e9, metadata=self._metadata)
        except grpc.RpcError as error:
            call: grpc.Call = error  # type: ignore[assignment]  # grpcio raises the call itself
            if _HUGE_ANSWER in (call.details() or ""):
                return Taken()  # it has answered, and to send again would double the spans
            return Failure(StatusCode(call.code().value[0]), call.details() or "", _retry_delay_ns(call))
        except ValueError:
            if not self._closed.is_set():
                raise
            # The channel was closed under us.
            return Failure(StatusCode.CANCELLED, "shutting down")
        return Taken() if answer in _PLAIN_SUCCESS else _partial_success(answer)

    def close(self) -> None:
        self._closed.set()
        self._channel.close()


def _retry_delay_ns(call: grpc.Call) -> int | None:
    for key, value in call.trailing_metadata() or ():
        if key == DETAILS_KEY and isinstance(value, bytes):
            return retry_delay_ns(value)
    return None


def _partial_success(answer: bytes) -> Taken:
    from google.protobuf.message import DecodeError
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse

    try:
        partial = ExportTraceServiceResponse.FromString(answer).partial_success
    except DecodeError:
        return Taken(0, "its answer cannot be read")  # but its status was OK
    return Taken(partial.rejected_spans, partial.error_message)


def _options(settings: OtlpGrpcExporter) -> Sequence[tuple[str, int | str]]:
    return (
        # Without the version: importlib.metadata, which knows it, costs 3 MiB.
        ("grpc.primary_user_agent", "enricher"),
        # A proxy of the environment is meant for the web, and would be asked even for the loopback.
        ("grpc.enable_http_proxy", 0),
        # Core's own retries would hide from the back-off, and from the counters, what happens.
        ("grpc.enable_retries", 0),
        # Core tries to reconnect on its own, for up to 2 minutes apart: too long for a backend that is back.
        ("grpc.initial_reconnect_backoff_ms", 500),
        ("grpc.max_reconnect_backoff_ms", 5_000),
        # Also how long one attempt to connect may take.
        ("grpc.min_reconnect_backoff_ms", max(1_000, settings.timeout_ns // 1_000_000)),
        # A connection whose other end has vanished is given up, instead of failing every request for minutes.
        ("grpc.keepalive_time_ms", settings.keepalive.time_ns // 1_000_000),
        ("grpc.keepalive_timeout_ms", settings.keepalive.timeout_ns // 1_000_000),
    )
