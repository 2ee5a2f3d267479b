"""Many senders at once, each of which knows what it was promised."""

import random
import threading
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Self

import grpc
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from tests.e2e.testbed.enricher import EXPORT
from tests.e2e.testbed.processes import wait_until

# Of a sender that was refused, until it sends something else.
_PAUSE_S = 0.05


def export_request(names: Sequence[str], padding: int = 0) -> bytes:
    """One request with a span of each name, ended now, with ids made of the names."""
    made = ExportTraceServiceRequest()
    spans = made.resource_spans.add().scope_spans.add().spans
    now_ns = time.time_ns()
    for name in names:
        ids = random.Random(name)
        spans.add(
            trace_id=ids.randbytes(16),
            span_id=ids.randbytes(8),
            name=name,
            start_time_unix_nano=now_ns - 5_000_000,
            end_time_unix_nano=now_ns,
            trace_state="x" * (padding // len(names)),
        )
    return made.SerializeToString()


class Senders:
    """Each sends one request after the other, and none of them twice: what comes twice was made two on its way."""

    def __init__(self, port: int, *, threads: int = 4, spans: int = 10, padding: int = 0) -> None:
        self._port = port
        self._spans = spans
        self._padding = padding
        self._over = threading.Event()
        self._lock = threading.Lock()
        self._acknowledged: list[str] = []
        self.refusals: list[grpc.RpcError] = []
        self._threads = [threading.Thread(target=self._send, args=(number,)) for number in range(threads)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join(30)

    def acknowledged(self) -> list[str]:
        """Names of the spans that were."""
        with self._lock:
            return list(self._acknowledged)

    def wait_for_more(self, spans: int, deadline_s: float = 60.0) -> None:
        """Until so many more are acknowledged."""
        wanted = len(self.acknowledged()) + spans
        wait_until(lambda: len(self.acknowledged()) >= wanted, f"{spans} more spans are acknowledged", deadline_s)

    def _send(self, sender: int) -> None:
        options = (("grpc.use_local_subchannel_pool", 1), ("grpc.max_reconnect_backoff_ms", 100))
        with grpc.insecure_channel(f"127.0.0.1:{self._port}", options=options) as channel:
            export = channel.unary_unary(EXPORT, None, None)
            number = 0
            while not self._over.is_set():
                names = [f"{sender}.{number}.{span}" for span in range(self._spans)]
                number += 1
                try:
                    export(export_request(names, self._padding), timeout=20)
                except grpc.RpcError as error:
                    with self._lock:
                        self.refusals.append(error)
                    self._over.wait(_PAUSE_S)
                else:
                    with self._lock:
                        self._acknowledged += names
