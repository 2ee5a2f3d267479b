"""The metrics for Prometheus, over HTTP.

The socket is bound at start, so that a busy port is known then; the client library and the HTTP server are
loaded when the first scrape comes, as they cost 5 MiB that nobody may ever use.
"""

import errno
import os
import select
import socket
from threading import Thread
from typing import TYPE_CHECKING, Final

from enricher.config.values import split_endpoint
from enricher.telemetry.logs import get_logger
from enricher.telemetry.metrics import Metrics, Series

if TYPE_CHECKING:
    from collections.abc import Iterator
    from wsgiref.simple_server import WSGIServer

    from prometheus_client.metrics_core import Metric

_PREFIX: Final = "enricher_"
_BACKLOG: Final = 16
# Scrapes are served one after the other; this is how long one that says nothing can hold up the next.
_SCRAPE_TIMEOUT_S: Final = 5

log = get_logger()


class MetricsEndpoint:
    """Serves `metrics` at `address` ("host:port", port 0 for any) under every path. No start is fatal."""

    def __init__(self, address: str, metrics: Metrics) -> None:
        self._address = address
        self._metrics = metrics
        self._listener: socket.socket | None = None
        self._thread: Thread | None = None
        self._stop_reader, self._stop_writer = -1, -1

    @property
    def port(self) -> int:
        """0 while it does not listen."""
        return self._listener.getsockname()[1] if self._listener else 0

    def start(self) -> bool:
        """False, and a warning in the log, where the address cannot be had: spans are worth more than numbers."""
        try:
            self._listener = _listen(self._address)
        except OSError as error:
            fix = "stop what listens there, or set service.telemetry.metrics.address"
            reason = "the port is taken" if error.errno == errno.EADDRINUSE else str(error)
            log.warning("no metrics endpoint", address=self._address, reason=reason, fix=fix)
            return False
        self._stop_reader, self._stop_writer = os.pipe()
        self._thread = Thread(target=self._serve, name="metrics", daemon=True)
        self._thread.start()
        return True

    def stop(self) -> None:
        if self._thread is None or self._listener is None:
            return
        os.write(self._stop_writer, b"x")
        self._thread.join()
        self._listener.close()
        os.close(self._stop_reader)
        os.close(self._stop_writer)
        self._thread = self._listener = None

    def _serve(self) -> None:
        assert self._listener is not None
        listener = self._listener.fileno()
        if not self._connected(listener):
            return
        server = _http_server(self._listener, self._metrics)
        while self._connected(listener):
            server.handle_request()

    def _connected(self, listener: int) -> bool:
        """Waits until somebody connects: True. Or until `stop`: False."""
        readable, _, _ = select.select([listener, self._stop_reader], [], [])
        return self._stop_reader not in readable


def _http_server(listener: socket.socket, metrics: Metrics) -> "WSGIServer":
    from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

    from prometheus_client import CollectorRegistry, make_wsgi_app

    class Handler(WSGIRequestHandler):
        timeout = _SCRAPE_TIMEOUT_S

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name is the base's
            """A scrape is no news."""

    class Server(WSGIServer):
        def __init__(self) -> None:
            host, port = listener.getsockname()[:2]
            super().__init__((host, port), Handler, bind_and_activate=False)
            self.socket.close()
            self.socket = listener
            self.server_name, self.server_port = host, port
            self.setup_environ()

        def handle_error(self, request: object, client_address: object) -> None:  # noqa: ARG002 - the base's
            log.debug("a scrape broke off", client=client_address)

    registry = CollectorRegistry()
    registry.register(_Collector(metrics))
    server = Server()
    server.set_app(make_wsgi_app(registry))
    return server


class _Collector:
    """What prometheus_client asks for the metrics."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def collect(self) -> "Iterator[Metric]":
        return map(_metric, self._metrics.series())


def _metric(series: Series) -> "Metric":
    from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily

    family = CounterMetricFamily if series.kind == "counter" else GaugeMetricFamily
    metric = family(_PREFIX + series.name, series.meaning, labels=[series.label] if series.label else [])
    for label_value, value in series.values.items():
        metric.add_metric([label_value] if series.label else [], value)
    return metric


def _listen(address: str) -> socket.socket:
    host, port = split_endpoint(address)
    family, kind, protocol, _, where = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(where)
        listener.listen(_BACKLOG)
        listener.setblocking(False)  # a client that has gone between select and accept must not block
    except OSError:
        listener.close()
        raise
    return listener
