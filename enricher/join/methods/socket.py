"""The span names the other end of its connection, and one goroutine reads from that connection.

For server spans over HTTP/1: there a connection has one request at a time, and its goroutine runs the handler. Over
HTTP/2, gRPC included, the goroutine that reads is never the handler's: nothing is claimed. Nor is anything where the
spans that name one connection at one time are not one chain: then something else than the peer is at the other end.
"""

import ipaddress
from dataclasses import dataclass

from enricher._native import EvidenceIndex, Span, Wait
from enricher._native import Request as ScannedRequest
from enricher.join.blocked import KernelSpan
from enricher.join.methods import http_version
from enricher.join.methods.handler import rulings
from enricher.join.methods.method import Method, Request, Window
from enricher.join.methods.neighbours import Neighbours
from enricher.join.methods.one_by_one import OneByOne, Tied, Untied
from enricher.join.methods.origin import Origins

METHOD = Method(
    name="socket",
    summary="peer address and port of a server span over HTTP/1 name a connection, and that its goroutine",
    exact=True,
    needs=("syscalls",),
)

_SERVER = 2
# `client.address` is not it: it may come from a header. The older names are of semantic conventions before 1.21.
_PEERS = (("network.peer.address", "network.peer.port"), ("net.sock.peer.addr", "net.sock.peer.port"))
_KEYS = (*(key for pair in _PEERS for key in pair), *http_version.KEYS)


@dataclass(frozen=True, slots=True)
class Peer:
    """The other end of a connection. `address`: 4 or 16 bytes, mapped IPv4 addresses 4."""

    address: bytes
    port: int

    def __str__(self) -> str:
        address = ipaddress.ip_address(self.address)
        return f"{address}:{self.port}" if address.version == 4 else f"[{address}]:{self.port}"

    def is_of(self, wait: Wait) -> bool:
        """Whether a wait was for this end."""
        return wait.peer_port == self.port and _unmapped(wait.peer_address) == self.address


class Socket(OneByOne):
    method = METHOD

    def __init__(self, index: EvidenceIndex, origins: Origins) -> None:
        super().__init__(index)
        self._origins = origins
        self._neighbours: Neighbours[Peer] = Neighbours()

    def saw(self, request: Request) -> None:
        """Remembers which spans name which connection."""
        if not self._index.watched_without_span_ends:
            return
        for ordinal, span in enumerate(request.spans):
            if span.kind == _SERVER:
                peer = _peer(request.scanned, ordinal)
                if isinstance(peer, Peer):
                    self._neighbours.add(peer, KernelSpan.of(span, self._index))

    def tie(self, request: Request, span: Span, ordinal: int, window: Window) -> Tied | Untied:
        if span.kind != _SERVER:
            return Untied("It is not a server span.")
        peer = _peer(request.scanned, ordinal)
        if isinstance(peer, Untied):
            return peer
        times = KernelSpan.of(span, self._index)
        handler = self._index.goroutine_of_connection(peer.address, peer.port, times.start_ns)
        if handler is None:
            return Untied(f"No single goroutine was seen to read from {peer} before the span began.")
        tgid, goid = handler
        if why := self.why_not_in(tgid, times):
            return Untied(why)
        if self._origins.of(request, ordinal).excludes(tgid):
            return Untied("The connection is of another process than the one that the span came from.")
        if not self._neighbours.are_one_chain(peer, times.start_ns, times.end_ns):
            return Untied(f"Spans that ran at the same time and are not each other's parents name {peer}, too.")
        return Tied(
            why=f"It names {peer} as its peer, and one goroutine reads from there.",
            tgid=tgid,
            times=times,
            identity={"goid": goid, "peer": str(peer)},
            open_until_ns=times.end_ns + window.threshold_ns,
            rulings=rulings(self._index, handler, peer.is_of, times, window.threshold_ns),
        )


def _peer(scanned: ScannedRequest, ordinal: int) -> Peer | Untied:
    attributes = scanned.span_attributes(ordinal, _KEYS)
    for address_key, port_key in _PEERS:
        address, port = attributes.get(address_key), attributes.get(port_key)
        if isinstance(address, str) and type(port) is int and 0 < port < 65536:
            break
    else:
        return Untied("It does not name address and port of its peer.")
    if not http_version.is_http1(attributes):
        return Untied("It does not say that it was HTTP/1.")
    try:
        return Peer(_unmapped(ipaddress.ip_address(address.partition("%")[0]).packed), port)
    except ValueError:
        return Untied("The address of its peer is none.")


def _unmapped(address: bytes) -> bytes:
    return address[12:] if len(address) == 16 and address.startswith(b"\0" * 10 + b"\xff\xff") else address
