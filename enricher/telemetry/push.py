"""The metrics of one worker, sent over OTLP again and again.

Each worker sends its own, as an instance of its own: numbers of two processes under one name would be a sum that goes
up and down. What did not arrive is not sent again, as the next numbers have it in them.
"""

import os
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from threading import Event, Thread
from typing import Final

from enricher._native import Client, UnusableClient
from enricher.config.model import MetricsPush
from enricher.otlp.sending.http import endpoint_and_path
from enricher.otlp.sending.native import NativeSender, cannot_send, client_tls
from enricher.otlp.transport import Sender, StatusCode, Taken
from enricher.telemetry.logs import FirstTimes, get_logger
from enricher.telemetry.metrics import Counter, Series

GRPC_PATH: Final = "/opentelemetry.proto.collector.metrics.v1.MetricsService/Export"
_TIMEOUT_NS: Final = 5_000_000_000
_LAST_TIMEOUT_NS: Final = 1_000_000_000
_KEEPALIVE_NS: Final = 60_000_000_000
_KEEPALIVE_TIMEOUT_NS: Final = 20_000_000_000

log = get_logger()


@dataclass(frozen=True, slots=True)
class _Encoded:
    """A `Sendable`."""

    body: bytes


class Push:
    """Sends every `interval_ns`, and a last time when it is stopped."""

    def __init__(
        self, sender: Sender, interval_ns: int, series: Callable[[], Iterable[Series]], worker: int, version: str
    ) -> None:
        self._sender = sender
        self._interval_s = interval_ns / 1e9
        self._series = series
        self._version = version
        self._resource = {
            "service.name": "enricher",
            "service.version": version,
            "service.instance.id": str(uuid.uuid4()),  # of this process: its sums begin at 0
            "host.name": os.uname().nodename,
            "enricher.worker": str(worker),
        }
        self._start_ns = time.time_ns()
        self._pushes = Counter("metrics_pushes", "times that the metrics were sent, by what became of it", "outcome")
        self._first_time = FirstTimes()
        self._over = Event()
        self._thread = Thread(target=self._run, name="push", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Takes as long as the last sending, a second at most."""
        self._over.set()
        self._thread.join(2 * _LAST_TIMEOUT_NS / 1e9)
        self._sender.close()

    def series(self) -> Iterator[Series]:
        """For the metrics."""
        yield self._pushes.series()

    def _run(self) -> None:
        while not self._over.wait(self._interval_s):
            self._push(_TIMEOUT_NS)
        self._push(_LAST_TIMEOUT_NS)

    def _push(self, timeout_ns: int) -> None:
        from enricher.telemetry.otlp_metrics import encoded

        try:
            body = encoded(self._series(), self._resource, self._version, self._start_ns, time.time_ns())
            answer = self._sender.send([_Encoded(body)], timeout_ns)
        except Exception as error:  # noqa: BLE001 - the next time may go better
            self._tell("fault", str(error) or type(error).__name__)
            return
        if not isinstance(answer, Taken):
            self._tell(StatusCode(answer.code).name.lower(), answer.message)
        elif answer.rejected_spans:
            self._tell("partly_rejected", answer.message)
        else:
            self._pushes.add(1, "ok")

    def _tell(self, outcome: str, reason: str) -> None:
        self._pushes.add(1, outcome)
        if self._first_time(outcome):
            log.warning("the metrics could not be sent", to=self._sender.destination, outcome=outcome, reason=reason)


def push(settings: MetricsPush, series: Callable[[], Iterable[Series]], worker: int, version: str) -> Push:
    """As configured. Raises CannotSendError."""
    target = settings.target
    try:
        if settings.protocol == "grpc":
            client = Client.grpc(
                target.address,
                path=GRPC_PATH,
                tls=client_tls(settings.tls, target),
                headers=list(settings.headers.items()),
                keepalive_time_ns=_KEEPALIVE_NS,
                keepalive_timeout_ns=_KEEPALIVE_TIMEOUT_NS,
            )
        else:
            endpoint, path = endpoint_and_path(target)
            client = Client.http(
                endpoint,
                path=path,
                tls=client_tls(settings.tls, target),
                headers=list(settings.headers.items()),
                keepalive_time_ns=_KEEPALIVE_NS,
                keepalive_timeout_ns=_KEEPALIVE_TIMEOUT_NS,
            )
    except UnusableClient as error:
        raise cannot_send(target, error) from error
    return Push(NativeSender(target.address, client), settings.interval_ns, series, worker, version)
