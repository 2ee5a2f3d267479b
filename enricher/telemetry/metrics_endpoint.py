"""The metrics for Prometheus, over HTTP, in its text format; and under /explain/ why the spans of a trace left so.

Served by hand: an HTTP server of the standard library reads for as long as a client drips bytes, and writes a
traceback for each that breaks off; and Prometheus' client costs 5 MiB to print a few lines.
"""

import errno
import os
import select
import socket
import time
from collections.abc import Callable, Iterator
from http import HTTPStatus
from threading import Event, Thread
from typing import Final

from enricher.config.values import split_endpoint
from enricher.telemetry.logs import FirstTimes, get_logger
from enricher.telemetry.metrics import Metrics, Series

_PREFIX: Final = "enricher_"
_BACKLOG: Final = 16
# Scrapes are served one after the other; this is how long one can hold up the next, whatever it does.
_SCRAPE_TIMEOUT_S: Final = 2.0
_PAUSE_S: Final = 0.5
_MAX_HEAD_BYTES: Final = 16 << 10
_METRICS_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
_EXPLAIN: Final = b"/explain/"

log = get_logger()


class MetricsEndpoint:
    """Serves `metrics` at `address` ("host:port", port 0 for any) under every other path. No start is fatal."""

    def __init__(
        self, address: str, metrics: Metrics, explain: Callable[[str], tuple[HTTPStatus, bytes]] | None = None
    ) -> None:
        """`explain` answers with JSON for what follows /explain/, and takes less than a second."""
        self._explain = explain
        self._address = address
        self._metrics = metrics
        self._listener: socket.socket | None = None
        self._thread: Thread | None = None
        self._over = Event()
        self._stop_reader, self._stop_writer = -1, -1
        self._first_time = FirstTimes()

    @property
    def port(self) -> int:
        """0 while it does not listen."""
        return self._listener.getsockname()[1] if self._listener else 0

    def start(self) -> bool:
        """False, and a warning in the log, where the address cannot be had: spans are worth more than numbers."""
        try:
            self._listener = _listen(self._address)
        except (OSError, UnicodeError, LookupError) as error:
            fix = "stop what listens there, or set service.telemetry.metrics.address"
            taken = isinstance(error, OSError) and error.errno == errno.EADDRINUSE
            reason = "the port is taken" if taken else str(error)
            log.warning("no metrics endpoint", address=self._address, reason=reason, fix=fix)
            return False
        self._stop_reader, self._stop_writer = os.pipe()
        self._thread = Thread(target=self._serve, args=(self._listener,), name="metrics", daemon=True)
        self._thread.start()
        return True

    def stop(self) -> None:
        if self._thread is None or self._listener is None:
            return
        self._over.set()
        os.write(self._stop_writer, b"x")
        self._thread.join(2 * _SCRAPE_TIMEOUT_S)
        self._listener.close()
        if not self._thread.is_alive():  # else it would wait on whoever gets these numbers next
            os.close(self._stop_reader)
            os.close(self._stop_writer)
        self._thread = self._listener = None

    def _serve(self, listener: socket.socket) -> None:
        """Until `stop`."""
        while not self._over.is_set():
            try:
                ready, _, _ = select.select([listener.fileno(), self._stop_reader], [], [])
                if listener.fileno() in ready:
                    self._answer_next(listener)
            except Exception as error:
                if self._over.is_set():
                    return  # the listener was closed during a scrape that took too long
                if self._first_time(type(error)):
                    log.exception("a scrape could not be served")
                # Out of descriptors, a connection stays in the queue of the listener, and that readable.
                self._over.wait(_PAUSE_S)

    def _answer_next(self, listener: socket.socket) -> None:
        try:
            client, _ = listener.accept()
        except (BlockingIOError, ConnectionError):
            return  # it has gone meanwhile
        with client:
            try:
                deadline_s = time.monotonic() + _SCRAPE_TIMEOUT_S
                status, kind, body = self._answer(_path(_read_head(client, deadline_s)))
                head = (
                    f"HTTP/1.1 {status.value} {status.phrase}\r\nContent-Type: {kind}\r\n"
                    f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
                )
                client.settimeout(max(0.001, deadline_s - time.monotonic()))
                client.sendall(head.encode() + body)  # of all, by its timeout
            except OSError as error:
                log.debug("a scrape broke off", error=error)

    def _answer(self, path: bytes) -> tuple[HTTPStatus, str, bytes]:
        """Status, content type and content."""
        if self._explain and path.startswith(_EXPLAIN):
            trace_id = path.removeprefix(_EXPLAIN).decode("ascii", "replace")
            status, answer = self._explain(trace_id)
            return status, "application/json", answer
        return HTTPStatus.OK, _METRICS_TYPE, "".join(text(self._metrics.series())).encode()


def text(metrics: Iterator[Series]) -> Iterator[str]:
    """Lines in Prometheus' text exposition format, version 0.0.4."""
    for series in metrics:
        name = _PREFIX + series.name + ("_total" if series.kind == "counter" else "")
        meaning = series.meaning.replace("\\", r"\\").replace("\n", r"\n")
        yield f"# HELP {name} {meaning}\n# TYPE {name} {series.kind}\n"
        for value_of_label, value in series.values.items():
            label = f'{{{series.label}="{_escaped(value_of_label)}"}}' if series.label else ""
            yield f"{name}{label} {value}\n"


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")


def _path(head: bytes) -> bytes:
    """Of a GET; anything else is answered as if it had asked for nothing in particular."""
    words = head.split(b"\n", 1)[0].split()
    return words[1] if len(words) > 1 and words[0] == b"GET" else b""


def _read_head(client: socket.socket, deadline_s: float) -> bytes:
    """Raises TimeoutError, ConnectionError."""
    head = bytearray()
    while b"\r\n\r\n" not in head and b"\n\n" not in head:
        client.settimeout(max(0.001, deadline_s - time.monotonic()))
        more = client.recv(4096)
        head += more
        if not more or len(head) > _MAX_HEAD_BYTES:
            raise ConnectionAbortedError("this is no request")
    return bytes(head)


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
