"""grpc.health.v1 beside the receiver, on grpcio.

Answers are asked of `ServingStatus` when they are wanted and not set beforehand: evidence goes stale by time
passing alone. The message classes are loaded with the first call; a pipeline nobody probes does without them.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from threading import Event, Lock
from typing import TYPE_CHECKING, Final, Generic, TypeVar

import grpc

from enricher.otlp.grpcio_calls import CallThreads
from enricher.otlp.transport import ServingStatus

if TYPE_CHECKING:
    from grpc_health.v1.health_pb2 import HealthCheckResponse

    _Handler = grpc.RpcMethodHandler[bytes, bytes]

_PREFIX: Final = "/grpc.health.v1.Health/"
# A watcher holds a thread. Load balancers watch once for each of their processes.
_MAX_WATCHERS: Final = 8
_WATCH_INTERVAL_S: Final = 0.25
# Beside those of the watchers: to answer a check, and to refuse a watcher.
_OTHER_THREADS: Final = 2
_SILENT_THREADS: Final = 16
_MESSAGE_TIMEOUT_S: Final = 2.0

Answer_co = TypeVar("Answer_co", covariant=True)


class HealthService(grpc.GenericRpcHandler):  # type: ignore[type-arg]  # generic in the stubs alone
    def __init__(self, status: ServingStatus) -> None:
        self._status = status
        self._lock = Lock()
        self._watchers: set[Event] = set()
        self._ending = False
        self._threads: CallThreads | None = None
        self._handlers: dict[str, _Handler] = {}

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> "_Handler | None":
        method = handler_call_details.method
        if not method.startswith(_PREFIX):
            return None
        if self._threads is None:
            self._load()
        return self._handlers.get(method.removeprefix(_PREFIX))

    def end_watches(self) -> None:
        """Tell the watchers how it is now, and end them: a stop would wait for them until its grace is over."""
        with self._lock:
            self._ending = True
            for wake in self._watchers:
                wake.set()

    def close(self) -> None:
        """To be called when the server has stopped."""
        if self._threads is not None:
            self._threads.shutdown()

    def _load(self) -> None:
        """Calls are given to `service` one after the other."""
        usual = _MAX_WATCHERS + _OTHER_THREADS
        self._threads = threads = CallThreads(
            "health", usual=usual, most=usual + _SILENT_THREADS, message_timeout_s=_MESSAGE_TIMEOUT_S
        )
        threads.start()
        self._handlers = {
            "Check": grpc.stream_unary_rpc_method_handler(_Method(self._check, threads)),
            "Watch": grpc.stream_stream_rpc_method_handler(_Method(self._watch, threads)),
        }

    def _check(self, service: str, context: grpc.ServicerContext) -> bytes:
        serving = self._status.serving(service)
        if serving is None:
            context.abort(grpc.StatusCode.NOT_FOUND, f"there is no service {service!r} here")
        answer: bytes = _response(serving).SerializeToString()
        return answer

    def _watch(self, service: str, context: grpc.ServicerContext) -> Iterator[bytes]:
        wake = Event()
        with self._lock:
            full = len(self._watchers) >= _MAX_WATCHERS
            if not full:
                self._watchers.add(wake)
        if full:
            context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, f"{_MAX_WATCHERS} others watch already; use Check")
        try:
            if context.add_callback(wake.set):
                yield from self._answers(service, wake)
        finally:
            with self._lock:
                self._watchers.discard(wake)

    def _answers(self, service: str, wake: Event) -> Iterator[bytes]:
        """Each change, the first answer being one; `wake` ends it."""
        told: HealthCheckResponse | None = None
        over = False
        while not over:
            over = wake.wait(0 if told is None else _WATCH_INTERVAL_S) or self._ending
            now = _response(self._status.serving(service))
            if now != told:
                yield now.SerializeToString()
                told = now


@dataclass(frozen=True, slots=True)
class _Method(Generic[Answer_co]):
    """Takes the request, and has it answered."""

    answer: Callable[[str, grpc.ServicerContext], Answer_co]
    experimental_thread_pool: CallThreads  # grpcio runs the calls of a handler that has this attribute there

    def __call__(self, messages: Iterator[bytes], context: grpc.ServicerContext) -> Answer_co:
        from google.protobuf.message import DecodeError
        from grpc_health.v1.health_pb2 import HealthCheckRequest

        message = self.experimental_thread_pool.message(messages, context)
        try:
            service = HealthCheckRequest.FromString(message).service
        except DecodeError:
            # Not left to grpcio, which writes a traceback for each.
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "the request is no HealthCheckRequest")
            raise
        return self.answer(service, context)


def _response(serving: bool | None) -> "HealthCheckResponse":
    from grpc_health.v1.health_pb2 import HealthCheckResponse

    if serving is None:
        return HealthCheckResponse(status=HealthCheckResponse.SERVICE_UNKNOWN)
    return HealthCheckResponse(status=HealthCheckResponse.SERVING if serving else HealthCheckResponse.NOT_SERVING)
