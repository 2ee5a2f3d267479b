"""`traceparent` in HTTP/2: frames and header blocks that this process writes and reads itself."""

import os
import random
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import closing

import pytest
from hpack import Encoder

from enricher.evidence.records import EventFlag, ProbeCounter, ProcessLayout
from enricher.observer.probe_set import Probe

from .conftest import Kernel
from .header_traffic import WRITTEN, Traced, Watched, both, ids

LoadProbes = Callable[..., Kernel]
MULTIPLEXED = EventFlag.CALL_MULTIPLEXED
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
SETTINGS = bytes(3) + b"\x04\x00" + bytes(4)
END_HEADERS, PADDED, PRIORITY = 0x04, 0x08, 0x20
DATA, HEADERS, RST_STREAM, PING, WINDOW_UPDATE, CONTINUATION = 0, 1, 3, 6, 8, 9


@pytest.fixture
def watched(load_probes: LoadProbes) -> Iterator[Watched]:
    made = Watched(load_probes(Probe.HEADERS))
    yield made
    made.close()


def frame(frame_type: int, flags: int, stream: int, payload: bytes) -> bytes:
    return len(payload).to_bytes(3, "big") + struct.pack(">BBI", frame_type, flags, stream) + payload


class Http2Client:
    """What a client writes, frame by frame, with the compression state of its connection."""

    def __init__(self) -> None:
        self._encoder = Encoder()
        self._stream = -1

    def block(self, request: Traced, *others: tuple[str, str]) -> bytes:
        start = [(":method", "POST"), (":scheme", "http"), (":path", "/s/m"), (":authority", "localhost")]
        return self._encoder.encode([*start, *others, ("traceparent", request.value)])

    def request(self, request: Traced, *others: tuple[str, str], body: bytes = b"") -> bytes:
        self._stream += 2
        headers = frame(HEADERS, END_HEADERS, self._stream, self.block(request, *others))
        return headers + frame(DATA, 1, self._stream, body)

    def next_stream(self) -> int:
        self._stream += 2
        return self._stream


def test_http2_requests_are_told_from_their_first_to_their_last(watched: Watched) -> None:
    connection, client, requests = watched.connect(), Http2Client(), [Traced() for _ in range(100)]
    before_ns = time.monotonic_ns()
    connection.carry(PREFACE + SETTINGS)
    for request in requests:
        connection.carry(client.request(request, body=b"message"))
    told = watched.told()
    assert ids(told) == both(*requests)
    assert {(event.fd, event.flags) for event in told} == {
        (connection.client.fileno(), WRITTEN | MULTIPLEXED),
        (connection.server.fileno(), MULTIPLEXED),
    }
    for event in told:
        assert (event.tgid, event.tid) == (os.getpid(), os.getpid())
        assert before_ns <= event.start_ns == event.end_ns <= time.monotonic_ns()
    assert [event.start_ns for event in told] == sorted(event.start_ns for event in told)
    connection.close()
    assert watched.kept() == 0
    watched.told()
    assert not watched.header_blocks._connections


@pytest.mark.parametrize("reads", [1, 3, 9, 10, 100, 4096])
def test_frames_may_be_cut_anywhere(watched: Watched, reads: int) -> None:
    connection, client, requests = watched.connect(), Http2Client(), [Traced() for _ in range(5)]
    fake = Traced().head()
    content = PREFACE + SETTINGS + frame(PING, 0, 0, bytes(8))
    for request in requests:
        content += client.request(request, body=fake) + frame(WINDOW_UPDATE, 0, 0, b"\0\0\1\0")
    connection.carry(content, 1, 23, 25, 40, 100, reads=reads)
    assert sorted(ids(watched.told())) == sorted(both(*requests))


def test_http2_with_a_server_that_took_the_preface_for_a_request(watched: Watched) -> None:
    connection, request = watched.connect(), Traced()
    connection.carry(PREFACE + SETTINGS + Http2Client().request(request), 18)
    assert sorted(ids(watched.told())) == sorted(both(request))


def test_a_connection_may_change_from_http1_to_http2(watched: Watched) -> None:
    connection, first, second = watched.connect(), Traced(), Traced()
    connection.carry(first.head("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c"))
    connection.carry(PREFACE + SETTINGS + Http2Client().request(second))
    assert sorted(ids(watched.told())) == sorted(both(first, second))


@pytest.mark.parametrize("size", [1, 40, 10_000])
def test_a_header_block_may_be_padded_and_in_several_frames(watched: Watched, size: int) -> None:
    connection, client, requests = watched.connect(), Http2Client(), [Traced() for _ in range(3)]
    connection.carry(PREFACE + SETTINGS)
    for request in requests:
        block = client.block(request, ("a", "b" * 12_000))
        stream = client.next_stream()
        first, rest = block[:size], block[size:]
        connection.carry(frame(HEADERS, PADDED | PRIORITY, stream, b"\x07" + bytes(5) + first + bytes(7)))
        step = max(len(rest) // 9, 1)
        for at in range(0, len(rest), step):
            connection.carry(frame(CONTINUATION, 0, stream, rest[at : at + step]))
        connection.carry(frame(CONTINUATION, END_HEADERS, stream, b""))
    assert ids(watched.told()) == both(*requests)


@pytest.mark.parametrize(
    "bad",
    [
        frame(CONTINUATION, END_HEADERS, 1, b"\x82"),
        frame(HEADERS, END_HEADERS, 2, b"\x82"),
        frame(HEADERS, END_HEADERS, 0, b"\x82"),
        frame(PING, 0, 0, bytes(7)),
        frame(RST_STREAM, 0, 1, bytes(5)),
        frame(HEADERS, 0, 101, b"\x82") + frame(DATA, 0, 101, b""),
        frame(HEADERS, 0, 101, b"\x82") + frame(CONTINUATION, END_HEADERS, 103, b""),
        frame(HEADERS, 0, 101, b"\x82") + frame(CONTINUATION, 0, 101, b"") * 100,
        frame(HEADERS, 0, 101, b"\x82" * 10_000) + frame(CONTINUATION, 0, 101, b"\x82" * 10_000),
        frame(HEADERS, END_HEADERS | PADDED, 101, b"\xff\x82"),
        frame(HEADERS, END_HEADERS | PADDED, 101, b""),
        frame(HEADERS, END_HEADERS | PRIORITY, 101, b"\x82"),
        frame(HEADERS, END_HEADERS, 101, b"\xff" * 20),
        frame(HEADERS, END_HEADERS, 101, b"\xfe"),
        frame(HEADERS, END_HEADERS, 101, b"\x3f\xff\xff\xff\x7f"),
        Traced().head(),
    ],
)
def test_after_anything_that_is_not_understood_nothing_of_the_connection_is_told(watched: Watched, bad: bytes) -> None:
    connection, client, request = watched.connect(), Http2Client(), Traced()
    connection.carry(PREFACE + SETTINGS + client.request(request))
    assert len(watched.told()) == 2
    connection.carry(bad)
    for _ in range(3):
        connection.carry(client.request(Traced()))
    assert watched.told() == []
    other, later = watched.connect(), Traced()
    other.carry(PREFACE + SETTINGS + Http2Client().request(later))
    assert len(watched.told()) == 2


def test_a_block_that_stands_for_too_much_gives_its_connection_up(watched: Watched) -> None:
    connection, encoder = watched.connect(), Encoder()
    entry = encoder.encode([("x", "y" * 3900)], huffman=False)
    connection.carry(PREFACE + SETTINGS + frame(HEADERS, END_HEADERS, 1, entry + b"\xbe" * 12_000))
    began_ns = time.monotonic_ns()
    assert watched.told() == []
    assert time.monotonic_ns() - began_ns < 100_000_000
    assert watched.header_blocks.statistics.given_up == 2


def test_a_connection_that_is_not_known_from_its_beginning_is_left_alone(watched: Watched) -> None:
    connection, client = watched.connect(), Http2Client()
    watched.kernel.probes.watch(os.getpid(), ProcessLayout())
    connection.carry(PREFACE + SETTINGS + client.request(Traced()))
    watched.kernel.probes.watch(os.getpid(), ProcessLayout(flags=EventFlag.PROCESS_WANTS_HEADERS))
    for _ in range(5):
        connection.carry(client.request(Traced()))
    assert watched.told() == []


def test_a_full_ring_gives_connections_up_and_is_counted(load_probes: LoadProbes) -> None:
    # A ring full of blocks takes longer to decode than a slow machine is given at once.
    with closing(Watched(load_probes(Probe.HEADERS), burst_ns=60 * 10**9)) as watched:
        fill_the_ring(watched)


def fill_the_ring(watched: Watched) -> None:
    connection, client, first = watched.connect(), Http2Client(), Traced()
    connection.carry(PREFACE + SETTINGS + client.request(first))
    sent = 0
    while not watched.count(ProbeCounter.RING_FULL):
        connection.carry(client.request(Traced()))
        sent += 1
        assert sent < 10_000
    told = [event.fd for event in watched.told()]
    # Of an end whose last block did not go in there is nothing more, while the other, if it did, is followed.
    followed = {fd for fd in told if told.count(fd) == sent + 1}
    assert {told.count(fd) for fd in set(told) - followed} == {sent}
    connection.carry(client.request(Traced()))
    connection.carry(client.request(Traced()))
    assert sorted(event.fd for event in watched.told()) == sorted([*followed] * 2)
    other, later = watched.connect(), Traced()
    other.carry(PREFACE + SETTINGS + Http2Client().request(later))
    assert ids(watched.told()) == both(later)


def test_no_byte_of_a_body_leaves_the_process(watched: Watched) -> None:
    connection, client = watched.connect(), Http2Client()
    secret = b"secret of the body"
    records: list[bytes] = []
    ring = watched.header_blocks._ring

    class Overheard:
        def read(self) -> tuple[list[bytes], bool]:
            found, caught_up = ring.read()
            records.extend(found)
            return found, caught_up

    watched.header_blocks._ring = Overheard()
    connection.carry(PREFACE + SETTINGS + client.request(Traced(), body=secret * 100), reads=50)
    connection.carry(client.request(Traced(), body=secret * 1000), reads=4096)
    assert len(watched.told()) == 4
    assert records
    assert not any(secret[:8] in record for record in records)


def spoilt(content: bytes, chance: random.Random) -> bytes:
    """With some of its bytes changed, left out or said twice."""
    made = bytearray(content)
    for _ in range(chance.randrange(1, 6)):
        at = chance.randrange(len(made))
        match chance.randrange(3):
            case 0:
                made[at] = chance.randrange(256)
            case 1:
                del made[at : at + chance.randrange(20)]
            case _:
                made[at:at] = made[at : at + chance.randrange(200)]
    return bytes(made)


@pytest.mark.parametrize("seed", range(20))
def test_whatever_comes_over_a_connection_it_stands(watched: Watched, seed: int) -> None:
    chance = random.Random(seed)
    told = 0
    for _ in range(20):
        connection, client = watched.connect(), Http2Client()
        if chance.random() < 0.5:
            requests = [client.request(Traced(), body=chance.randbytes(chance.randrange(3000))) for _ in range(5)]
            content = PREFACE + SETTINGS + b"".join(requests)
        else:
            body = Traced().head("Transfer-Encoding: chunked") + b"5\r\nhello\r\n0\r\n\r\n"
            content = Traced().head("Content-Length: 20", first="PUT / HTTP/1.1") + bytes(20) + body + body
        connection.carry(spoilt(content, chance), reads=chance.choice([1, 10, 4096]))
        told += len(watched.told())
        connection.close()
    assert told
    assert watched.kept() == 0
    connection, request = watched.connect(), Traced()
    connection.carry(PREFACE + SETTINGS + Http2Client().request(request))
    assert sorted(ids(watched.told())) == sorted(both(request))
