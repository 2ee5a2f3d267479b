"""Requests that this process writes and reads itself, and what the probe on headers tells of them."""

import os
import random
import socket
from dataclasses import dataclass

from enricher.evidence.records import Event, EventFlag, EventKind, ProbeCounter, ProbeProgram, ProcessLayout
from enricher.observer.header_ring import HeaderRing
from enricher.observer.headers import HeaderBlocks

from .conftest import Kernel

WRITTEN = EventFlag.TRACEPARENT_WRITTEN


class Traced:
    """A request's ids."""

    def __init__(self) -> None:
        self.trace_id = random.randbytes(16)
        self.span_id = random.randbytes(8)

    @property
    def value(self) -> str:
        return f"00-{self.trace_id.hex()}-{self.span_id.hex()}-01"

    def head(self, *others: str, name: str = "traceparent", first: str = "GET /path?x=1 HTTP/1.1") -> bytes:
        """Other headers come first, as most clients sort them by name."""
        return "\r\n".join([first, "Host: example.test", *others, f"{name}: {self.value}", "", ""]).encode()


@dataclass(frozen=True)
class Connection:
    """Both ends of a TCP connection."""

    client: socket.socket
    server: socket.socket

    def carry(self, content: bytes, *cuts: int, reads: int = 1 << 16) -> None:
        """Writes `content` in pieces cut there, each read before the next is written, by calls of so many bytes."""
        for start, end in zip((0, *cuts), (*cuts, len(content)), strict=True):
            self.client.sendall(content[start:end])
            left = end - start
            while left:
                left -= len(self.server.recv(min(reads, left)))

    def close(self) -> None:
        self.client.close()
        self.server.close()


class Watched:
    """This process under the probe, and what was told of it."""

    def __init__(self, kernel: Kernel, **limits: int) -> None:
        self.kernel = kernel
        blocks = kernel.probes.header_blocks
        assert blocks is not None
        self.header_blocks = HeaderBlocks(HeaderRing(blocks.fd, blocks.max_entries), **limits)
        self._open: list[Connection] = []
        kernel.probes.watch(os.getpid(), ProcessLayout(flags=EventFlag.PROCESS_WANTS_HEADERS))

    def connect(self) -> Connection:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            client = socket.create_connection(listener.getsockname())
            server, _ = listener.accept()
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._open.append(Connection(client, server))
        return self._open[-1]

    def told(self) -> list[Event]:
        """All since the last call. The probe runs within the call, so there is nothing to wait for."""
        self.kernel.events.clear()
        events = [event for event in self.kernel.drain() if event.kind is EventKind.TRACEPARENT]
        decoded, caught_up = self.header_blocks.drain()
        assert caught_up
        return events + decoded

    def kept(self) -> int:
        """Connections that the probe keeps something of."""
        return len(list(self.kernel.probes._maps["connections"]))

    def count(self, counter: ProbeCounter) -> int:
        return self.kernel.probes.counters.readings()[ProbeProgram.HEADERS, counter]

    def given_up(self) -> list[str]:
        return [os.strerror(failure.error) for failure in self.kernel.probes.failures()]

    def close(self) -> None:
        self.kernel.probes.unwatch(os.getpid())
        for connection in self._open:
            connection.close()


def ids(events: list[Event]) -> list[tuple[bytes, bytes, bool]]:
    """Of each event the ids, and whether they were written."""
    return [(event.span.trace_id, event.span.span_id, bool(event.flags & WRITTEN)) for event in events]


def both(*requests: Traced) -> list[tuple[bytes, bytes, bool]]:
    """Each of them written and read, one after the other."""
    return [(request.trace_id, request.span_id, written) for request in requests for written in (True, False)]
