"""grpc.health.v1 beside the receiver, on grpcio.

Answers are asked of `ServingStatus` when they are wanted and not set beforehand: evidence goes stale by time
passing alone. The message classes are loaded with the first call; a pipeline nobody probes does without them.
"""

from concurrent.futures import ThreadPoolExecutor
from threading import Event, Lock
from typing import TYPE_CHECKING, Final

import grpc

from enricher.otlp.transport import ServingStatus

if TYPE_CHECKING:
    from collections.abc import Iterator

    from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse

    _Handler = grpc.RpcMethodHandler[HealthCheckRequest, HealthCheckResponse]

_PREFIX: Final = "/grpc.health.v1.Health/"
# A watcher holds a thread. Load balancers watch once for each of their processes.
_MAX_WATCHERS: Final = 8
_WATCH_INTERVAL_S: Final = 0.25


class HealthService(grpc.GenericRpcHandler):  # type: ignore[type-arg]  # generic in the stubs alone
    def __init__(self, status: ServingStatus) -> None:
        self._status = status
        self._watch = _Watch(status)
        self._handlers: dict[str, _Handler] | None = None

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> "_Handler | None":
        method = handler_call_details.method
        if not method.startswith(_PREFIX):
            return None
        if self._handlers is None:
            self._handlers = self._load()
        return self._handlers.get(method.removeprefix(_PREFIX))

    def end_watches(self) -> None:
        """Tell the watchers how it is now, and end them: a stop would wait for them until its grace is over."""
        self._watch.end()

    def close(self) -> None:
        """To be called when the server has stopped: a call for threads that are gone would end its loop."""
        self._watch.experimental_thread_pool.shutdown(wait=False)

    def _load(self) -> "dict[str, _Handler]":
        from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse

        to_bytes = HealthCheckResponse.SerializeToString
        return {
            "Check": grpc.unary_unary_rpc_method_handler(self._check, HealthCheckRequest.FromString, to_bytes),
            "Watch": grpc.unary_stream_rpc_method_handler(self._watch, HealthCheckRequest.FromString, to_bytes),
        }

    def _check(self, request: "HealthCheckRequest", context: grpc.ServicerContext) -> "HealthCheckResponse":
        serving = self._status.serving(request.service)
        if serving is None:
            context.abort(grpc.StatusCode.NOT_FOUND, f"there is no service {request.service!r} here")
        return _response(serving)


class _Watch:
    """Health/Watch. Has threads of its own, so that watchers take none from the spans."""

    def __init__(self, status: ServingStatus) -> None:
        self._status = status
        # grpcio runs the calls of a handler that has this attribute there. One more than may watch: to refuse.
        self.experimental_thread_pool = ThreadPoolExecutor(_MAX_WATCHERS + 1, thread_name_prefix="health")
        self._lock = Lock()
        self._watchers: set[Event] = set()
        self._ending = False

    def __call__(self, request: "HealthCheckRequest", context: grpc.ServicerContext) -> "Iterator[HealthCheckResponse]":
        wake = Event()
        with self._lock:
            full = len(self._watchers) >= _MAX_WATCHERS
            if not full:
                self._watchers.add(wake)
        if full:
            context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, f"{_MAX_WATCHERS} others watch already; use Check")
        try:
            if context.add_callback(wake.set):
                yield from self._answers(request.service, wake)
        finally:
            with self._lock:
                self._watchers.discard(wake)

    def end(self) -> None:
        with self._lock:
            self._ending = True
            for wake in self._watchers:
                wake.set()

    def _answers(self, service: str, wake: Event) -> "Iterator[HealthCheckResponse]":
        """Each change, the first answer being one; `wake` ends it."""
        told: HealthCheckResponse | None = None
        over = False
        while not over:
            over = wake.wait(0 if told is None else _WATCH_INTERVAL_S) or self._ending
            now = _response(self._status.serving(service))
            if now != told:
                yield now
                told = now


def _response(serving: bool | None) -> "HealthCheckResponse":
    from grpc_health.v1.health_pb2 import HealthCheckResponse

    if serving is None:
        return HealthCheckResponse(status=HealthCheckResponse.SERVICE_UNKNOWN)
    return HealthCheckResponse(status=HealthCheckResponse.SERVING if serving else HealthCheckResponse.NOT_SERVING)
