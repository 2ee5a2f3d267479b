"""The sockets that the pipeline listens on, made by the supervisor.

They outlive the workers: while one is started anew, connections wait and none is refused. Each worker has a socket of
its own for each address, among which the kernel spreads connections (SO_REUSEPORT), as a shared one would give most of
them to whichever worker wakes first; what is asked now and then, and what has a path, is shared.
"""

import errno
import os
import socket
import stat
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

from enricher.config.model import Settings
from enricher.config.values import split_endpoint
from enricher.otlp.transport import CannotListenError

Kind = Literal["grpc", "http", "pages", "control"]

UNIX_SCHEME: Final = "unix://"
# Connections that wait while a worker is started anew; the kernel's own limit (net.core.somaxconn) is 4096.
BACKLOG: Final = 4096
_LOOPBACKS: Final = ("127.0.0.1", "::1")
_SOCKET_MODE: Final = 0o660

_Address = tuple[int, Any]  # family, and what `bind` takes for it


@dataclass(slots=True)
class Listener:
    """One endpoint: "host:port" or "unix:///path". Port 0 is any free one, and the same for all addresses of a name."""

    kind: Kind
    endpoint: str
    setting: str  # its key in the configuration
    shared: bool = False  # by all workers
    optional: bool = False  # spans are worth more than what is told there
    port: int = 0  # once it is open; 0 of a path
    _sockets: list[list[socket.socket]] = field(default_factory=list)  # by address, then as many as there are workers
    _made: tuple[int, int] | None = None  # device and inode of the path, if this one has made it

    def open(self, workers: int) -> None:
        """Sockets for so many workers; those that are there stay. Raises CannotListenError, having opened nothing."""
        if self.endpoint.startswith(UNIX_SCHEME):
            if not self._sockets:
                self._sockets = [[self._open_path()]]
            return
        wanted = 1 if self.shared else workers
        try:
            if not self._sockets:
                self._open_first()
            for opened in self._sockets:
                while len(opened) < wanted:
                    opened.append(_another(opened[0]))
        except OSError as error:
            raise self._cannot(error) from error

    def descriptors(self, worker: int, workers: int) -> list[int]:
        """Those that this one of so many workers listens on: together they have all that were ever opened."""
        return [
            opened.fileno()
            for sockets in self._sockets
            for number, opened in enumerate(sockets)
            if len(sockets) == 1 or number % workers == worker
        ]

    def close(self) -> None:
        for sockets in self._sockets:
            for opened in sockets:
                opened.close()
        self._sockets.clear()
        if self._made:
            path = _path(self.endpoint)
            with suppress(OSError):
                found = path.lstat()
                if (found.st_dev, found.st_ino) == self._made:  # and not that of another which came after
                    path.unlink()

    def _open_first(self) -> None:
        host, port = split_endpoint(self.endpoint)
        missing = OSError(errno.EADDRNOTAVAIL, os.strerror(errno.EADDRNOTAVAIL))
        try:
            for family, where in _addresses(host, port):
                try:
                    first = _alone(family, _with_port(where, self.port or port))
                except OSError as error:
                    if error.errno not in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
                        raise
                    missing = error  # such as ::1 where there is no IPv6: nobody could reach it
                    continue
                self._sockets.append([first])
                self.port = first.getsockname()[1]
        except OSError:
            self.close()
            raise
        if not self._sockets:
            raise missing

    def _open_path(self) -> socket.socket:
        path = _path(self.endpoint)
        made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        # Made beside it and moved there: whoever connects meets the old one or this one.
        beside = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            _leave_to_us(path)
            made.bind(str(beside))
            beside.chmod(_SOCKET_MODE)
            made.listen(BACKLOG)
            made.setblocking(False)
            beside.rename(path)
            found = path.lstat()
        except OSError as error:
            made.close()
            with suppress(OSError):
                beside.unlink()
            raise self._cannot(error) from error
        self._made = (found.st_dev, found.st_ino)
        return made

    def _cannot(self, error: OSError) -> CannotListenError:
        reason = error.strerror or str(error)
        fix = f"Set {self.setting} to an address of this machine."
        if self.endpoint.startswith(UNIX_SCHEME):
            fix = f"See that the directory is there and may be written, or set {self.setting} to another path."
            if error.errno == errno.EADDRINUSE:
                reason = "another program listens there" if not error.filename else "there is a file that is no socket"
                fix = f"Stop that program, or set {self.setting} to another path."
            return CannotListenError(self.endpoint, reason, fix=fix)
        host, port = split_endpoint(self.endpoint)
        if isinstance(error, socket.gaierror) and error.errno == socket.EAI_NONAME:
            reason = f"{host!r} is no host that is known here"
        elif error.errno == errno.EADDRINUSE:
            reason = f"port {port} is taken by another program"
            fix = f"Stop that program (ss -ltnp 'sport = :{port}' names it) or set {self.setting} to a free port."
        elif error.errno == errno.EACCES:
            reason = f"port {port} needs privilege"
            fix = f"Set {self.setting} to a port above 1023, or give the process CAP_NET_BIND_SERVICE."
        return CannotListenError(self.endpoint, reason, fix=fix)


def wanted_by(settings: Settings) -> list[Listener]:
    """What is to be opened, which then still is to be done."""
    service = settings.service
    found = [] if service.transport == "grpcio" else list(_receivers(settings))
    address = service.telemetry.metrics.address
    found.append(Listener("pages", address, "service.telemetry.metrics.address", shared=True, optional=True))
    if service.control:
        found.append(Listener("control", service.control.endpoint, "service.control.endpoint", shared=True))
    return found


def bound_by_workers(settings: Settings) -> list[Listener]:
    """What a transport that takes no descriptors opens by itself."""
    return list(_receivers(settings)) if settings.service.transport == "grpcio" else []


def open_all(listeners: Sequence[Listener], workers: int) -> list[CannotListenError]:
    """Why optional ones are not open. Raises CannotListenError of another, having closed those that it has opened."""
    fresh = [listener for listener in listeners if not listener.descriptors(0, 1)]
    failed = []
    for listener in listeners:
        try:
            listener.open(workers)
        except CannotListenError as error:
            if not listener.optional:
                for opened in fresh:
                    opened.close()
                raise
            failed.append(error)
    return failed


def _receivers(settings: Settings) -> Iterator[Listener]:
    at = "receivers.otlp.protocols"
    if settings.grpc:
        yield Listener("grpc", settings.grpc.endpoint, f"{at}.grpc.endpoint")
    if settings.http:
        yield Listener("http", settings.http.endpoint, f"{at}.http.endpoint")


def _path(endpoint: str) -> Path:
    return Path(endpoint.removeprefix(UNIX_SCHEME))


def _addresses(host: str, port: int) -> Iterator[_Address]:
    """Raises OSError where there is none."""
    # localhost is these two (RFC 6761), whatever the files of this machine say.
    for name in _LOOPBACKS if host.lower() == "localhost" else (host.strip("[]") or None,):
        try:
            found = socket.getaddrinfo(name, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        except UnicodeError as error:
            raise socket.gaierror(socket.EAI_NONAME, "no host name") from error
        for family, _, _, _, where in dict.fromkeys(found):
            yield family, where


def _with_port(where: Any, port: int) -> Any:  # noqa: ANN401 - an address, as the socket module has it
    return (where[0], port, *where[2:])


def _alone(family: int, where: Any) -> socket.socket:  # noqa: ANN401 - an address, as the socket module has it
    """The first socket of an address: without SO_REUSEPORT, so that it fails where any other program listens, be it
    one of the same user that would share. Which nobody can do from then on, as all have to begin like this."""
    made = _bound(family, where, shared=False)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)  # heeded when the next one is bound
    return made


def _another(first: socket.socket) -> socket.socket:
    return _bound(first.family, first.getsockname(), shared=True)


def _bound(family: int, where: Any, *, shared: bool) -> socket.socket:  # noqa: ANN401 - as above
    made = socket.socket(family, socket.SOCK_STREAM)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        made.bind(where)
        made.listen(BACKLOG)
        made.setblocking(False)
    except OSError:
        made.close()
        raise
    return made


def _leave_to_us(path: Path) -> None:
    """Raises OSError (EADDRINUSE) if another program listens at `path`, or it is no socket."""
    try:
        kind = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(kind):
        raise OSError(errno.EADDRINUSE, "no socket", str(path))
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            return  # left by one that has died
    raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))
