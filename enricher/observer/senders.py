"""Which TCP connections to the receivers are of which watched process.

A span of a process whose span ends are not probed can at best be told by who sent it. A receiver sees an address;
this finds the process that has the other end open. Asked of the kernel once a second, and only while there is such a
process.
"""

import os
import socket
from collections.abc import Iterable, Iterator
from itertools import islice

from enricher.evidence.records import Event, EventKind, Peer
from enricher.processes import proc
from enricher.processes.proc import ProcessUnreadable
from enricher.processes.sockets import Connection, connections_to

_WILDCARDS = {socket.inet_aton("0.0.0.0"), bytes(16)}  # noqa: S104 - compared with, not bound to
_CONNECTION_LIMIT = 16384  # to one receiver, looked at in a network namespace
_DESCRIPTOR_LIMIT = 65536  # of a process, looked through for its sockets

_Key = tuple[bytes, int, int]  # local address, local port, inode


class Senders:
    """Remembers whose the connections are, so that descriptors are looked through only for new ones."""

    def __init__(self, receivers: Iterable[tuple[str, int]]) -> None:
        """`receivers`: host and port of each, as configured. Connections to another address are none of theirs."""
        self._receivers = [(_addresses(host), port) for host, port in receivers]
        self._own_namespace = proc.network_namespace(os.getpid())
        self._owners: dict[_Key, int] = {}  # 0: nobody's that is watched
        self._asked: frozenset[int] = frozenset()

    def known(self, now_ns: int) -> list[Event]:
        """Every connection of one of them, to be told again to a reader that came later."""
        return [_event(key[0], key[1], owner, now_ns) for key, owner in self._owners.items() if owner]

    def poll(self, tgids: Iterable[int], now_ns: int) -> list[Event]:
        """What has changed for these processes: a connection is of one of them, or (tgid 0) is no more.

        Raises SocketsUnreadable.
        """
        asked = frozenset(tgids)
        if asked - self._asked:  # what was nobody's may be of a process that is new here
            self._owners = {key: owner for key, owner in self._owners.items() if owner in asked}
        self._asked = asked
        present: set[_Key] = set()
        events = []
        for members, connections in self._by_namespace(asked):
            found = {(c.local_address, c.local_port, c.inode): c for c in connections}
            present |= found.keys()
            fresh = {key: connection for key, connection in found.items() if key not in self._owners}
            owners = _owners(members, {connection.inode for connection in fresh.values()})
            for key, connection in fresh.items():
                self._owners[key] = owners.get(connection.inode, 0)
                if self._owners[key]:
                    events.append(_event(connection.local_address, connection.local_port, self._owners[key], now_ns))
        for key in self._owners.keys() - present:
            if self._owners.pop(key):
                # The port may be another's next. First in the list: the same port may be among the new ones.
                events.insert(0, _event(key[0], key[1], 0, now_ns))
        return events

    def _by_namespace(self, tgids: Iterable[int]) -> Iterator[tuple[list[int], list[Connection]]]:
        namespaces: dict[int, list[int]] = {}
        for tgid in tgids:
            try:
                namespaces.setdefault(proc.network_namespace(tgid), []).append(tgid)
            except ProcessUnreadable:
                continue
        for namespace, members in namespaces.items():
            own = namespace == self._own_namespace
            yield (
                members,
                [
                    connection
                    for hosts, port in self._receivers
                    for connection in islice(
                        connections_to(port, namespace_of=None if own else members[0]), _CONNECTION_LIMIT
                    )
                    # 127.0.0.1 in another namespace is another machine as far as the receiver is concerned.
                    if (own or not connection.is_loopback) and (not hosts or connection.remote_address in hosts)
                ],
            )


def _owners(tgids: Iterable[int], inodes: set[int]) -> dict[int, int]:
    owners: dict[int, int] = {}
    for tgid in tgids:
        if len(owners) == len(inodes):
            break
        for inode in proc.socket_inodes(tgid, at_most=_DESCRIPTOR_LIMIT):
            if inode in inodes:
                owners[inode] = tgid
    return owners


def _addresses(host: str) -> frozenset[bytes]:
    """The addresses that `host` stands for; none: any."""
    if host == "localhost":
        return frozenset({socket.inet_aton("127.0.0.1"), socket.inet_pton(socket.AF_INET6, "::1")})
    for family in (socket.AF_INET, socket.AF_INET6):
        try:
            address = socket.inet_pton(family, host.strip("[]"))
        except OSError:
            continue
        return frozenset() if address in _WILDCARDS else frozenset({address})
    return frozenset()


def _event(address: bytes, port: int, tgid: int, now_ns: int) -> Event:
    peer = Peer(
        family=socket.AF_INET if len(address) == 4 else socket.AF_INET6,
        port=port,
        protocol=socket.IPPROTO_TCP,
        address=address.ljust(16, b"\0"),
    )
    return Event(kind=EventKind.SENDER, tgid=tgid, start_ns=now_ns, end_ns=now_ns, fd=-1, detail=peer.pack())
