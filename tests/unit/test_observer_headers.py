"""Header blocks of HTTP/2, as records of the ring, and the events they become."""

import struct

import pytest
from hpack import Encoder
from hypothesis import given
from hypothesis import strategies as st

from enricher.evidence.records import Event, EventFlag, EventKind, FdType
from enricher.observer import headers as headers_module
from enricher.observer.headers import BLOCK_LIMIT, CONNECTION_LIMIT, HeaderBlocks, read_traceparent

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
VALUE = f"00-{TRACE}-{SPAN}-01"
REQUEST = [(":method", "POST"), (":scheme", "http"), (":path", "/s/m"), ("traceparent", VALUE)]
HEADERS, CONTINUATION = 1, 9
END_HEADERS, PADDED, PRIORITY = 0x04, 0x08, 0x20
PIECE, CLOSED = 1, 2


class Records:
    """Stands for the ring; writes its records as the probe does."""

    def __init__(self) -> None:
        self.pending: list[bytes] = []
        self.caught_up = True
        self._known: set[tuple[int, int, int]] = set()

    def read(self) -> tuple[list[bytes], bool]:
        found, self.pending = self.pending, []
        return found, self.caught_up

    def put(
        self,
        content: bytes,
        *,
        tgid: int = 7,
        fd: int = 5,
        opened_ns: int = 100,
        left: int = 0,
        kind: int = PIECE,
        frame_type: int = HEADERS,
        flags: int = END_HEADERS,
        written: bool = False,
        room: int = 128,
    ) -> None:
        connection = (tgid, fd, opened_ns)
        fields = (opened_ns, 1000, 11, 3, tgid, 8, fd, left, 1, len(content), 45, kind, written, frame_type, flags)
        record = struct.pack("=QQQQIIiIIHHBBBBB3x", *fields, connection not in self._known)
        self._known.add(connection)
        self.pending.append(record + content + bytes(max(room - len(content), 0)))


@pytest.fixture
def records() -> Records:
    return Records()


@pytest.fixture
def blocks(records: Records) -> HeaderBlocks:
    return HeaderBlocks(records)


def events(blocks: HeaderBlocks) -> list[Event]:
    found, _ = blocks.drain()
    return found


def test_a_request_becomes_an_event_with_the_ids_and_whose_call_it_was(records: Records, blocks: HeaderBlocks) -> None:
    records.put(Encoder().encode(REQUEST))
    (event,) = events(blocks)
    assert event.kind is EventKind.TRACEPARENT
    assert (event.start_ns, event.end_ns, event.goid, event.parent_goid) == (1000, 1000, 11, 3)
    assert (event.tgid, event.tid, event.fd, event.syscall, event.fd_type) == (7, 8, 5, 45, FdType.SOCKET)
    assert event.flags == EventFlag.CALL_MULTIPLEXED
    assert (event.span.trace_id.hex(), event.span.span_id.hex()) == (TRACE, SPAN)
    assert event.span.parent_span_id == bytes(8)


def test_one_that_was_written_says_so(records: Records, blocks: HeaderBlocks) -> None:
    records.put(Encoder().encode(REQUEST), written=True)
    assert [event.flags for event in events(blocks)] == [EventFlag.CALL_MULTIPLEXED | EventFlag.TRACEPARENT_WRITTEN]


def test_later_blocks_are_read_with_what_earlier_ones_said(records: Records, blocks: HeaderBlocks) -> None:
    encoder = Encoder()
    sizes = []
    for _ in range(5):
        block = encoder.encode(REQUEST)
        sizes.append(len(block))
        records.put(block)
    assert sizes[-1] < 8 < sizes[0]
    assert len(events(blocks)) == 5
    records.put(encoder.encode(REQUEST))
    assert len(events(blocks)) == 1
    assert blocks.statistics.blocks == blocks.statistics.traceparents == 6


@pytest.mark.parametrize(
    "headers",
    [
        REQUEST[:-1],
        REQUEST[1:],  # a trailer
        [*REQUEST, ("traceparent", VALUE)],
        [*REQUEST[:-1], ("traceparent", VALUE + "-")],
        [*REQUEST[:-1], ("tracestate", VALUE)],
    ],
)
def test_a_block_with_no_one_valid_traceparent_of_a_request_is_decoded_and_left_out(
    records: Records, blocks: HeaderBlocks, headers: list[tuple[str, str]]
) -> None:
    encoder = Encoder()
    records.put(encoder.encode(headers))
    assert events(blocks) == []
    records.put(encoder.encode(REQUEST))
    assert len(events(blocks)) == 1


def test_connections_do_not_mix(records: Records, blocks: HeaderBlocks) -> None:
    encoders = {(tgid, fd): Encoder() for tgid in (1, 2) for fd in (3, 4)}
    for path in range(10):
        for (tgid, fd), encoder in encoders.items():
            block = encoder.encode([(":method", "GET"), (f"x-{tgid}-{fd}", str(path)), *REQUEST[1:]])
            records.put(block[:4], tgid=tgid, fd=fd, left=len(block) - 4)
            records.put(block[4:], tgid=tgid, fd=fd)
        assert [(event.tgid, event.fd) for event in events(blocks)] == list(encoders)


def test_a_descriptor_used_again_begins_anew(records: Records, blocks: HeaderBlocks) -> None:
    records.put(Encoder().encode(REQUEST))
    records.put(b"", kind=CLOSED)
    records.put(Encoder().encode(REQUEST), opened_ns=200)
    records.put(Encoder().encode(REQUEST), opened_ns=300)  # the end of the one before was not told
    assert len(events(blocks)) == 3


def test_a_block_in_frames_with_padding_and_priority_is_put_together(records: Records, blocks: HeaderBlocks) -> None:
    block = Encoder().encode(REQUEST)
    first = bytes([4, 0, 0, 0, 1, 16]) + block[:10] + bytes(4)
    records.put(first[:3], left=len(first) - 3, flags=PADDED | PRIORITY)
    records.put(first[3:], flags=PADDED | PRIORITY)
    records.put(block[10:20], frame_type=CONTINUATION, flags=0)
    assert events(blocks) == []
    records.put(block[20:], frame_type=CONTINUATION, flags=END_HEADERS)
    assert len(events(blocks)) == 1


@pytest.mark.parametrize(
    ("content", "flags"),
    [
        (b"", PADDED | END_HEADERS),
        (b"\x05\x82", PADDED | END_HEADERS),
        (b"\x82", PRIORITY | END_HEADERS),
        (b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", END_HEADERS),
        (b"\xfe", END_HEADERS),
        (b"\x3f\xe2\x1f", END_HEADERS),  # a table of 4097 bytes
        (b"\x40\x7f\x7f", END_HEADERS),
        (b"\x00\x81\x00\x81", END_HEADERS),
        (b"\x82" * (BLOCK_LIMIT + 1), END_HEADERS),
        (b"\x82" * (BLOCK_LIMIT + 1), 0),
        (Encoder().encode([("a", "b" * 3000)], huffman=False) + b"\xbe" * 20, END_HEADERS),
    ],
)
def test_after_what_is_not_understood_the_connection_is_left_alone(
    records: Records, blocks: HeaderBlocks, content: bytes, flags: int
) -> None:
    encoder = Encoder()
    records.put(encoder.encode(REQUEST))
    assert len(events(blocks)) == 1
    records.put(content, flags=flags)
    records.put(encoder.encode(REQUEST))
    assert events(blocks) == []
    assert blocks.statistics.given_up == 1
    records.put(Encoder().encode(REQUEST), opened_ns=200)
    assert len(events(blocks)) == 1


def test_a_connection_that_is_not_known_from_its_first_block_is_left_alone(
    records: Records, blocks: HeaderBlocks
) -> None:
    records.put(Encoder().encode(REQUEST))
    records.read()
    records.put(Encoder().encode(REQUEST))
    assert events(blocks) == []


def test_more_connections_than_there_is_room_for_push_out_the_most_silent(
    records: Records, blocks: HeaderBlocks
) -> None:
    encoders = [Encoder() for _ in range(CONNECTION_LIMIT + 1)]
    for fd, encoder in enumerate(encoders[:-1]):
        records.put(encoder.encode(REQUEST), fd=fd)
    records.put(encoders[0].encode(REQUEST), fd=0)
    records.put(encoders[-1].encode(REQUEST), fd=CONNECTION_LIMIT)
    assert len(events(blocks)) == CONNECTION_LIMIT + 2
    for fd in (0, 1, 2):
        records.put(encoders[fd].encode(REQUEST), fd=fd)
    assert [event.fd for event in events(blocks)] == [0, 2]
    assert len(blocks._connections) == CONNECTION_LIMIT


def test_of_processes_that_are_not_watched_nothing_is_kept(records: Records, blocks: HeaderBlocks) -> None:
    encoder = Encoder()
    records.put(encoder.encode(REQUEST), tgid=1)
    records.put(Encoder().encode(REQUEST), tgid=2)
    assert len(events(blocks)) == 2
    blocks.forget({2: None})
    assert [tgid for tgid, _ in blocks._connections] == [2]
    records.put(encoder.encode(REQUEST), tgid=1)
    assert events(blocks) == []


class SlowDecoder:
    """Takes as long as half of what may be taken at once."""

    taken_ns = 0

    def __init__(self, max_header_list_size: int) -> None:
        pass

    def decode(self, data: bytes, raw: bool) -> list[tuple[bytes, bytes]]:
        SlowDecoder.taken_ns += 50_000_000
        return [(name.encode(), value.encode()) for name, value in REQUEST]


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hpack.Decoder", SlowDecoder)
    monkeypatch.setattr(headers_module.time, "thread_time_ns", lambda: SlowDecoder.taken_ns)


@pytest.mark.usefixtures("slow")
def test_a_quarter_of_a_core_is_all_that_decoding_gets(records: Records) -> None:
    now_ns = 0
    blocks = HeaderBlocks(records, clock=lambda: now_ns)
    for fd in range(5):
        records.put(b"\x82", fd=fd)
    assert [event.fd for event in events(blocks)] == [0, 1]  # those of which there was no time are left alone
    assert blocks.statistics.given_up == 3
    now_ns = 200_000_000
    for fd in range(5):
        records.put(b"\x82", fd=fd)
    assert [event.fd for event in events(blocks)] == [0]
    now_ns = 10_000_000_000
    for _ in range(5):
        records.put(b"\x82", fd=9)
    assert [event.fd for event in events(blocks)] == [9, 9]


def test_a_record_still_being_written_is_told(records: Records, blocks: HeaderBlocks) -> None:
    records.caught_up = False
    assert blocks.drain() == ([], False)
    records.put(Encoder().encode(REQUEST))
    found, caught_up = blocks.drain()
    assert len(found) == 1
    assert not caught_up


@given(st.lists(st.tuples(st.binary(max_size=60), st.integers(0, 255), st.sampled_from([1, 9]), st.integers(0, 3))))
def test_whatever_the_blocks_are_it_stands(pieces: list[tuple[bytes, int, int, int]]) -> None:
    records = Records()
    blocks = HeaderBlocks(records)
    for content, flags, frame_type, left in pieces:
        records.put(content, flags=flags, frame_type=frame_type, left=left, fd=len(content) % 3)
    assert events(blocks) == []
    records.put(Encoder().encode(REQUEST), fd=99)
    assert len(events(blocks)) == 1


@pytest.mark.parametrize("value", [VALUE, f"00-{TRACE}-{SPAN}-00", f"cc-{TRACE}-{SPAN}-01", f"cc-{TRACE}-{SPAN}-01-x"])
def test_valid_values_are_read(value: str) -> None:
    found = read_traceparent(value.encode())
    assert found is not None
    assert (found.trace_id.hex(), found.span_id.hex()) == (TRACE, SPAN)


@pytest.mark.parametrize(
    "value",
    [
        "",
        VALUE[:-1],
        VALUE + "\n",
        VALUE + "-x",
        VALUE.upper(),
        f"ff-{TRACE}-{SPAN}-01",
        f"cc-{TRACE}-{SPAN}-01x",
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE[:-1]}g-{SPAN}-01",
        f"00_{TRACE}-{SPAN}-01",
    ],
)
def test_invalid_values_are_not(value: str) -> None:
    assert read_traceparent(value.encode()) is None
