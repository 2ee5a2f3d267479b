"""HTTP for `pages`, on a socket that the supervisor has opened.

Served by hand: an HTTP server of the standard library reads for as long as a client drips bytes, and writes a
traceback for each that breaks off.
"""

import os
import select
import socket
import time
from collections.abc import Callable
from http import HTTPStatus
from threading import Event, Thread
from typing import Final

from enricher.telemetry.logs import FirstTimes, get_logger
from enricher.telemetry.pages import Page

# Scrapes are served one after the other; this is how long one can hold up the next, whatever it does.
_SCRAPE_TIMEOUT_S: Final = 2.0
_PAUSE_S: Final = 0.5
_MAX_HEAD_BYTES: Final = 16 << 10

log = get_logger()


class PagesEndpoint:
    """Serves `pages(method, path)` on a socket that listens already, and does not block."""

    def __init__(self, listener: socket.socket, pages: Callable[[str, str], Page]) -> None:
        self._listener: socket.socket | None = listener
        self._pages = pages
        self._thread: Thread | None = None
        self._over = Event()
        self._stop_reader, self._stop_writer = -1, -1
        self._first_time = FirstTimes()

    def start(self) -> None:
        assert self._listener is not None
        self._stop_reader, self._stop_writer = os.pipe()
        self._thread = Thread(target=self._serve, args=(self._listener,), name="pages", daemon=True)
        self._thread.start()

    @property
    def alive(self) -> bool:
        return self._thread is not None and self._thread.is_alive()

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
                status, kind, body = self._answer(_read_head(client, deadline_s))
                head = (
                    f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\nContent-Type: {kind}\r\n"
                    f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
                )
                client.settimeout(max(0.001, deadline_s - time.monotonic()))
                client.sendall(head.encode() + body)  # of all, by its timeout
            except OSError as error:
                log.debug("a scrape broke off", error=error)

    def _answer(self, head: bytes) -> Page:
        words = head.split(b"\n", 1)[0].split()
        method, path = words[:2] if len(words) > 1 else (b"GET", b"/")
        return self._pages(method.decode("ascii", "replace"), path.decode("ascii", "replace"))


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
