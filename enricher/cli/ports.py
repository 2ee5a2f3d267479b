"""Whether the enricher could listen where its configuration says, and who does if it could not."""

import errno
import os
import socket
import struct
from collections.abc import Iterator
from pathlib import Path

from enricher.config.endpoints import unix_path
from enricher.config.values import split_endpoint
from enricher.observer.host import Answer, Check
from enricher.processes import proc

_LISTEN = "0A"  # include/net/tcp_states.h
_MOST_DESCRIPTORS = 100_000
_OUR_MODULE = b"enricher.pipeline"
_OUR_COMMAND = b"enricher"  # the supervisor, which makes the sockets


def endpoint(whose: str, endpoint: str, cost: str) -> Check:
    """Tries whether something could listen at `endpoint`: host:port or unix:///path."""
    path = unix_path(endpoint)
    return port(f"{whose} port", endpoint, cost) if path is None else unix(f"{whose} socket", Path(path), cost)


def unix(name: str, path: Path, cost: str) -> Check:
    """Looks whether a Unix socket could be made at `path`, or who listens there; connects for a moment."""
    answer, detail, fix = Answer.YES, f"{path} can be made", ""
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.connect(str(path))
            holder = struct.unpack("=iii", probe.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[0]
            detail = f"{path} is held by the enricher that is running"
            if not _is_ours(holder):
                answer, detail = Answer.NO, f"{path} is held by process {holder} ({_name(holder)})"
                fix = "stop that process, or write another endpoint"
    except FileNotFoundError:
        if not path.parent.is_dir():
            answer, detail, fix = Answer.NO, f"{path.parent} is not a directory", f"make it: mkdir -p {path.parent}"
        elif not os.access(path.parent, os.W_OK | os.X_OK):
            answer, detail, fix = Answer.NO, f"{path.parent} cannot be written to", "write another endpoint"
    except OSError as error:
        # What is left of one that has ended is replaced.
        if not path.is_socket() or error.errno != errno.ECONNREFUSED:
            answer, detail = Answer.NO, f"{path} cannot be listened at: {error.strerror}"
            fix = "remove what is there, or write another endpoint"
    return Check(name, answer, detail, cost, fix)


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
    return _OUR_MODULE in arguments or _OUR_COMMAND in (argument.rpartition(b"/")[2] for argument in arguments[:2])


def _name(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/exe").readlink().name
    except OSError:
        return "its executable is not visible here"
