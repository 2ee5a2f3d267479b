"""A backend of OTLP over HTTP for the tests, on the standard library's server; and one that says what it likes."""

import socket
import ssl
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Self


@dataclass(frozen=True, slots=True)
class Reply:
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""


@dataclass(frozen=True, slots=True)
class Seen:
    path: str
    headers: Mapping[str, str]  # names in lower case
    body: bytes


class HttpBackend:
    """Answers the first requests with `script`, one each, all others with `then`."""

    def __init__(
        self,
        script: Sequence[Reply] = (),
        then: Reply | None = None,
        *,
        tls: ssl.SSLContext | None = None,
        port: int = 0,
    ) -> None:
        self.seen: list[Seen] = []
        self.connections = 0
        self._open: list[socket.socket] = []
        self._script = list(script)
        self._then = then or Reply()
        self._lock = threading.Lock()
        backend = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def setup(self) -> None:
                with backend._lock:
                    backend.connections += 1
                    backend._open.append(self.request)
                super().setup()

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                reply = backend._reply(Seen(self.path, {k.lower(): v for k, v in self.headers.items()}, body))
                self.send_response(reply.status)
                for name, value in reply.headers.items():
                    self.send_header(name, value)
                self.send_header("content-length", str(len(reply.body)))
                self.end_headers()
                self.wfile.write(reply.body)

            def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002 - the base class's
                pass

        class Server(ThreadingHTTPServer):
            def handle_error(self, request: object, client_address: object) -> None:
                """A client that goes away, or does not like our certificate, is what the tests are about."""

        self._server = Server(("127.0.0.1", port), Handler)
        self._server.daemon_threads = True
        if tls is not None:
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True, do_handshake_on_connect=False)
        self.port = self._server.server_address[1]

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """As a crash: what is open is cut off."""
        self._server.shutdown()
        self._server.server_close()
        for connection in self._open:
            with suppress(OSError):  # it has gone already
                connection.shutdown(socket.SHUT_RDWR)

    def _reply(self, seen: Seen) -> Reply:
        with self._lock:
            self.seen.append(seen)
            return self._script.pop(0) if self._script else self._then


class RawServer:
    """Hands each connection to `serve`, on a thread; it is closed when that returns."""

    def __init__(self, serve: Callable[[socket.socket], None], *, listener: socket.socket | None = None) -> None:
        self._serve = serve
        self._listener = listener or socket.create_server(("127.0.0.1", 0))
        self.accepted = 0
        self._open: list[socket.socket] = []
        self.port = self._listener.getsockname()[1] if self._listener.family == socket.AF_INET else 0

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for connection in self._open:
            connection.close()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self.accepted += 1
            self._open.append(connection)
            threading.Thread(target=self._run, args=(connection,), daemon=True).start()

    def _run(self, connection: socket.socket) -> None:
        try:
            self._serve(connection)
        except OSError:
            pass  # the client has had enough
        finally:
            connection.close()
