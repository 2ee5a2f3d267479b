"""The records that probes, observer and pipeline exchange.

Generated from probes/events.h by scripts/generate_records.py: change them there. What a field means is said
in that header. Times are CLOCK_MONOTONIC in nanoseconds.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum, IntFlag
from struct import Struct
from typing import Self

EVENTS_VERSION = 2
OFFSET_NONE = 0xFFFF
SLOTS = 1024
RECORD_SIZE = 112
PROGRAM_COUNT = 13
COUNTERS_EACH = 6


class EventKind(IntEnum):
    """`enum event_kind`."""

    WAIT = 1
    WAIT_GOING_ON = 2
    SPAN_END = 3
    PROCESS_EXEC = 4
    PROCESS_EXIT = 5
    CALL = 6
    TRACEPARENT = 7
    GOROUTINE_EXIT = 8
    HEARTBEAT = 32
    LOSS = 33
    PROCESS = 34
    SENDER = 35
    OVERTAKEN = 36


class WaitKind(IntFlag):
    """`enum wait_kind`."""

    KERNEL = 1
    PARKED = 2


class EventFlag(IntFlag):
    """`enum event_flag`."""

    WAIT_FOR_WRITE = 1
    WAIT_END_UNKNOWN = 2
    WAIT_END_OF_FILE = 4
    CALL_MULTIPLEXED = 8
    PROCESS_HAS_GOROUTINES = 16
    PROCESS_HAS_SPAN_ENDS = 32
    PROCESS_HAS_SPAN_STARTS = 64
    PROCESS_HAS_LINEAGE = 128
    PROCESS_HAS_CALLS = 256
    SPAN_ENDED_BY_CHILD = 512
    TRACEPARENT_WRITTEN = 1024
    PROCESS_WANTS_HEADERS = 2048
    CALL_OVER = 8192
    PROCESS_HAS_EXITS = 16384
    SPAN_OF_CLIENT = 4096


class FdType(IntEnum):
    """`enum fd_type`."""

    UNKNOWN = 0
    PIPE = 1
    CHARACTER_DEVICE = 2
    DIRECTORY = 4
    BLOCK_DEVICE = 6
    FILE = 8
    SOCKET = 12


class LabelsKind(IntEnum):
    """`enum labels_kind`."""

    MAP = 1
    SLICE = 2


class ProbeProgram(IntEnum):
    """`enum probe_program`."""

    SYS_EXIT = 0
    SCHED_SWITCH = 1
    SCAN = 2
    SPAN_END = 3
    PROCESS_EXEC = 4
    PROCESS_EXIT = 5
    PROCESS_FORK = 6
    MARK_THREADS = 7
    SPAN_START = 8
    GOROUTINE_MADE = 9
    GOROUTINE_EXIT = 10
    CALL = 11
    HEADERS = 12


class ProbeCounter(IntEnum):
    """`enum probe_counter`."""

    EVENTS = 0
    RING_FULL = 1
    MAP_FULL = 2
    READ_FAILED = 3
    UNKNOWN_END = 4
    OVER_BUDGET = 5


_PEER = Struct("<HHHH16s8s")
_SPAN_IDS = Struct("<16s8s8s")
_PROCESS_IDENTITY = Struct("<QI4x16s")
_EVENT = Struct("<QQQQIIHHHHiBB2xQQQ32s")
_PROCESS_LAYOUT = Struct("<HHHHHHHHHHHB1xHHHHHHH")
_PROBE_CONFIG = Struct("<QQQQQIIIII4x")


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """`struct peer`, 32 bytes."""

    family: int = 0
    port: int = 0
    local_port: int = 0
    protocol: int = 0
    address: bytes = bytes(16)
    label: bytes = bytes(8)

    def pack(self) -> bytes:
        """The 32 bytes of it. Raises struct.error where a field is out of range."""
        return _PEER.pack(self.family, self.port, self.local_port, self.protocol, self.address, self.label)

    @classmethod
    def unpack(cls, data: bytes) -> Self:
        """From exactly 32 bytes, otherwise raises struct.error."""
        values = _PEER.unpack(data)
        return cls(
            family=values[0],
            port=values[1],
            local_port=values[2],
            protocol=values[3],
            address=values[4],
            label=values[5],
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class SpanIds:
    """`struct span_ids`, 32 bytes."""

    trace_id: bytes = bytes(16)
    span_id: bytes = bytes(8)
    parent_span_id: bytes = bytes(8)

    def pack(self) -> bytes:
        """The 32 bytes of it. Raises struct.error where a field is out of range."""
        return _SPAN_IDS.pack(self.trace_id, self.span_id, self.parent_span_id)

    @classmethod
    def unpack(cls, data: bytes) -> Self:
        """From exactly 32 bytes, otherwise raises struct.error."""
        values = _SPAN_IDS.unpack(data)
        return cls(trace_id=values[0], span_id=values[1], parent_span_id=values[2])


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessIdentity:
    """`struct process_identity`, 32 bytes."""

    start_ticks: int = 0
    inner_pid: int = 0
    container_id: bytes = bytes(16)

    def pack(self) -> bytes:
        """The 32 bytes of it. Raises struct.error where a field is out of range."""
        return _PROCESS_IDENTITY.pack(self.start_ticks, self.inner_pid, self.container_id)

    @classmethod
    def unpack(cls, data: bytes) -> Self:
        """From exactly 32 bytes, otherwise raises struct.error."""
        values = _PROCESS_IDENTITY.unpack(data)
        return cls(start_ticks=values[0], inner_pid=values[1], container_id=values[2])


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessLayout:
    """`struct process_layout`, 38 bytes."""

    flags: int = 0
    g_m: int = 0
    g_goid: int = 0
    g_parent_goid: int = 0
    m_curg: int = 0
    span_context: int = 0
    span_end_time: int = 0
    g_tracking_seq: int = 0
    wait_steps: int = 0
    g_waitreason: int = 0
    g_labels: int = 0
    labels_kind: int = 0
    span_parent: int = 0
    slot: int = 0
    poll_sysfd: int = 0
    net_family: int = 0
    net_sotype: int = 0
    span_kind: int = 0
    g_gopc: int = 0

    def pack(self) -> bytes:
        """The 38 bytes of it. Raises struct.error where a field is out of range."""
        return _PROCESS_LAYOUT.pack(
            self.flags,
            self.g_m,
            self.g_goid,
            self.g_parent_goid,
            self.m_curg,
            self.span_context,
            self.span_end_time,
            self.g_tracking_seq,
            self.wait_steps,
            self.g_waitreason,
            self.g_labels,
            self.labels_kind,
            self.span_parent,
            self.slot,
            self.poll_sysfd,
            self.net_family,
            self.net_sotype,
            self.span_kind,
            self.g_gopc,
        )

    @classmethod
    def unpack(cls, data: bytes) -> Self:
        """From exactly 38 bytes, otherwise raises struct.error."""
        values = _PROCESS_LAYOUT.unpack(data)
        return cls(
            flags=values[0],
            g_m=values[1],
            g_goid=values[2],
            g_parent_goid=values[3],
            m_curg=values[4],
            span_context=values[5],
            span_end_time=values[6],
            g_tracking_seq=values[7],
            wait_steps=values[8],
            g_waitreason=values[9],
            g_labels=values[10],
            labels_kind=values[11],
            span_parent=values[12],
            slot=values[13],
            poll_sysfd=values[14],
            net_family=values[15],
            net_sotype=values[16],
            span_kind=values[17],
            g_gopc=values[18],
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeConfig:
    """`struct probe_config`, 64 bytes."""

    blocked_threshold_ns: int = 0
    chain_gap_ns: int = 0
    forget_waiting_ns: int = 0
    forget_idle_ns: int = 0
    event_apart_ns: int = 0
    ring_bytes: int = 0
    most_goroutines: int = 0
    most_spans: int = 0
    most_sleepers: int = 0
    most_connections: int = 0

    def pack(self) -> bytes:
        """The 64 bytes of it. Raises struct.error where a field is out of range."""
        return _PROBE_CONFIG.pack(
            self.blocked_threshold_ns,
            self.chain_gap_ns,
            self.forget_waiting_ns,
            self.forget_idle_ns,
            self.event_apart_ns,
            self.ring_bytes,
            self.most_goroutines,
            self.most_spans,
            self.most_sleepers,
            self.most_connections,
        )

    @classmethod
    def unpack(cls, data: bytes) -> Self:
        """From exactly 64 bytes, otherwise raises struct.error."""
        values = _PROBE_CONFIG.unpack(data)
        return cls(
            blocked_threshold_ns=values[0],
            chain_gap_ns=values[1],
            forget_waiting_ns=values[2],
            forget_idle_ns=values[3],
            event_apart_ns=values[4],
            ring_bytes=values[5],
            most_goroutines=values[6],
            most_spans=values[7],
            most_sleepers=values[8],
            most_connections=values[9],
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """`struct event`, 112 bytes."""

    start_ns: int = 0
    end_ns: int = 0
    goid: int = 0
    parent_goid: int = 0
    tgid: int = 0
    tid: int = 0
    kind: EventKind
    flags: int = 0
    syscall: int = 0
    error: int = 0
    fd: int = 0
    wait_kind: int = 0
    fd_type: int = 0
    tail_of_ns: int = 0
    root_goid: int = 0
    root_ns: int = 0
    detail: bytes = bytes(32)

    def pack(self) -> bytes:
        """The 112 bytes of it. Raises struct.error where a field is out of range."""
        return _EVENT.pack(
            self.start_ns,
            self.end_ns,
            self.goid,
            self.parent_goid,
            self.tgid,
            self.tid,
            self.kind,
            self.flags,
            self.syscall,
            self.error,
            self.fd,
            self.wait_kind,
            self.fd_type,
            self.tail_of_ns,
            self.root_goid,
            self.root_ns,
            self.detail,
        )

    @classmethod
    def unpack(cls, data: bytes) -> Self:
        """From exactly 112 bytes, otherwise raises struct.error."""
        values = _EVENT.unpack(data)
        return cls(
            start_ns=values[0],
            end_ns=values[1],
            goid=values[2],
            parent_goid=values[3],
            tgid=values[4],
            tid=values[5],
            kind=EventKind(values[6]),
            flags=values[7],
            syscall=values[8],
            error=values[9],
            fd=values[10],
            wait_kind=values[11],
            fd_type=values[12],
            tail_of_ns=values[13],
            root_goid=values[14],
            root_ns=values[15],
            detail=values[16],
        )

    @classmethod
    def iter_unpack(cls, data: bytes) -> Iterator[Self]:
        """One after the other. Raises struct.error where `data` does not end with a whole record."""
        return (cls.unpack(data[at : at + RECORD_SIZE]) for at in range(0, len(data), RECORD_SIZE))

    @property
    def peer(self) -> Peer:
        """`detail` read as `struct peer`: only for the kinds that have one."""
        return Peer.unpack(self.detail)

    @property
    def span(self) -> SpanIds:
        """`detail` read as `struct span_ids`: only for the kinds that have one."""
        return SpanIds.unpack(self.detail)

    @property
    def process(self) -> ProcessIdentity:
        """`detail` read as `struct process_identity`: only for the kinds that have one."""
        return ProcessIdentity.unpack(self.detail)
