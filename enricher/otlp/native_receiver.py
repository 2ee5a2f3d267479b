"""OTLP in, on the native transport: over gRPC and HTTP, and beside it pages, control calls and the health service.

Requests go from the line into the queue without Python. What comes from here is what to listen on, and, again and
again, how well the pipeline is: should this program hang, nobody says so, and the health service knows.
"""

import resource
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from threading import Event, Thread
from typing import Final, Literal

from enricher._native import Queue, Server
from enricher._native import ServerTls as NativeTls
from enricher.config.model import Settings
from enricher.config.model.receivers import Cors
from enricher.config.model.security import BearerAuth, ServerTls
from enricher.errors import EnricherError
from enricher.listening import Kind
from enricher.otlp.transport import TRACE_SERVICE, Limits, ServingStatus
from enricher.telemetry.health import EVIDENCE_SERVICE
from enricher.telemetry.logs import FirstTimes, get_logger
from enricher.telemetry.metrics import Series

SERVICES: Final = ("", TRACE_SERVICE, EVIDENCE_SERVICE)
_HEALTH_EVERY_S: Final = 0.25
# Beside connections: logs, evidence, backends.
_OTHER_DESCRIPTORS: Final = 256

log = get_logger()

ServerEvent = Literal["cannot_accept", "reloaded", "cannot_reload"]
Answer = Callable[[str, str], tuple[int, str, bytes]] | Callable[[str, bytes], tuple[int, str, bytes]]


class UnfitListenerError(EnricherError):
    """Certificates, key or tokens of a listener cannot be used."""

    code = "unfit_listener"

    def __init__(self, kind: Kind, reason: str) -> None:
        fix = "See that the files are there, that the pipeline's user may read them, and that they belong together."
        super().__init__(f"cannot listen for {kind}: {reason}", fix=fix)
        self.kind = kind
        self.reason = reason


@dataclass(frozen=True, slots=True, kw_only=True)
class Listening:
    """One endpoint: its sockets, which listen already, and what whoever connects gets there.

    `answer`, of kinds pages and control, is as for `Server.listen`.
    """

    kind: Kind
    sockets: Sequence[socket.socket]
    max_message_bytes: int = 4 << 20
    max_connections: int = 4096
    tls: ServerTls | None = None
    auth: BearerAuth | None = None
    token_reload_ns: int = 10_000_000_000  # how often a file of tokens is looked at
    traces_path: str = "/v1/traces"
    cors: Cors = field(default_factory=Cors)
    answer: Answer | None = None


class NativeReceiver:
    """A `Receiver`. Several that share nothing may run side by side."""

    def __init__(
        self,
        queue: Queue | None,
        listening: Sequence[Listening],
        limits: Limits,
        health: ServingStatus,
        *,
        services: Sequence[str] = SERVICES,
    ) -> None:
        """The sockets are the receiver's from now on. Without a queue, only pages and control calls are served.

        `services`: those that are asked of `health`. Raises UnfitListenerError.
        """
        self._listening = listening
        self._status = health
        self._services = services
        self._first_time = FirstTimes()
        self._over = Event()
        self._thread: Thread | None = None
        self._port = next((_port(opened) for each in listening for opened in each.sockets), 0)
        self._server = Server(
            queue,
            self._told,
            max_streams=limits.max_concurrent_streams,
            max_header_bytes=limits.max_metadata_bytes,
            max_bytes_under_way=limits.max_bytes_under_way,
            message_timeout_ns=limits.message_timeout_ns,
            keepalive_time_ns=limits.keepalive_time_ns,
            keepalive_timeout_ns=limits.keepalive_timeout_ns,
            max_connection_age_ns=limits.max_connection_age_ns,
            connection_grace_ns=limits.max_connection_age_grace_ns,
            max_connection_idle_ns=limits.max_connection_idle_ns,
        )
        for each in listening:
            try:
                self._listen(each)
            except ValueError as error:
                raise UnfitListenerError(each.kind, str(error)) from error

    @property
    def port(self) -> int:
        """Of the first endpoint; 0 if it is a Unix socket."""
        return self._port

    def start(self) -> None:
        _allow_descriptors(sum(each.max_connections for each in self._listening))
        self._tell_health()
        self._thread = Thread(target=self._keep_telling, name="health", daemon=True)
        self._thread.start()
        self._server.start()

    def stop(self, grace_s: float) -> None:
        self._over.set()
        if self._thread is not None:
            self._thread.join()
            self._tell_health()
        self._server.stop(grace_s)

    def statistics(self) -> dict[str, int]:
        """As of `Server`."""
        return self._server.statistics()

    def series(self) -> Iterator[Series]:
        """For the metrics."""
        now = self._server.statistics()
        for name in ("connections", "bytes_under_way"):
            yield Series.gauge(f"receiver_{name}", _MEANINGS[name], now.pop(name))
        for name, value in now.items():
            yield Series(f"receiver_{name}", "counter", _MEANINGS[name], "", {"": value})

    def _listen(self, each: Listening) -> None:
        tls = None
        if each.tls:
            tls = NativeTls(
                each.tls.cert_file,
                each.tls.key_file,
                client_ca_file=each.tls.client_ca_file,
                reload_interval_ns=each.tls.reload_interval_ns,
            )
        auth = each.auth or BearerAuth()
        for opened in each.sockets:
            self._server.listen(
                opened.fileno(),
                each.kind,
                max_message_bytes=each.max_message_bytes,
                max_connections=each.max_connections,
                tls=tls,
                bearer_tokens=() if auth.bearer_token is None else (auth.bearer_token.encode(),),
                bearer_token_file=auth.bearer_token_file,
                reload_interval_ns=each.token_reload_ns,
                traces_path=each.traces_path,
                cors_origins=each.cors.allowed_origins,
                cors_headers=each.cors.allowed_headers,
                answer=each.answer,
            )
            opened.close()

    def _keep_telling(self) -> None:
        while not self._over.wait(_HEALTH_EVERY_S):
            self._tell_health()

    def _tell_health(self) -> None:
        try:
            for service in self._services:
                serving = self._status.serving(service)
                if serving is not None:
                    self._server.health(service, serving)
        except Exception as error:
            if self._first_time(type(error)):
                log.exception("the health of the pipeline cannot be told")

    def _told(self, event: ServerEvent, what: str) -> None:
        if event == "reloaded":
            log.info("certificates or tokens were read again", file=what)
        elif event == "cannot_reload":
            log.warning("the new certificates or tokens are unfit, those before stay in use", reason=what)
        else:
            log.warning("connections cannot be accepted", reason=what)


_MEANINGS: Final = {
    "connections": "connections as of now",
    "bytes_under_way": "memory that requests take which are still coming",
    "connections_accepted": "connections that were accepted",
    "connections_refused": "connections beyond those that a listener may have",
    "connections_failed": "connections that did not say in time, or in words of HTTP, what they want",
    "accept_failures": "times that the system had no room for a connection",
    "tls_failures": "connections whose TLS handshake failed",
    "grpc_requests": "requests over gRPC",
    "http_requests": "requests over HTTP",
    "page_requests": "requests for pages",
    "control_requests": "control calls",
    "health_requests": "calls of the health service",
    "unknown_requests": "requests for methods and paths that are not there",
    "received_bytes": "size of requests as they came",
    "decoded_bytes": "size of requests without their compression",
    "stalled_messages": "requests that stood still, and were given up as others needed their room",
    "slow_messages": "requests that did not come in time",
    "callbacks_refused": "pages and control calls that were refused, as too many waited",
    "callbacks_late": "pages and control calls that were not answered in time",
    "reloads": "times that certificates or tokens were read again",
    "failed_reloads": "times that new certificates or tokens were unfit",
}


def of_spans(settings: Settings, sockets: Mapping[Kind, Sequence[socket.socket]]) -> list[Listening]:
    """The endpoints that take spans, of those for which there are sockets."""
    found = []
    if settings.grpc and (opened := sockets.get("grpc")):
        found.append(
            Listening(
                kind="grpc",
                sockets=opened,
                max_message_bytes=settings.grpc.max_recv_bytes,
                max_connections=settings.grpc.max_connections,
                tls=settings.grpc.tls,
                auth=settings.grpc.auth,
            )
        )
    if settings.http and (opened := sockets.get("http")):
        found.append(
            Listening(
                kind="http",
                sockets=opened,
                max_message_bytes=settings.http.max_recv_bytes,
                max_connections=settings.http.max_connections,
                tls=settings.http.tls,
                auth=settings.http.auth,
                traces_path=settings.http.traces_url_path,
                cors=settings.http.cors,
            )
        )
    return found


def _port(opened: socket.socket) -> int:
    if opened.family == socket.AF_UNIX:
        return 0
    port: int = opened.getsockname()[1]
    return port


def _allow_descriptors(connections: int) -> None:
    """As many as the system allows without asking, up to what the limits of connections want."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = connections + _OTHER_DESCRIPTORS
    if hard != resource.RLIM_INFINITY:
        wanted = min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
