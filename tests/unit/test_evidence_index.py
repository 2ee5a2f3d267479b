"""What the evidence index keeps, and for how long; what it knows of processes and connections."""

import socket
import time
from collections.abc import Iterator

import pytest

from enricher.evidence.records import EventFlag, FdType, Peer, WaitKind
from tests.unit.evidence_log import (
    FD,
    FULL,
    GOID,
    MS,
    TGID,
    Log,
    going_on,
    inet,
    loss,
    process,
    process_exit,
    sender,
    span_end,
    wait,
)


@pytest.fixture
def log() -> Iterator[Log]:
    with Log() as made:
        yield made


def test_being_overtaken_is_a_loss_until_the_next_heartbeat() -> None:
    with Log(capacity=64) as log:
        log.write(process(), going_on(120, 130), watermark_ms=500)
        log.writer.append(wait(600, 601, goid=99).pack() * 200)
        log.write(span_end(700), watermark_ms=800)
        statistics = log.index.statistics()
        assert statistics["records_overtaken_total"] == 200 + 1 + 1 - 64
        assert statistics["wait_owners_going_on"] == 0
        assert log.index.lost(501 * MS, 502 * MS, TGID)
        assert not log.index.lost(100 * MS, 499 * MS, TGID)
        assert log.index.lost(801 * MS, 802 * MS, TGID)  # not all here yet
        log.write(watermark_ms=850)
        assert not log.index.lost(801 * MS, 802 * MS, TGID)
        assert log.match(690, 700).incomplete == [0]
        log.write(span_end(900, span_id=b"2" * 8), watermark_ms=1000)
        assert log.match(850, 900, span_id=b"2" * 8).incomplete == []


def test_an_index_that_began_late_knows_that_it_did() -> None:
    with Log(capacity=64) as log:
        log.write(process(), watermark_ms=500)
        log.writer.append(wait(600, 601, goid=99).pack() * 200)
        late = log.reader()
        log.writer.append(process().pack() + span_end(700).pack())
        log.writer.heartbeat(800 * MS, 800 * MS)
        late.poll()
        assert late.lost(0 * MS, 1 * MS, TGID)
        log.writer.heartbeat(850 * MS, 850 * MS)
        late.poll()
        assert not late.lost(801 * MS, 802 * MS, TGID)
        # Two were overwritten after it had begun.
        assert late.statistics()["records_overtaken_total"] == 3


# Bounds and retention


def test_evidence_is_forgotten_after_the_retention_time(log: Log) -> None:
    log.write(process(), wait(120, 150), span_end(200), loss(1, 2), watermark_ms=1000)
    log.write(watermark_ms=30_100)
    assert log.match(100, 200).matched == 1
    log.write(watermark_ms=30_201)
    assert log.match(100, 200).unmatched == [0]
    statistics = log.index.statistics()
    assert (
        statistics["span_ends"],
        statistics["waits"],
        statistics["wait_owners"],
        statistics["losses"],
    ) == (0, 0, 0, 0)
    assert statistics["span_ends_forgotten_total"] == 0


def test_a_process_is_known_for_the_retention_time_after_it_ended(log: Log) -> None:
    log.write(
        process(),
        wait(120, 150),
        span_end(200),
        process_exit(210),
        sender("127.0.0.1", 5555),
        watermark_ms=1000,
    )
    assert (log.index.watched, log.index.process(TGID)) == (0, (1000, FULL))
    assert [evidence.blocked_ns for evidence in log.match(100, 200).evidence] == [30 * MS]
    log.write(watermark_ms=31_000)
    assert log.index.process(TGID) is None
    assert log.index.sender("ipv4:127.0.0.1:5555") is None


def test_the_oldest_waits_give_way() -> None:
    with Log(max_waits=100) as log:
        log.write(process(), *(wait(n, n + 1, goid=n) for n in range(1, 301)))
        log.write(*(going_on(n, n + 1, goid=n) for n in range(301, 401)))
        statistics = log.index.statistics()
        assert (statistics["waits"], statistics["waits_forgotten_total"]) == (100, 300)
        log.write(*(going_on(n, n + 1, goid=n) for n in range(401, 411)))
        assert log.index.statistics()["waits"] == 100


def test_a_wait_that_goes_on_is_held_no_longer_than_others(log: Log) -> None:
    log.write(process(), going_on(120, 130), going_on(125, 135, goid=8), watermark_ms=30_131)
    statistics = log.index.statistics()
    assert (statistics["waits"], statistics["wait_owners_going_on"]) == (1, 1)
    log.write(wait(120, 30_150), span_end(30_200), watermark_ms=30_201)  # its end is told nevertheless
    (evidence,) = log.match(100, 30_200).evidence
    assert evidence.blocked_ns == 30_030 * MS


def test_a_wait_that_is_sent_again_and_again_does_not_grow() -> None:
    with Log(max_waits=10, capacity=65_536) as log:
        log.write(process(), *(wait(100, 100 + n / 100, fd=1) for n in range(1, 10_000)))
        assert log.index.statistics()["waits"] <= 1


def test_the_oldest_span_ends_give_way() -> None:
    with Log(max_span_ends=512) as log:
        log.write(process(), *(span_end(n, span_id=n.to_bytes(8, "little")) for n in range(1, 3001)))
        log.write(watermark_ms=3001)
        assert log.index.statistics()["span_ends_forgotten_total"] == 3000 - 4 * 512
        assert log.match(2990, 3000, span_id=(3000).to_bytes(8, "little")).matched == 1
        assert log.match(90, 100, span_id=(100).to_bytes(8, "little")).matched == 0


# Processes, senders, and what has no goroutine


def test_the_watermark_and_when_it_was_heard_of(log: Log) -> None:
    assert (log.index.watermark_ns, log.index.going_on_ns, log.index.heartbeat_seen_ns) == (0, 0, 0)
    before_ns = time.monotonic_ns()
    log.write(watermark_ms=500, going_on_ms=450)
    seen_ns = log.index.heartbeat_seen_ns
    assert (log.index.watermark_ns, log.index.going_on_ns) == (500 * MS, 450 * MS)
    assert before_ns <= seen_ns <= time.monotonic_ns()
    log.write(watermark_ms=500)
    assert log.index.heartbeat_seen_ns == seen_ns  # nothing new


def test_processes_and_what_is_seen_of_them(log: Log) -> None:
    log.write(
        process(5),
        process(6, tgid=43, flags=EventFlag.PROCESS_HAS_GOROUTINES),
        process(7, tgid=44, flags=EventFlag(0)),
    )
    assert (log.index.watched, log.index.watched_without_span_ends) == (3, 2)
    assert log.index.process(TGID) == (5 * MS, FULL)
    assert log.index.process(99) is None
    log.write(process(9))
    assert log.index.process(TGID) == (9 * MS, FULL)
    assert log.index.watched == 3


@pytest.mark.parametrize(
    ("address", "peer"),
    [
        ("127.0.0.1", "ipv4:127.0.0.1:5555"),
        ("10.1.2.3", "ipv6:[::ffff:10.1.2.3]:5555"),
        ("::1", "ipv6:[::1]:5555"),
        ("::1", "ipv6:%5B::1%5D:5555"),
        ("::ffff:10.1.2.3", "ipv4:10.1.2.3:5555"),
    ],
)
def test_a_sender_is_found_by_its_end_of_the_connection(log: Log, address: str, peer: str) -> None:
    log.write(process(), sender(address, 5555))
    assert log.index.sender(peer) == TGID


@pytest.mark.parametrize(
    "peer",
    [
        "",
        "ipv4",
        "ipv4:",
        "ipv4:127.0.0.1",
        "ipv4:127.0.0.1:5556",
        "ipv4:127.0.0.1:99999",
        "unix:/x",
        "unix:",
        "ipv6:::",
    ],
)
def test_nobody_is_found_by_anything_else(log: Log, peer: str) -> None:
    log.write(process(), sender("127.0.0.1", 5555))
    assert log.index.sender(peer) is None


def test_the_sleeps_of_a_process_without_span_ends_are_found_by_the_process(log: Log) -> None:
    log.write(process(flags=EventFlag.PROCESS_HAS_GOROUTINES))
    asleep = [wait(100 + n, 200 + n, goid=goid, tid=n, wait_kind=WaitKind.KERNEL) for n, goid in enumerate((0, 8, 9))]
    log.write(*asleep, wait(120, 150, goid=8), watermark_ms=1000)
    found = log.index.kernel_waits(TGID, 150 * MS, 160 * MS)
    assert [(w.goid, w.tid) for w in found] == [(0, 0), (8, 1), (9, 2)]
    assert [w.tid for w in log.index.kernel_waits(TGID, 201 * MS, 202 * MS)] == [2]
    assert log.index.kernel_waits(TGID, 300 * MS, 400 * MS) == []
    assert log.index.kernel_waits(43, 150 * MS, 160 * MS) == []


def test_threads_take_back_only_their_own_reports(log: Log) -> None:
    log.write(process(flags=EventFlag(0)), going_on(100, 110, goid=0, tid=1), going_on(101, 110, goid=0, tid=2))
    log.write(wait(120, 130, goid=0, tid=2, wait_kind=WaitKind.KERNEL))
    found = log.index.kernel_waits(TGID, 0, 1000 * MS)
    assert [(w.tid, w.going_on) for w in found] == [(1, True), (2, False)]


@pytest.mark.parametrize(
    ("peer", "fd_type", "name"),
    [
        (inet("10.0.0.1", 80), FdType.SOCKET, "10.0.0.1:80"),
        (inet("::1", 80), FdType.SOCKET, "[::1]:80"),
        (inet("::ffff:10.0.0.1", 80), FdType.SOCKET, "10.0.0.1:80"),
        (inet("0.0.0.0", 0), FdType.SOCKET, "socket"),
        (Peer(family=socket.AF_UNIX), FdType.SOCKET, "unix"),
        (Peer(), FdType.SOCKET, "socket"),
        (Peer(), FdType.PIPE, "pipe"),
        (Peer(), FdType.FILE, "file"),
        (Peer(), FdType.DIRECTORY, "directory"),
        (Peer(), FdType.CHARACTER_DEVICE, "character device"),
        (Peer(), FdType.BLOCK_DEVICE, "block device"),
        (Peer(), FdType.UNKNOWN, ""),
    ],
)
def test_what_a_wait_was_for_has_a_name(log: Log, peer: Peer, fd_type: FdType, name: str) -> None:
    log.write(process(), wait(120, 150, peer=peer, fd_type=fd_type), span_end(200), watermark_ms=1000)
    (evidence,) = log.match(100, 200).evidence
    assert evidence.longest.peer() == name


def test_a_wait_tells_all_its_fields(log: Log) -> None:
    log.write(
        process(),
        wait(120, 150, peer=inet("10.0.0.1", 80), error=104, tid=77),
        span_end(200),
        watermark_ms=1000,
    )
    (found,) = log.match(100, 200).evidence[0].waits
    told = (
        found.tgid,
        found.tid,
        found.goid,
        found.parent_goid,
        found.syscall,
        found.error,
        found.fd,
        found.fd_type,
    )
    assert told == (TGID, 77, GOID, 0, 0, 104, FD, FdType.SOCKET)
    assert (found.peer_family, found.peer_port, found.peer_address) == (
        socket.AF_INET,
        80,
        bytes([10, 0, 0, 1]),
    )
    assert (found.flags, found.wait_kind, found.going_on) == (0, WaitKind.PARKED, False)


def test_what_was_shed_counts_as_lost_and_the_newest_stays(log: Log) -> None:
    log.write(process(), wait(100, 150, goid=1), wait(900, 950, goid=2), span_end(150), watermark_ms=1000)
    log.index.shed(200 * MS)
    log.index.poll()
    assert log.index.waits(TGID, 1, 0, 1000 * MS) == []
    assert len(log.index.waits(TGID, 2, 0, 1000 * MS)) == 1
    assert log.index.lost(100 * MS, 150 * MS, TGID)
    assert not log.index.lost(850 * MS, 990 * MS, TGID)
    assert log.index.statistics()["shed_total"] == 1


def test_who_sends_over_a_unix_socket_is_known_by_its_pid_if_it_is_watched(log: Log) -> None:
    log.write(process())
    assert log.index.sender(f"unix:pid={TGID}") == TGID
    assert [log.index.sender(peer) for peer in ("unix:pid=43", "unix:pid=x", "unix:pid=", "unix:")] == [None] * 4
