"""Several backends in the order of preference: when one cannot be had, the next is tried at once.

The one that took the last request gets the next. While that is not the first, one request now and then tries
those before it: so a backend that is back gets its spans again, and one that is not costs one request its time.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from threading import Lock
from typing import Final

from enricher.otlp.transport import Failure, Sendable, Sender, StatusCode, Taken
from enricher.telemetry.logs import get_logger
from enricher.telemetry.metrics import Series

log = get_logger()

RETURN_AFTER_NS: Final = 30_000_000_000
# It cannot be had, or does not answer: another one may. What it refuses is refused.
_AWAY: Final = frozenset({StatusCode.UNAVAILABLE, StatusCode.DEADLINE_EXCEEDED})


class FailOver:
    """A `Sender` over others, at least one."""

    def __init__(self, senders: Sequence[Sender], *, clock_ns: Callable[[], int] = time.monotonic_ns) -> None:
        self._senders = senders
        self._clock_ns = clock_ns
        self._lock = Lock()
        self._current = 0
        self._left_first_ns = 0  # or tried again to return to it
        self._fail_overs = 0

    @property
    def destination(self) -> str:
        return self._senders[self._current].destination

    def send(self, bodies: Sequence[Sendable], timeout_ns: int) -> Taken | Failure:
        """From the one in use on, each once; the answer of the last that was tried."""
        used, start = self._start()
        for step in range(len(self._senders)):
            place = (start + step) % len(self._senders)
            answer = self._senders[place].send(bodies, timeout_ns)
            if isinstance(answer, Taken) or answer.code not in _AWAY:
                if place != used:
                    self._move(used, place)
                return answer
        return answer

    def close(self) -> None:
        for sender in self._senders:
            sender.close()

    def series(self) -> Iterator[Series]:
        """For the metrics."""
        current = self._current
        in_use = {sender.destination: float(place == current) for place, sender in enumerate(self._senders)}
        yield Series("exporter_endpoint_in_use", "gauge", "1 for the endpoint that is sent to", "endpoint", in_use)
        yield Series(
            "exporter_fail_overs", "counter", "times that another endpoint came into use", "", {"": self._fail_overs}
        )

    def _start(self) -> tuple[int, int]:
        """Which is in use, and which is to be tried first."""
        if self._current == 0:
            return 0, 0
        with self._lock:
            now_ns = self._clock_ns()
            if now_ns - self._left_first_ns < RETURN_AFTER_NS:
                return self._current, self._current
            self._left_first_ns = now_ns
            return self._current, 0

    def _move(self, used: int, place: int) -> None:
        with self._lock:
            if self._current != used:
                return  # another thread was first
            self._current = place
            self._left_first_ns = self._clock_ns()
            self._fail_overs += 1
        before, now = self._senders[used].destination, self._senders[place].destination
        if place > used:
            log.warning("the backend cannot be had, spans go to another one", endpoint=now, before=before)
        else:
            log.info("a preferred backend is back, spans go to it", endpoint=now, before=before)
