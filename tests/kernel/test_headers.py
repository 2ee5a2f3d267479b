"""`traceparent` in HTTP/1: this process itself under the probe, on connections to itself."""

import os
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from enricher.evidence.records import EventFlag, ProcessLayout
from enricher.evidence.syscalls import syscall_name
from enricher.observer.probe_set import Probe

from .conftest import Kernel
from .header_traffic import WRITTEN, Traced, Watched, both, ids

LoadProbes = Callable[..., Kernel]


@pytest.fixture
def watched(load_probes: LoadProbes) -> Iterator[Watched]:
    made = Watched(load_probes(Probe.HEADERS))
    yield made
    made.close()


def test_a_request_is_told_where_it_is_written_and_where_it_is_read(watched: Watched) -> None:
    connection, request = watched.connect(), Traced()
    before_ns = time.monotonic_ns()
    connection.carry(request.head())
    written, read = watched.told()
    assert ids([written, read]) == both(request)
    assert (written.fd, read.fd) == (connection.client.fileno(), connection.server.fileno())
    assert (written.flags, read.flags) == (WRITTEN, 0)
    for event in (written, read):
        assert (event.tgid, event.tid, event.goid) == (os.getpid(), os.getpid(), 0)
        assert before_ns <= event.start_ns == event.end_ns <= time.monotonic_ns()
        assert event.span.parent_span_id == bytes(8)
    assert written.start_ns < read.start_ns
    assert watched.kept() == 0


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "HEAD", "DELETE", "PATCH", "OPTIONS", "CONNECT", "TRACE"])
def test_every_method_begins_a_request(watched: Watched, method: str) -> None:
    request = Traced()
    watched.connect().carry(request.head(first=f"{method} / HTTP/1.1"))
    assert ids(watched.told()) == both(request)


@pytest.mark.parametrize("first", ["HTTP/1.1 200 OK", "GET /", "GETS / HTTP/1.1", "get / HTTP/1.1", "GET / HTTP/3.0"])
def test_nothing_else_does(watched: Watched, first: str) -> None:
    watched.connect().carry(Traced().head(first=first))
    assert watched.told() == []
    assert watched.kept() == 0


@pytest.mark.parametrize(
    "calls",
    [
        ("write", "read"),
        ("writev", "readv"),
        ("sendto", "recvfrom"),
        ("sendmsg", "recvmsg"),
    ],
)
def test_whatever_the_call_and_its_buffers(watched: Watched, calls: tuple[str, str]) -> None:
    connection, request = watched.connect(), Traced()
    head = request.head("A: " + "b" * 300)
    client, server = connection.client.fileno(), connection.server.fileno()
    pieces = [head[at : at + 70] for at in range(0, len(head), 70)]
    buffers = [bytearray(70) for _ in pieces]
    write, read = {
        "write": (lambda: os.write(client, head), lambda: os.read(server, 1 << 16)),
        "writev": (lambda: os.writev(client, pieces), lambda: os.readv(server, buffers)),
        "sendto": (lambda: connection.client.send(head), lambda: connection.server.recv(1 << 16)),
        "sendmsg": (lambda: connection.client.sendmsg(pieces), lambda: connection.server.recvmsg_into(buffers)),
    }[calls[0]]
    write()
    read()
    events = watched.told()
    assert ids(events) == both(request)
    assert tuple(syscall_name(event.syscall) for event in events) == calls


def test_a_head_may_be_cut_anywhere(watched: Watched) -> None:
    request = Traced()
    head = request.head("Cookie: " + "c" * 40)
    for cut in range(1, len(head)):
        connection = watched.connect()
        connection.carry(head, cut)
        assert ids(watched.told()) == both(request), cut
        assert watched.kept() == 0
        connection.close()


@pytest.mark.parametrize("reads", [1, 2, 7, 97, 4096])
def test_a_head_may_be_read_in_any_portions(watched: Watched, reads: int) -> None:
    request, connection = Traced(), watched.connect()
    connection.carry(request.head("Cookie: " + "c" * 5000, "B: " + "b" * 200), reads=reads)
    assert ids(watched.told()) == both(request)


def test_of_a_keep_alive_connection_every_request_is_told(watched: Watched) -> None:
    connection, requests = watched.connect(), [Traced() for _ in range(50)]
    for request in requests:
        connection.carry(request.head())
        connection.server.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        connection.client.recv(1 << 16)
    assert ids(watched.told()) == both(*requests)


def test_pipelined_requests_are_all_told(watched: Watched) -> None:
    requests = [Traced() for _ in range(20)]
    content = b"".join(request.head() for request in requests)
    watched.connect().carry(content, 1, 77, 1000, 1001)
    assert set(ids(watched.told())) == set(both(*requests))


@pytest.mark.parametrize("name", ["traceparent", "TRACEPARENT", "Traceparent", "tRaCePaReNt"])
def test_the_name_may_be_in_any_case(watched: Watched, name: str) -> None:
    request = Traced()
    watched.connect().carry(request.head(name=name))
    assert ids(watched.told()) == both(request)


def test_a_hundred_headers_before_it_change_nothing(watched: Watched) -> None:
    request = Traced()
    watched.connect().carry(request.head(*(f"X-Header-{n}: {'v' * n}" for n in range(100))))
    assert ids(watched.told()) == both(request)


GOOD = "4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7"


@pytest.mark.parametrize(
    "value", [f"00-{GOOD}-01", f"00-{GOOD}-ff", f"cc-{GOOD}-00", f"cc-{GOOD}-00-more", f"  \t00-{GOOD}-01  "]
)
def test_valid_values_are_told(watched: Watched, value: str) -> None:
    watched.connect().carry(f"GET / HTTP/1.1\r\ntraceparent:{value}\r\n\r\n".encode())
    told = watched.told()
    assert len(told) == 2
    assert {f"{event.span.trace_id.hex()}-{event.span.span_id.hex()}" for event in told} == {GOOD}


@pytest.mark.parametrize(
    "value",
    [
        "",
        f"ff-{GOOD}-01",
        f"00-{GOOD}-01-more",
        f"00-{GOOD}-0",
        f"00-{GOOD}-0g",
        f"0x-{GOOD}-01",
        f"cc-{GOOD}-00more",
        f"00-{GOOD.upper()}-01",
        f"00-{'0' * 32}-{GOOD[33:]}-01",
        f"00-{GOOD[:32]}-{'0' * 16}-01",
        f"00-{GOOD[:31]}o-{GOOD[33:]}-01",
        f"00-{GOOD[:32]}-{GOOD[33:48]}/-01",
        f"00_{GOOD}-01",
        f"00-{GOOD[:-1]}\xff-01",
        f"00-{GOOD}-01" + " " * 200,
    ],
)
def test_invalid_values_are_not(watched: Watched, value: str) -> None:
    connection, request = watched.connect(), Traced()
    connection.carry(f"GET / HTTP/1.1\r\ntraceparent: {value}\r\n\r\n".encode("latin-1"))
    assert watched.told() == []
    connection.carry(request.head())
    assert ids(watched.told()) == both(request)


def test_of_two_in_one_head_neither_is_told(watched: Watched) -> None:
    connection, request = watched.connect(), Traced()
    connection.carry(Traced().head(f"traceparent: {Traced().value}"))
    assert watched.told() == []
    connection.carry(request.head())
    assert ids(watched.told()) == both(request)


@pytest.mark.parametrize("cut", [0, 1, 30])
def test_nothing_in_a_body_is_taken_for_a_request(watched: Watched, cut: int) -> None:
    connection, request, later, fake = watched.connect(), Traced(), Traced(), Traced()
    body = fake.head() + b"\r\ntraceparent: " + fake.value.encode() + b"\r\n" + fake.head()
    head = request.head(f"Content-Length: {len(body)}", first="POST / HTTP/1.1")
    cuts = (len(head), len(head) + len(fake.head())) if not cut else (len(head) - cut, len(head), len(head) + cut)
    connection.carry(head + body, *cuts)
    connection.server.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
    connection.carry(later.head())
    assert ids(watched.told()) == both(request, later)
    assert watched.kept() == 0


@pytest.mark.parametrize("reads", [1, 5, 4096])
def test_nor_in_the_chunks_of_one(watched: Watched, reads: int) -> None:
    connection, request, later, fake = watched.connect(), Traced(), Traced(), Traced()
    chunks = [fake.head(), b"\r\n\r\n", fake.head(), b"x" * 5000]
    sizes = ["%X", "%x", "%x;extension=1", "%04x"]
    body = b"".join(
        (size % len(chunk)).encode() + b"\r\n" + chunk + b"\r\n" for size, chunk in zip(sizes, chunks, strict=True)
    )
    trailers = b"0\r\nX-Sum: 1\r\ntraceparent: " + fake.value.encode() + b"\r\n\r\n"
    head = request.head("Transfer-Encoding: chunked", first="POST / HTTP/1.1")
    connection.carry(head + body + trailers, len(head), len(head) + 4, reads=reads)
    connection.carry(later.head(), reads=reads)
    assert sorted(ids(watched.told())) == sorted(both(request, later))
    assert watched.kept() == 0


@pytest.mark.parametrize(
    "others",
    [
        ("Content-Length: 10", "Content-Length: 20"),
        ("Content-Length: ten",),
        ("Content-Length: 12345678901234567890",),
        ("Content-Length: 10", "Transfer-Encoding: chunked"),
    ],
)
def test_a_body_of_which_the_end_is_not_known_gives_the_connection_up(
    watched: Watched, others: tuple[str, ...]
) -> None:
    connection = watched.connect()
    connection.carry(Traced().head(*others, first="POST / HTTP/1.1"))
    watched.told()
    connection.carry(Traced().head())
    assert watched.told() == []
    assert watched.given_up()
    connection.close()
    assert watched.kept() == 0
    again, request = watched.connect(), Traced()
    again.carry(request.head())
    assert ids(watched.told()) == both(request)


def test_a_file_sent_as_a_body_is_known_to_have_been_sent(watched: Watched, tmp_path: Path) -> None:
    connection, request, later = watched.connect(), Traced(), Traced()
    content = Traced().head() * 10
    body = tmp_path / "body"
    body.write_bytes(content)
    with body.open("rb") as file:
        connection.carry(request.head(f"Content-Length: {len(content)}", first="PUT / HTTP/1.1"))
        assert os.sendfile(connection.client.fileno(), file.fileno(), 0, len(content)) == len(content)
    while content:
        content = content[len(connection.server.recv(512)) :]
    connection.carry(later.head())
    assert ids(watched.told()) == both(request, later)


def test_what_is_only_peeked_at_is_not_read(watched: Watched) -> None:
    connection, request = watched.connect(), Traced()
    connection.client.sendall(request.head())
    for _ in range(3):
        connection.server.recv(1 << 16, socket.MSG_PEEK)
    connection.server.recv(1 << 16)
    assert ids(watched.told()) == both(request)


def test_only_tcp_connections_are_looked_at(watched: Watched) -> None:
    ends = os.pipe()
    one, other = socket.socketpair()
    os.write(ends[1], Traced().head())
    os.read(ends[0], 1 << 16)
    one.sendall(Traced().head())
    other.recv(1 << 16)
    assert watched.told() == []
    assert watched.kept() == 0
    for end in ends:
        os.close(end)
    one.close()
    other.close()


def test_nobody_is_looked_at_who_is_not_to_be(watched: Watched) -> None:
    probes = watched.kernel.probes
    connection = watched.connect()
    probes.watch(os.getpid(), ProcessLayout(flags=EventFlag.PROCESS_HAS_SPAN_ENDS))
    connection.carry(Traced().head())
    assert watched.told() == []


def test_the_program_is_attached_only_while_somebody_is_to_be_looked_at(load_probes: LoadProbes) -> None:
    probes = load_probes(Probe.HEADERS, Probe.SYSCALLS).probes
    wants, does_not = ProcessLayout(flags=EventFlag.PROCESS_WANTS_HEADERS), ProcessLayout()
    probes.watch(1_000_000_000, does_not)
    assert not probes._reading_headers
    probes.watch(1_000_000_001, wants)
    probes.watch(1_000_000_002, wants)
    assert probes._reading_headers
    probes.unwatch(1_000_000_001)
    assert probes._reading_headers
    probes.unwatch(1_000_000_002)
    assert not probes._reading_headers


def test_what_ends_unseen_is_forgotten(watched: Watched) -> None:
    watched.connect().carry(b"POST / HTTP/1.1\r\nContent-Length: 5\r\n\r\n")
    assert watched.kept() == 2
    watched.kernel.probes.unwatch(os.getpid())
    watched.kernel.probes.scan()
    assert watched.kept() == 0


def test_lines_that_never_end_cost_no_more_than_they_may(watched: Watched) -> None:
    connection, request = watched.connect(), Traced()
    connection.carry(b"GET / HTTP/1.1\r\nX: " + b"x" * 300_000 + b"\r\n" + b"a:\n" * 3000 + request.head()[16:])
    assert watched.kept() <= 2
    connection.close()
    assert watched.kept() == 0
