"""Builds evidence logs for tests: packed events in, and an index that reads them."""

import ipaddress
import os
import socket
from dataclasses import dataclass, field
from typing import Final, Self

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from enricher._native import EvidenceIndex, LogWriter, Matched, Request
from enricher.evidence.records import Event, EventFlag, EventKind, FdType, Peer, SpanIds, WaitKind

MS = 1_000_000
S = 1_000 * MS
CLOCK_NS = 1_700_000_000 * S  # CLOCK_REALTIME - CLOCK_MONOTONIC
TAIL_NS = 300 * MS
TGID, GOID, FD = 42, 7, 5
TRACE_ID, SPAN_ID, PARENT_ID = b"t" * 16, b"s" * 8, b"p" * 8
CLIENT: Final = Span.SPAN_KIND_CLIENT
FULL = EventFlag.PROCESS_HAS_GOROUTINES | EventFlag.PROCESS_HAS_SPAN_ENDS


def wait(
    start_ms: float,
    end_ms: float,
    *,
    goid: int = GOID,
    fd: int = FD,
    tgid: int = TGID,
    tid: int = TGID,
    kind: EventKind = EventKind.WAIT,
    flags: int = 0,
    wait_kind: WaitKind = WaitKind.PARKED,
    error: int = 0,
    tail_of_ms: float = 0,
    peer: Peer | None = None,
    fd_type: FdType = FdType.SOCKET,
    root: tuple[int, float] = (0, 0),
) -> Event:
    """`root`: goroutine and ms."""
    return Event(
        kind=kind,
        start_ns=int(start_ms * MS),
        end_ns=int(end_ms * MS),
        goid=goid,
        tgid=tgid,
        tid=tid,
        flags=flags,
        syscall=1 if flags & EventFlag.WAIT_FOR_WRITE else 0,
        error=error,
        fd=fd,
        wait_kind=wait_kind,
        fd_type=fd_type,
        tail_of_ns=int(tail_of_ms * MS),
        root_goid=root[0],
        root_ns=int(root[1] * MS),
        detail=(peer or Peer()).pack(),
    )


def write(start_ms: float, end_ms: float, *, tail_of_ms: float = 0, kind: EventKind = EventKind.WAIT) -> Event:
    flag = EventFlag.WAIT_FOR_WRITE
    return wait(start_ms, end_ms, flags=flag, tail_of_ms=tail_of_ms, kind=kind, wait_kind=WaitKind.KERNEL)


def going_on(start_ms: float, seen_ms: float, *, goid: int = GOID, tid: int = TGID, fd: int = FD) -> Event:
    return wait(start_ms, seen_ms, kind=EventKind.WAIT_GOING_ON, goid=goid, tid=tid, fd=fd)


def span_end(
    end_ms: float,
    *,
    start_ms: float = 0,
    goid: int = GOID,
    started_goid: int = 0,
    tgid: int = TGID,
    span_id: bytes = SPAN_ID,
    parent_id: bytes = bytes(8),
    trace_id: bytes = TRACE_ID,
    flags: int = 0,
) -> Event:
    """`started_goid` 0: its start was not seen."""
    return Event(
        kind=EventKind.SPAN_END,
        start_ns=int(start_ms * MS),
        end_ns=int(end_ms * MS),
        goid=goid,
        root_goid=started_goid,
        tgid=tgid,
        flags=flags,
        detail=SpanIds(trace_id=trace_id, span_id=span_id, parent_span_id=parent_id).pack(),
    )


def span(
    start_ms: float, end_ms: float, *, span_id: bytes = SPAN_ID, parent_id: bytes = PARENT_ID, **more: int
) -> Event:
    """Seen from its start on, on one goroutine unless `started_goid` says otherwise."""
    started_goid = more.pop("started_goid", more.get("goid", GOID))
    return span_end(end_ms, start_ms=start_ms, span_id=span_id, parent_id=parent_id, started_goid=started_goid, **more)


def call(at_ms: float, *, goid: int = GOID, fd: int = FD, peer: Peer | None = None, flags: int = 0) -> Event:
    at_ns = int(at_ms * MS)
    detail = (peer or Peer()).pack()
    return Event(
        kind=EventKind.CALL, start_ns=at_ns, end_ns=at_ns, goid=goid, tgid=TGID, fd=fd, flags=flags, detail=detail
    )


def goroutine_exit(at_ms: float, *, goid: int) -> Event:
    at_ns = int(at_ms * MS)
    return Event(kind=EventKind.GOROUTINE_EXIT, start_ns=at_ns, end_ns=at_ns, goid=goid, tgid=TGID, fd=-1)


def process(since_ms: float = 0.001, *, tgid: int = TGID, flags: EventFlag = FULL) -> Event:
    return Event(kind=EventKind.PROCESS, start_ns=int(since_ms * MS), tgid=tgid, flags=flags)


def process_exit(at_ms: float, *, tgid: int = TGID) -> Event:
    return Event(kind=EventKind.PROCESS_EXIT, start_ns=int(at_ms * MS), end_ns=int(at_ms * MS), tgid=tgid)


def loss(start_ms: float, end_ms: float, *, tgid: int = 0) -> Event:
    return Event(kind=EventKind.LOSS, start_ns=int(start_ms * MS), end_ns=int(end_ms * MS), tgid=tgid)


def sender(address: str, port: int, *, tgid: int = TGID) -> Event:
    ip = ipaddress.ip_address(address)
    family = socket.AF_INET if ip.version == 4 else socket.AF_INET6
    peer = Peer(family=family, port=port, address=ip.packed.ljust(16, b"\0"))
    return Event(kind=EventKind.SENDER, tgid=tgid, detail=peer.pack())


@dataclass
class Log:
    """An evidence log and an index that reads it."""

    capacity: int = 4096
    retention_ns: int = 30 * S
    max_waits: int = 1000
    max_span_ends: int = 1024
    fd: int = field(init=False)
    writer: LogWriter = field(init=False)
    index: EvidenceIndex = field(init=False)

    def __post_init__(self) -> None:
        self.fd = os.memfd_create("evidence")
        self.writer = LogWriter(self.fd, self.capacity)
        self.index = self.reader()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self.fd)

    def reader(self) -> EvidenceIndex:
        index = EvidenceIndex(self.fd, self.retention_ns, self.max_waits, self.max_span_ends)
        index.sample_clock(0, CLOCK_NS)
        return index

    def write(self, *events: Event, watermark_ms: float = 0, going_on_ms: float | None = None) -> None:
        """With a heartbeat after the events if `watermark_ms` is given."""
        self.writer.append(b"".join(event.pack() for event in events))
        if watermark_ms:
            seen_ms = watermark_ms if going_on_ms is None else going_on_ms
            self.writer.heartbeat(int(watermark_ms * MS), int(seen_ms * MS))
        self.index.poll()

    def match(
        self,
        start_ms: float,
        end_ms: float,
        *,
        kind: "Span.SpanKind.ValueType" = CLIENT,
        parent_id: bytes = PARENT_ID,
        span_id: bytes = SPAN_ID,
        clock_error_ms: float = 0,
        threshold_ms: float = 1,
    ) -> Matched:
        """One span, given its times in kernel time."""
        scanned = self.request(
            start_ms, end_ms, kind, parent_id=parent_id, span_id=span_id, clock_error_ms=clock_error_ms
        )
        return self.index.match(scanned, TAIL_NS, int(threshold_ms * MS))

    @staticmethod
    def request(
        start_ms: float,
        end_ms: float,
        kind: "Span.SpanKind.ValueType" = CLIENT,
        *,
        parent_id: bytes = PARENT_ID,
        span_id: bytes = SPAN_ID,
        clock_error_ms: float = 0,
    ) -> Request:
        """With one span."""
        request = ExportTraceServiceRequest()
        span = request.resource_spans.add().scope_spans.add().spans.add()
        span.trace_id, span.span_id, span.parent_span_id, span.kind = TRACE_ID, span_id, parent_id, kind
        span.start_time_unix_nano = CLOCK_NS + int((start_ms + clock_error_ms) * MS)
        span.end_time_unix_nano = CLOCK_NS + int((end_ms + clock_error_ms) * MS)
        return Request.scan(request.SerializeToString())


def inet(address: str, port: int) -> Peer:
    ip = ipaddress.ip_address(address)
    family = socket.AF_INET if ip.version == 4 else socket.AF_INET6
    return Peer(family=family, port=port, address=ip.packed.ljust(16, b"\0"))
