"""The generated record types agree with the header they are made from, and Python's with Rust's."""

import os
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from enricher._native import EvidenceIndex, LogWriter
from enricher.evidence import records
from enricher.evidence.records import Event, EventKind, Peer, ProbeConfig, ProcessLayout, SpanIds

ROOT = Path(__file__).parents[2]


def test_what_is_checked_in_is_what_the_header_generates() -> None:
    missing = [tool for tool in ("clang", "bpftool", "rustfmt") if shutil.which(tool) is None]
    if missing:
        pytest.skip(f"generating the records needs {', '.join(missing)}")
    run = subprocess.run(
        [sys.executable, ROOT / "scripts/generate_records.py", "--check"], check=False, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr


@pytest.mark.parametrize(
    ("record", "size"),
    [
        (Peer(family=10, port=65_535, local_port=1, protocol=6, address=bytes(range(16))), 32),
        (SpanIds(trace_id=bytes(range(16)), span_id=bytes(range(8))), 32),
        (
            ProcessLayout(
                flags=48,
                g_m=48,
                g_goid=152,
                g_parent_goid=280,
                m_curg=184,
                span_context=192,
                span_end_time=136,
                g_tracking_seq=191,
                wait_steps=1,
                g_waitreason=176,
            ),
            38,
        ),
        (ProbeConfig(blocked_threshold_ns=1, chain_gap_ns=2, forget_waiting_ns=3, forget_idle_ns=4, most_spans=5), 64),
        (Event(kind=EventKind.WAIT, start_ns=2**64 - 1, fd=-1, tail_of_ns=7, detail=bytes(range(32))), 112),
    ],
)
def test_what_is_packed_is_unpacked(record: Peer | SpanIds | ProcessLayout | ProbeConfig | Event, size: int) -> None:
    packed = record.pack()
    assert len(packed) == size
    assert type(record).unpack(packed) == record


def test_events_are_read_one_after_the_other() -> None:
    events = [Event(kind=EventKind.LOSS, start_ns=n) for n in range(3)]
    packed = b"".join(event.pack() for event in events)
    assert list(Event.iter_unpack(packed)) == events
    with pytest.raises(struct.error):
        list(Event.iter_unpack(packed[:-1]))


def test_the_detail_is_read_by_the_kind() -> None:
    peer, ids = Peer(family=2, port=80), SpanIds(trace_id=b"t" * 16, span_id=b"s" * 8)
    assert Event(kind=EventKind.SENDER, detail=peer.pack()).peer == peer
    assert Event(kind=EventKind.SPAN_END, detail=ids.pack()).span == ids


def test_an_unknown_kind_is_an_error() -> None:
    packed = bytearray(Event(kind=EventKind.WAIT).pack())
    packed[40] = 99
    with pytest.raises(ValueError, match="99"):
        Event.unpack(bytes(packed))


def test_rust_reads_each_field_where_python_writes_it() -> None:
    fd = os.memfd_create("evidence")
    try:
        writer, index = LogWriter(fd, 64), EvidenceIndex(fd, 10**12, 64, 64)
    finally:
        os.close(fd)
    written = Event(
        kind=EventKind.WAIT,
        start_ns=1 << 40,
        end_ns=(1 << 40) + 5,
        goid=0,
        parent_goid=1 << 41,
        tgid=1 << 20,
        tid=1 << 21,
        flags=1,
        syscall=300,
        error=104,
        fd=-7,
        wait_kind=2,
        fd_type=12,
        tail_of_ns=1 << 42,
        detail=Peer(family=2, port=8080, address=bytes([10, 0, 0, 1]) + bytes(12)).pack(),
    )
    writer.append(written.pack())
    index.poll()
    (read,) = index.kernel_waits(written.tgid, 0, 2**63)
    names = ("start_ns", "end_ns", "goid", "parent_goid", "tgid", "tid", "flags", "syscall", "error", "fd", "wait_kind")
    for name in (*names, "fd_type"):
        assert getattr(read, name) == getattr(written, name), name
    assert (read.peer_family, read.peer_port, read.peer()) == (2, 8080, "10.0.0.1:8080")
    assert len(written.pack()) == records.RECORD_SIZE
