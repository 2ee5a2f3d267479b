"""The bounded queue between receiver and exporter, which every accepted span is in until it is sent or dropped.

It is counted from its admission on: held by the join, ready to be sent and in retry are the same to the bound.
So what the bound promises holds for the process, and there is one place where a full pipeline says no.

Bounded by requests, as the collector's is, and by bytes, as 1,000 requests of 4 MiB would be 4 GiB.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from threading import Condition
from typing import Final

from enricher.telemetry.metrics import Series

# Twice what 0.3 s of holding for tails takes at 400,000 spans/s of 560 bytes; with half of it a sender was told
# to come back most of the time. Resident with the backend away and 320 requests of 4 MiB at once: 318 MiB.
# It bounds what was accepted; what is on its way in is bounded by the receiver.
MAX_QUEUE_BYTES: Final = 128 << 20


class Reservation:
    """A request's place in the queue. Its body can be replaced until it is put."""

    __slots__ = ("body", "counted_bytes", "spans")

    def __init__(self, body: bytes, spans: int) -> None:
        self.body = body
        self.spans = spans
        self.counted_bytes = len(body)  # of the queue's alone: what its bound counts for this request


@dataclass(frozen=True, slots=True)
class QueueStatistics:
    requests: int  # reserved, wherever they are
    bytes: int
    spans: int
    ready: int  # requests that wait to be sent
    capacity: int  # in requests


class BoundedQueue:
    """Thread-safe. reserve → put → take → release; or reserve → release for what is given up before."""

    def __init__(self, max_requests: int, max_bytes: int = MAX_QUEUE_BYTES) -> None:
        self._max_requests = max_requests
        self._max_bytes = max_bytes
        self._changed = Condition()
        self._ready: deque[Reservation] = deque()
        self._closed = False
        self._requests = self._bytes = self._spans = 0

    def reserve(self, body: bytes, spans: int) -> Reservation | None:
        """A place for a request of `spans` spans; None if there is none.

        An empty queue takes a request of any size: the receiver has the limit for a single one.
        """
        size = len(body)
        with self._changed:
            if self._requests and (self._requests >= self._max_requests or self._bytes + size > self._max_bytes):
                return None
            self._requests += 1
            self._bytes += size
            self._spans += spans
        return Reservation(body, spans)

    def put(self, reservations: Sequence[Reservation]) -> None:
        """These are decided and can be sent. A body that has grown meanwhile is taken over the bound."""
        with self._changed:
            for reservation in reservations:
                self._bytes += len(reservation.body) - reservation.counted_bytes
                reservation.counted_bytes = len(reservation.body)
            self._ready.extend(reservations)
            self._changed.notify(len(reservations))

    def take(self, max_bytes: int, timeout_s: float | None = None) -> list[Reservation]:
        """The oldest that are ready, together at most `max_bytes`, but always one.

        Blocks while there is none. Empty after `timeout_s`, and once the queue is `finished`.
        """
        with self._changed:
            if not self._changed.wait_for(lambda: self._ready or self._closed, timeout_s) or not self._ready:
                return []
            taken = [self._ready.popleft()]
            room = max_bytes - len(taken[0].body)
            while self._ready and len(self._ready[0].body) <= room:
                taken.append(self._ready.popleft())
                room -= len(taken[-1].body)
            return taken

    def release(self, reservations: Sequence[Reservation]) -> None:
        """These are sent or dropped: their places are free."""
        with self._changed:
            self._requests -= len(reservations)
            for reservation in reservations:
                self._bytes -= reservation.counted_bytes
                self._spans -= reservation.spans

    def close(self) -> None:
        """Nothing more will be put: `take` gives what is left, then nothing."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    @property
    def finished(self) -> bool:
        """Closed, and nothing left to take."""
        with self._changed:
            return self._closed and not self._ready

    def statistics(self) -> QueueStatistics:
        with self._changed:
            return QueueStatistics(self._requests, self._bytes, self._spans, len(self._ready), self._max_requests)

    def series(self) -> Iterator[Series]:
        """For the metrics."""
        now = self.statistics()
        yield Series.gauge("exporter_queue_size", "requests accepted and not yet sent or dropped", now.requests)
        yield Series.gauge("exporter_queue_capacity", "requests that the queue takes", now.capacity)
        yield Series.gauge("exporter_queue_bytes", "size of the requests in the queue", now.bytes)
        yield Series.gauge("exporter_queue_spans", "spans accepted and not yet sent or dropped", now.spans)
