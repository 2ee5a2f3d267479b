"""Many senders at once, each on a connection of its own, which remember what they were promised."""

import os
import threading
from collections import Counter
from types import TracebackType
from typing import Self

import grpc
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from tests.e2e.testbed.processes import wait_until

_EXPORT = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"
_OPTIONS = (
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.enable_retries", 0),
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.max_reconnect_backoff_ms", 200),
)
_PAUSE_S = 0.002  # between two requests of one sender
_CALL_DEADLINE_S = 5.0


def encoded(spans: int) -> tuple[bytes, set[str]]:
    """A request of so many new spans, and their ids."""
    request = ExportTraceServiceRequest()
    scope = request.resource_spans.add().scope_spans.add()
    ids = set()
    for _ in range(spans):
        span = scope.spans.add(trace_id=os.urandom(16), span_id=os.urandom(8), name="sent")
        ids.add(span.trace_id.hex() + span.span_id.hex())
    return request.SerializeToString(), ids


class Senders:
    """Send until the end of the `with`; what was not taken is sent again, as an SDK does."""

    def __init__(self, port: int, connections: int = 8, spans: int = 8) -> None:
        self._port = port
        self._spans = spans
        self._over = threading.Event()
        self._lock = threading.Lock()
        self._promised: set[str] = set()
        self.refusals: Counter[str] = Counter()  # by status
        self._threads = [threading.Thread(target=self._send, daemon=True) for _ in range(connections)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    def promised(self) -> set[str]:
        """Ids of the spans that were taken so far."""
        with self._lock:
            return set(self._promised)

    def wait_for_more(self, spans: int = 400) -> None:
        """Until so many more spans were taken."""
        enough = len(self.promised()) + spans
        wait_until(lambda: len(self.promised()) >= enough, f"{spans} more spans are taken; {self.refusals}", 30.0)

    def _send(self) -> None:
        with grpc.insecure_channel(f"127.0.0.1:{self._port}", options=_OPTIONS) as channel:
            export = channel.unary_unary(_EXPORT)
            request, ids = encoded(self._spans)
            while not self._over.wait(_PAUSE_S):
                try:
                    export(request, timeout=_CALL_DEADLINE_S)
                except grpc.RpcError as refusal:
                    with self._lock:
                        self.refusals[refusal.code().name] += 1
                    continue
                with self._lock:
                    self._promised |= ids
                request, ids = encoded(self._spans)
