"""A receiver of either transport with the queue it fills, and calls that fail on purpose."""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Final, Literal

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2

from enricher._native import Entry, Queue
from enricher.listening import Kind, Listener
from enricher.otlp.grpcio_receiver import GrpcioReceiver
from enricher.otlp.native_receiver import SERVICES, Listening, NativeReceiver
from enricher.otlp.transport import EXPORT_METHOD, Limits, Receiver
from tests.e2e.testbed.processes import wait_until

Transport = Literal["native", "grpcio"]
TRANSPORTS: Final[tuple[Transport, ...]] = ("native", "grpcio")
LIMITS: Final = Limits(max_message_bytes=1 << 20)
QUEUE_BYTES: Final = 256 << 20


class Status:
    """A `ServingStatus` that is told what to say."""

    def __init__(self) -> None:
        self.services: dict[str, bool] = {"": True, "enricher.evidence": False}

    def serving(self, service: str) -> bool | None:
        return self.services.get(service)


def opened(kind: Kind, endpoint: str = "127.0.0.1:0", **rest: object) -> tuple[Listening, int]:
    """What listens at `endpoint`, and its port."""
    listener = Listener(kind, endpoint, f"receivers.otlp.protocols.{kind}.endpoint")
    listener.open(1)
    sockets = [found for [found] in listener._sockets]
    return Listening(kind=kind, sockets=sockets, **rest), listener.port


def receiver(transport: Transport, endpoint: str, queue: Queue, limits: Limits, status: Status) -> tuple[Receiver, int]:
    """Not started; and its port, if that is known by then."""
    if transport == "grpcio":
        return GrpcioReceiver(endpoint, queue, limits, status), 0
    listening, port = opened("grpc", endpoint, max_message_bytes=limits.max_message_bytes)
    return NativeReceiver(queue, [listening], limits, status, services=(*SERVICES, "later")), port


class Running:
    """A receiver that was started, and its queue."""

    def __init__(
        self,
        transport: Transport,
        *,
        limits: Limits = LIMITS,
        endpoint: str = "127.0.0.1:0",
        max_requests: int = 10_000,
        answers_late: bool = False,
    ) -> None:
        self.queue = Queue(max_requests, QUEUE_BYTES, limits.max_message_bytes, answers_late=answers_late)
        self.status = Status()
        self.receiver, _ = receiver(transport, endpoint, self.queue, limits, self.status)
        self.receiver.start()
        self.port = self.receiver.port
        self._taken: list[Entry] = []

    def taken(self) -> list[Entry]:
        """All requests that have been accepted so far."""
        self._taken += self.queue.take_new(0, 0)
        return self._taken

    def arrived(self, number: int = 1) -> list[Entry]:
        """So many requests, once they are there."""
        return wait_until(lambda: self.taken() if len(self.taken()) >= number else None, f"{number} requests")

    def bodies(self) -> list[bytes]:
        return [entry.body for entry in self.taken()]

    def outcomes(self) -> dict[str, int]:
        counted = self.queue.statistics()["requests_by_outcome"]
        return {outcome: count for outcome, count in counted.items() if count}


@contextmanager
def running(transport: Transport, **rest: object) -> Iterator[Running]:
    started = Running(transport, **rest)
    try:
        yield started
    finally:
        started.receiver.stop(1.0)


@contextmanager
def serving(*listening: Listening, queue: Queue | None = None, limits: Limits = LIMITS) -> Iterator[NativeReceiver]:
    """The native transport with these endpoints."""
    server = NativeReceiver(queue, listening, limits, Status())
    server.start()
    try:
        yield server
    finally:
        server.stop(1.0)


def new_queue(limits: Limits = LIMITS, *, max_requests: int = 10_000, answers_late: bool = False) -> Queue:
    return Queue(max_requests, QUEUE_BYTES, limits.max_message_bytes, answers_late=answers_late)


def outcomes(queue: Queue) -> dict[str, int]:
    counted = queue.statistics()["requests_by_outcome"]
    return {outcome: count for outcome, count in counted.items() if count}


def failed(call: Callable[[], object]) -> grpc.Call:
    with pytest.raises(grpc.RpcError) as caught:
        call()
    return caught.value


def retry_info_of(call: grpc.Call) -> error_details_pb2.RetryInfo | None:
    for key, value in call.trailing_metadata():
        if key == "grpc-status-details-bin":
            status = status_pb2.Status.FromString(value)
            assert status.code == call.code().value[0]
            assert status.message == call.details()
            info = error_details_pb2.RetryInfo()
            assert status.details[0].Unpack(info)
            return info
    return None


@contextmanager
def silent(port: int, method: str = EXPORT_METHOD, *, calls: int) -> Iterator[Sequence[grpc.Future]]:
    """Calls whose message does not come, on a connection of their own."""
    over = threading.Event()

    def nothing() -> Iterator[bytes]:
        over.wait(60)
        yield from ()

    with grpc.insecure_channel(f"127.0.0.1:{port}", options=(("grpc.use_local_subchannel_pool", 1),)) as channel:
        call = channel.stream_unary(method, None, None)
        futures = [call.future(nothing()) for _ in range(calls)]
        try:
            yield futures
        finally:
            over.set()
