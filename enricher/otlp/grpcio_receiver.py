"""OTLP/gRPC in, on grpcio: the reference transport.

The synchronous server, as the asyncio one costs 1.2 to 1.6 times its CPU time per request. No serializers: a
request is the bytes that came. Handled as a stream of one message, so that it is us who wait for it. Channel
arguments that promise speed (minimal stack, larger frames and read chunks) made no difference beyond the noise and
are left alone.
"""

import errno
import socket
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final
from urllib.parse import unquote

import grpc

from enricher._native import Queue
from enricher.config.values import split_endpoint
from enricher.otlp.grpcio_calls import CallThreads
from enricher.otlp.health_service import HealthService
from enricher.otlp.rpc_status import DETAILS_KEY, unavailable_with_retry_info
from enricher.otlp.transport import EXPORT_METHOD, CannotListenError, Limits, Outcome, ServingStatus

# An empty ExportTraceServiceResponse.
_SUCCESS: Final = b""
_LOOPBACKS: Final = ("127.0.0.1", "::1")
_STATUS: Final = {status.value[0]: status for status in grpc.StatusCode}
# As of the queue: what a sender waits where there are more than can be served.
RETRY_DELAY_NS: Final = 1_000_000_000


class GrpcioReceiver:
    """A `Receiver` at `endpoint` ("host:port", port 0 for any free one)."""

    def __init__(
        self, endpoint: str, queue: Queue, limits: Limits, health: ServingStatus, *, share_port: bool = False
    ) -> None:
        """`share_port`: other processes of this program listen there, too; that no other program does has been seen."""
        self._share_port = share_port
        self._endpoint = endpoint
        self._limits = limits
        self._threads = CallThreads(
            "receiver",
            usual=limits.handler_threads,
            most=limits.max_handler_threads,
            message_timeout_s=limits.message_timeout_ns / 1e9,
        )
        self._health = HealthService(health)
        self._export = _Export(queue, limits, self._threads)
        self._server = grpc.server(
            self._threads, handlers=[self._export, self._health], options=_options(limits, share_port)
        )
        self._port = 0

    @property
    def port(self) -> int:
        return self._port

    def start(self) -> None:
        if not self._share_port and (trouble := _cannot_listen(self._endpoint)):
            raise trouble
        try:
            self._port = self._server.add_insecure_port(self._endpoint)
        except RuntimeError as error:
            raise _cannot_listen(self._endpoint, error) or error from error
        self._threads.start()
        self._server.start()

    def stop(self, grace_s: float) -> None:
        self._health.end_watches()
        self._server.stop(grace_s).wait()
        self._health.close()
        self._export.close()
        self._threads.shutdown()


class _Export(grpc.GenericRpcHandler):  # type: ignore[type-arg]  # generic in the stubs alone
    """TraceService/Export."""

    def __init__(self, queue: Queue, limits: Limits, threads: CallThreads) -> None:
        self._queue = queue
        self._max_backlog = limits.max_backlog
        self._threads = threads
        self._handler = grpc.stream_unary_rpc_method_handler(self._export)
        self._surplus = _Surplus(queue)
        self._surplus_handler = grpc.stream_unary_rpc_method_handler(self._surplus)

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> "grpc.RpcMethodHandler[bytes, bytes] | None":
        if handler_call_details.method != EXPORT_METHOD:
            return None
        return self._handler if self._threads.backlog < self._max_backlog else self._surplus_handler

    def close(self) -> None:
        self._surplus.experimental_thread_pool.shutdown(wait=False)

    def _export(self, messages: Iterator[bytes], context: grpc.ServicerContext) -> bytes:
        # A sender that gives up while it waits for a late answer is not heard of: its thread is free when that comes.
        body = self._threads.message(messages, context)
        code, message, retry_after_ns = self._queue.offer(body, unquote(context.peer()))
        if code:
            _refuse(context, code, message, retry_after_ns)
        return _SUCCESS


class _Surplus:
    """Refuses calls beyond those that may wait for a thread. grpcio's own limit would answer that it is for good."""

    def __init__(self, queue: Queue) -> None:
        self._queue = queue
        # grpcio runs the calls of a handler that has this attribute there.
        self.experimental_thread_pool = ThreadPoolExecutor(1, thread_name_prefix="surplus")

    def __call__(self, messages: Iterator[bytes], context: grpc.ServicerContext) -> bytes:  # noqa: ARG002 - not taken
        self._queue.refused(Outcome.BUSY.value)
        _refuse(context, grpc.StatusCode.UNAVAILABLE.value[0], "too many requests at once", RETRY_DELAY_NS)
        return _SUCCESS


def _refuse(context: grpc.ServicerContext, code: int, message: str, retry_after_ns: int | None) -> None:
    """Raises, which is how grpcio ends a call early."""
    if retry_after_ns is not None:
        details = unavailable_with_retry_info(message, retry_after_ns)
        context.set_trailing_metadata(((DETAILS_KEY, details),))
    context.abort(_STATUS[code], message)


def _options(limits: Limits, share_port: bool) -> Sequence[tuple[str, int]]:
    ms = 1_000_000
    return (
        ("grpc.max_receive_message_length", limits.max_message_bytes),
        ("grpc.max_concurrent_streams", limits.max_concurrent_streams),
        # Core refuses at random between the two, and always beyond the second.
        ("grpc.max_metadata_size", limits.max_metadata_bytes),
        ("grpc.absolute_max_metadata_size", limits.max_metadata_bytes),
        ("grpc.keepalive_time_ms", limits.keepalive_time_ns // ms),
        ("grpc.keepalive_timeout_ms", limits.keepalive_timeout_ns // ms),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.min_ping_interval_without_data_ms", limits.least_ping_interval_ns // ms),
        ("grpc.max_connection_age_ms", limits.max_connection_age_ns // ms),
        ("grpc.max_connection_age_grace_ms", limits.max_connection_age_grace_ns // ms),
        ("grpc.max_connection_idle_ms", limits.max_connection_idle_ns // ms),
        # Of a call whose message nobody waits for yet, this much may come; with a guess at what the line could
        # carry in its place it would be all of it. 64 KiB, the default, cost a quarter more CPU time at 280 KiB a
        # request, 512 KiB nothing.
        ("grpc.http2.lookahead_bytes", limits.lookahead_bytes),
        ("grpc.http2.bdp_probe", 0),
        # With it on, a second server on the port would silently take half of the spans.
        ("grpc.so_reuseport", int(share_port)),
    )


def _cannot_listen(endpoint: str, error: RuntimeError | None = None) -> CannotListenError | None:
    """Why the endpoint cannot be had. grpcio does not say; asking the kernel does.

    Without `error` None if all of it can be had: of a name with several addresses grpcio takes those that are free,
    and those who reach it by another get another program.
    """
    host, port = split_endpoint(endpoint)
    setting = "receivers.otlp.protocols.grpc.endpoint"
    fix = f"Set {setting} to an address of this machine."
    # core knows by itself what localhost is (RFC 6761), whatever the files of this machine say.
    hosts = _LOOPBACKS if host.lower() == "localhost" else (host,)
    why: OSError | None = None
    try:
        for address in hosts:
            for family, kind, protocol, _, where in socket.getaddrinfo(address, port, type=socket.SOCK_STREAM):
                trouble = _cannot_bind(family, kind, protocol, where)
                why = trouble if trouble and not (why and why.errno == errno.EADDRINUSE) else why
    except (OSError, UnicodeError, LookupError) as unknown:
        reason = unknown.strerror if isinstance(unknown, OSError) else f"{host!r} is no host name"
        return CannotListenError(endpoint, reason or str(unknown), fix=fix)
    if why is not None and why.errno == errno.EADDRINUSE:
        reason = f"port {port} is taken by another program"
        fix = f"Stop that program (ss -ltnp 'sport = :{port}' names it) or set {setting} to a free port."
        return CannotListenError(endpoint, reason, fix=fix)
    if why is not None and why.errno == errno.EACCES:
        fix = f"Set {setting} to a port above 1023, or give the process CAP_NET_BIND_SERVICE."
        return CannotListenError(endpoint, f"port {port} needs privilege", fix=fix)
    if error is None:
        return None  # an address that this machine has not, such as of IPv6, is none that anybody could reach
    if why is not None:
        return CannotListenError(endpoint, why.strerror or str(why), fix=fix)
    return CannotListenError(endpoint, str(error), fix=f"Try again, or set {setting} to another address.")


def _cannot_bind(family: int, kind: int, protocol: int, where: object) -> OSError | None:
    try:
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(where)  # type: ignore[arg-type]  # as getaddrinfo gives it
    except OSError as why:
        return why
    return None
