"""TCP connections of this host by the port they lead to, asked of the kernel by sock_diag(7).

Not /proc/net/tcp: it lists every connection of the host, where the kernel can pick those of one port. Not pyroute2
either: one request and one reply need 60 lines, and importing it makes this process 20 MiB bigger.
"""

import ctypes
import os
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import ClassVar

from enricher.errors import EnricherError

_CLONE_NEWNET = 0x40000000
_SOCK_DIAG_BY_FAMILY = 20
_REQUEST_DUMP = 0x1 | 0x300  # NLM_F_REQUEST | NLM_F_DUMP
_NLMSG_ERROR = 2
_NLMSG_DONE = 3
_ESTABLISHED = 1 << 1
_NETLINK_SOCK_DIAG = 4
_REPLY_BYTES = 65536
_DEADLINE_S = 1.0

_HEADER = struct.Struct("=IHHII")  # struct nlmsghdr
# struct inet_diag_req_v2: family, protocol, extensions, states, then struct inet_diag_sockid
_QUERY = struct.Struct("=BBBxI HH16s16sI8s")
# struct inet_diag_msg: family, state, timer, retransmits, inet_diag_sockid, expires, queues, uid, inode
_ANSWER = struct.Struct("=BBBB 2s2s16s16sI8s IIIII")
_ERROR = struct.Struct("=i")
_MAPPED = b"\0" * 10 + b"\xff\xff"  # an IPv4 address in an IPv6 socket, RFC 4291 section 2.5.5.2


class SocketsUnreadable(EnricherError):
    """The kernel does not list the connections."""

    code: ClassVar[str] = "sockets_unreadable"


@dataclass(frozen=True, slots=True)
class Connection:
    """One end of an established TCP connection. Addresses are 4 or 16 bytes, mapped IPv4 ones 4."""

    local_address: bytes
    local_port: int
    remote_address: bytes
    inode: int

    @property
    def is_loopback(self) -> bool:
        """Whether the address means another machine in every network namespace."""
        local = self.local_address
        return local[0] == 127 if len(local) == 4 else local == socket.inet_pton(socket.AF_INET6, "::1")


def connections_to(port: int, *, namespace_of: int | None = None) -> Iterator[Connection]:
    """Established TCP connections to `port` anywhere, in the network namespace of a process or our own.

    Raises SocketsUnreadable.
    """
    try:
        with _diag_socket(namespace_of) as diag:
            diag.settimeout(_DEADLINE_S)
            for family in (socket.AF_INET, socket.AF_INET6):
                yield from _dump(diag, family, port)
    except OSError as error:
        raise SocketsUnreadable(f"the TCP connections cannot be listed: {error}") from error


def _dump(diag: socket.socket, family: int, port: int) -> Iterator[Connection]:
    query = _QUERY.pack(family, socket.IPPROTO_TCP, 0, _ESTABLISHED, 0, socket.htons(port), b"", b"", 0, b"\xff" * 8)
    length = _HEADER.size + len(query)
    diag.send(_HEADER.pack(length, _SOCK_DIAG_BY_FAMILY, _REQUEST_DUMP, family, 0) + query)
    while True:
        reply = diag.recv(_REPLY_BYTES)
        at = 0
        while at + _HEADER.size <= len(reply):
            length, kind, _, _, _ = _HEADER.unpack_from(reply, at)
            if kind == _NLMSG_DONE:
                return
            if kind == _NLMSG_ERROR:
                code = -_ERROR.unpack_from(reply, at + _HEADER.size)[0]
                raise OSError(code, os.strerror(code))
            if kind == _SOCK_DIAG_BY_FAMILY:
                yield _connection(reply, at + _HEADER.size)
            at += max(_HEADER.size, (length + 3) & ~3)


def _connection(reply: bytes, at: int) -> Connection:
    family, _, _, _, local_port, _, local, remote, _, _, _, _, _, _, inode = _ANSWER.unpack_from(reply, at)
    return Connection(_address(family, local), int.from_bytes(local_port, "big"), _address(family, remote), inode)


def _address(family: int, field: bytes) -> bytes:
    if family == socket.AF_INET:
        return field[:4]
    return field[12:] if field.startswith(_MAPPED) else field


@contextmanager
def _diag_socket(namespace_of: int | None) -> Iterator[socket.socket]:
    if namespace_of is None:
        made = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_SOCK_DIAG)
    else:
        made = _socket_elsewhere(namespace_of)
    with made:
        yield made


def _socket_elsewhere(pid: int) -> socket.socket:
    """A socket stays in the namespace it was made in: this thread goes there and comes back."""
    setns = ctypes.CDLL(None, use_errno=True).setns
    home = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        there = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        try:
            if setns(there, _CLONE_NEWNET):
                raise OSError(ctypes.get_errno(), "setns")
            try:
                return socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_SOCK_DIAG)
            finally:
                if setns(home, _CLONE_NEWNET):
                    raise OSError(ctypes.get_errno(), "setns")
        finally:
            os.close(there)
    finally:
        os.close(home)
