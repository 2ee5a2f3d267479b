"""Whether the enricher could listen where its configuration says, and who does if it could not."""

import errno
import socket
from collections.abc import Iterator
from pathlib import Path

from enricher.config.values import split_endpoint
from enricher.observer.host import Answer, Check
from enricher.processes import proc

_LISTEN = "0A"  # include/net/tcp_states.h
_MOST_DESCRIPTORS = 100_000
_OUR_MODULE = b"enricher.pipeline"


def port(name: str, endpoint: str, cost: str) -> Check:
    """Tries to bind `endpoint`, as host:port, and lets go of it again."""
    host, number = split_endpoint(endpoint)
    answer, detail = Answer.YES, f"{endpoint} is free"
    fix = ""
    try:
        _bind(host, number)
    except socket.gaierror as error:
        answer, detail = Answer.NO, f"{host} cannot be resolved: {error.strerror}"
        fix = "write an address of this host"
    except OSError as error:
        answer, detail = Answer.NO, f"{endpoint} cannot be bound: {error.strerror}"
        fix = "write an endpoint that this process may bind"
        if error.errno == errno.EADDRINUSE:
            holders = list(_holders(number))
            if any(_is_ours(pid) for pid in holders):
                answer, detail = Answer.YES, f"{endpoint} is held by the enricher that is running"
            else:
                by = f"process {holders[0]} ({_name(holders[0])})" if holders else "a process not visible here"
                detail = f"{endpoint} is held by {by}"
                fix = "stop that process, or write another endpoint"
    return Check(name, answer, detail, cost, fix)


def _bind(host: str, number: int) -> None:
    """Raises OSError for the first address of `host` that cannot be bound."""
    found = socket.getaddrinfo(host, number, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    for family, kind, protocol, _, address in found:
        with socket.socket(family, kind, protocol) as probe:
            # As servers do: connections that are only dying do not hold the port.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
            probe.listen(1)


def _holders(number: int) -> Iterator[int]:
    """The processes that listen on a TCP port, as far as this one may see."""
    inodes = {inode for table in ("tcp", "tcp6") for inode in _listening(Path("/proc/net") / table, number)}
    for pid in proc.pids():
        if inodes & set(proc.socket_inodes(pid, at_most=_MOST_DESCRIPTORS)):
            yield pid


def _listening(table: Path, number: int) -> Iterator[int]:
    """Inodes of the listening sockets of a table of proc_net(5)."""
    try:
        lines = table.read_text().splitlines()[1:]
    except OSError:  # no IPv6 on this host
        return
    for line in lines:
        fields = line.split()
        if fields[3] == _LISTEN and int(fields[1].rpartition(":")[2], 16) == number:
            yield int(fields[9])


def _is_ours(pid: int) -> bool:
    try:
        arguments = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return False
    return _OUR_MODULE in arguments


def _name(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/exe").readlink().name
    except OSError:
        return "its executable is not visible here"
