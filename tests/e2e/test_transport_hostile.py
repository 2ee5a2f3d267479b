"""Peers that mean ill, or are ill: the native transport stays within its memory, and serves everybody else."""

import gzip
import http.client
import json
import resource
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, Self

import grpc
import pytest

from tests.e2e.http2_frames import (
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    EXPORT,
    GOAWAY,
    HEADERS,
    PING,
    RST_STREAM,
    SETTINGS,
    Line,
    frame,
)
from tests.e2e.receiving import new_queue, opened, serving
from tests.e2e.testbed.processes import wait_until
from tests.e2e.transport import request, sender

MIB = 1 << 20
ENHANCE_YOUR_CALM = 11
LIMITS: dict[str, int] = {"max_message_bytes": 4 * MIB, "max_bytes_under_way": 16 * MIB}


class Receiver:
    """A receiver in another process."""

    def __init__(self, limits: dict[str, int]) -> None:
        command = [sys.executable, "-m", "tests.e2e.receiver_program", json.dumps(limits)]
        self._child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._child.stdout is not None
        ports = json.loads(self._child.stdout.readline())
        self.grpc, self.http = ports["grpc"], ports["http"]
        with sender(self.grpc) as export:
            export(request("warm", padding=MIB))
        self._before_kib = self._peak_kib()

    def statistics(self) -> dict[str, int]:
        assert self._child.stdin is not None
        assert self._child.stdout is not None
        self._child.stdin.write("\n")
        self._child.stdin.flush()
        found: dict[str, int] = json.loads(self._child.stdout.readline())
        return found

    def grown_mib(self) -> float:
        """By how much more its memory has been at its peak than before the attack."""
        return (self._peak_kib() - self._before_kib) / 1024

    def _peak_kib(self) -> int:
        status = Path(f"/proc/{self._child.pid}/status").read_text()
        return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))

    def end(self) -> None:
        self._child.communicate(timeout=30)


@contextmanager
def receiver(**limits: int) -> Iterator[Receiver]:
    started = Receiver(LIMITS | limits)
    try:
        yield started
    finally:
        started.end()


class WellBehaved:
    """Sends one request after the other for as long as the attack goes on."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._send)
        self.longest_s = 0.0
        self.sent = 0
        self.refused = 0
        self.failures: list[str] = []

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        wait_until(lambda: self.sent >= 20, "the well-behaved sender to have sent something")
        self._over.set()
        self._thread.join(30)

    def _send(self) -> None:
        with sender(self._port) as export:
            while not self._over.is_set():
                began = time.monotonic()
                try:
                    export(request("well", padding=2000), timeout=20)
                    self.sent += 1
                except grpc.RpcError as error:
                    if error.code() is grpc.StatusCode.UNAVAILABLE:
                        self.refused += 1
                    else:
                        self.failures.append(str(error))
                self.longest_s = max(self.longest_s, time.monotonic() - began)

    def check(self) -> None:
        assert self.failures == []
        assert self.longest_s < 5


def zstd(size: int, *, window_log: int = 23) -> bytes:
    """So many zeros: a frame of RLE blocks (RFC 8878), four bytes for each 128 KiB."""
    full, rest = divmod(size, 128 << 10)
    sizes = [128 << 10] * full + [rest]
    blocks = [struct.pack("<I", each << 3 | 1 << 1 | (at == full))[:3] + b"\0" for at, each in enumerate(sizes)]
    return b"\x28\xb5\x2f\xfd" + bytes([0, (window_log - 10) << 3]) + b"".join(blocks)


def post(port: int, body: bytes, **headers: str) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    try:
        sent = {"content-type": "application/x-protobuf"} | {n.replace("_", "-"): v for n, v in headers.items()}
        connection.request("POST", "/v1/traces", body, sent)
        return connection.getresponse().status
    finally:
        connection.close()


@pytest.mark.parametrize("encoding", ["gzip", "zstd"])
def test_a_bomb_costs_no_more_than_the_limit(encoding: str) -> None:
    bomb = gzip.compress(bytes(64 * MIB)) if encoding == "gzip" else zstd(1024 * MIB)
    message = b"\1" + struct.pack(">I", len(bomb)) + bomb
    pieces = [frame(DATA, 1, message[at : at + 16000]) for at in range(0, len(message), 16000)]
    with receiver() as attacked, ExitStack() as stack:
        with WellBehaved(attacked.grpc) as other:
            statuses = [post(attacked.http, bomb, content_encoding=encoding) for _ in range(10)]
            for _ in range(20):
                line = stack.enter_context(Line(attacked.grpc))
                line.send(
                    line.head(1, (*EXPORT, ("grpc-encoding", encoding))), *pieces, frame(DATA, 1, b"", END_STREAM)
                )
            # Together they have no more room than any that are under way: some are told to come again.
            wait_until(lambda: _refused(attacked.statistics()) == 30, "every bomb to be refused")
        assert statuses == [413] * 10
        assert attacked.statistics()["too_large"] >= 10
        assert attacked.grown_mib() < 40
    other.check()


def _refused(statistics: dict[str, int]) -> int:
    return statistics.get("too_large", 0) + statistics.get("busy", 0)


def test_a_window_that_a_few_bytes_ask_for_is_not_made() -> None:
    with receiver() as attacked:
        assert post(attacked.http, zstd(10, window_log=31), content_encoding="zstd") == 400
        assert post(attacked.http, zstd(0, window_log=20), content_encoding="zstd") == 200
        assert attacked.grown_mib() < 12


def test_a_length_that_is_only_declared_takes_no_memory() -> None:
    with receiver() as attacked, Line(attacked.grpc) as line:
        line.send(line.head(1), frame(DATA, 1, b"\0\xff\xff\xff\xff"))
        line.send(line.head(3), frame(DATA, 3, b"\0" + struct.pack(">I", 4 * MIB) + b"x"))
        wait_until(lambda: attacked.statistics().get("too_large", 0) == 1, "the length to be refused")
        assert attacked.grown_mib() < 8


def stall(port: int, connections: int, calls: int, stack: ExitStack) -> None:
    """Calls that declare 4 MiB, send a part of it, and stop. What is refused meanwhile is no matter."""
    piece = b"x" * 16000
    for _ in range(connections):
        line = stack.enter_context(Line(port))
        with suppress(ConnectionError, TimeoutError):
            for stream in range(1, 2 * calls, 2):
                prefix = b"\0" + struct.pack(">I", 4 * MIB)
                line.send(line.head(stream), frame(DATA, stream, prefix), *[frame(DATA, stream, piece)] * 8)


def test_senders_that_stop_halfway_make_room_for_others() -> None:
    """128 KiB each of 800 calls are 100 MiB, where 16 may be under way."""
    with receiver(message_timeout_ns=60_000_000_000) as attacked, ExitStack() as stack:
        with WellBehaved(attacked.grpc) as other:
            stall(attacked.grpc, 100, 8, stack)
        assert attacked.statistics()["bytes_under_way"] <= 16 * MIB
        assert attacked.grown_mib() < 60
        large = request("large", padding=3 * MIB)
        with sender(attacked.grpc) as export:
            wait_until(lambda: _sent(export, large), "room for a large request")
        assert attacked.statistics()["stalled_messages"] > 0
    other.check()


def _sent(export: grpc.UnaryUnaryMultiCallable, body: bytes) -> bool:
    try:
        export(body, timeout=10)
    except grpc.RpcError as error:
        if error.code() is not grpc.StatusCode.UNAVAILABLE:
            raise
        return False
    return True


@pytest.fixture
def descriptors() -> None:
    """Room for thousands of connections in this process."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 8192
    if hard != resource.RLIM_INFINITY and hard < wanted:
        pytest.skip(f"this process may have {hard} descriptors, {wanted} are needed")
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


@pytest.mark.usefixtures("descriptors")
def test_two_thousand_connections_that_say_nothing_hold_up_nobody() -> None:
    with receiver() as attacked, ExitStack() as stack:
        for port in [attacked.grpc, attacked.http] * 500:
            stack.enter_context(socket.create_connection(("127.0.0.1", port), 10))
        for _ in range(1000):
            line = stack.enter_context(Line(attacked.grpc))
            line.send(line.head(1))  # and no message
        with WellBehaved(attacked.grpc) as other:
            wait_until(lambda: attacked.statistics()["connections"] >= 2000, "all to be there")
        assert post(attacked.http, request("a")) == 200
        assert attacked.grown_mib() < 100
    other.check()


@pytest.mark.usefixtures("descriptors")
def test_two_thousand_connections_that_send_at_once_stay_within_the_memory() -> None:
    with receiver() as attacked, ExitStack() as stack:
        lines = [stack.enter_context(Line(attacked.grpc)) for _ in range(2000)]
        message = b"\0" + struct.pack(">I", MIB) + bytes(60_000)
        with WellBehaved(attacked.grpc) as other:
            for line in lines:
                pieces = (frame(DATA, 1, message[at : at + 16000]) for at in range(0, len(message), 16000))
                with suppress(ConnectionError):
                    line.send(line.head(1), *pieces)
        wait_until(lambda: attacked.statistics()["grpc_requests"] >= 2000, "all to have been heard")
        assert attacked.statistics()["bytes_under_way"] <= 16 * MIB
        assert attacked.grown_mib() < 200
    other.check()


def goaway_of(line: Line) -> int | None:
    """The code of the last GOAWAY before the end; None: there was none."""
    codes = [struct.unpack(">I", payload[4:8])[0] for kind, _, payload in line.frames_until_closed() if kind == GOAWAY]
    return codes[-1] if codes else None


def test_whoever_resets_calls_as_fast_as_they_are_made_is_sent_away() -> None:
    with receiver() as attacked, WellBehaved(attacked.grpc) as other, Line(attacked.grpc) as line:
        reset = struct.pack(">I", 8)
        with suppress(ConnectionError):
            for stream in range(1, 200_000, 2):
                line.send(line.head(stream), frame(RST_STREAM, stream, reset))
        assert goaway_of(line) in {ENHANCE_YOUR_CALM, None}  # None: the line was cut before it could be read
        assert attacked.grown_mib() < 20
    other.check()


@pytest.mark.parametrize("size", [20_000, 60_000])
def test_heads_beyond_the_limit_are_refused_one_by_one(size: int) -> None:
    with receiver() as attacked, Line(attacked.grpc) as line:
        encoder_input = (*EXPORT, ("x-large", "ab" * (size // 2)))
        block = line.head(1, encoder_input)[9:]
        pieces = [block[at : at + 16000] for at in range(0, len(block), 16000)]
        frames = [frame(HEADERS if at == 0 else CONTINUATION, 1, piece) for at, piece in enumerate(pieces[:-1])]
        line.send(*frames, frame(CONTINUATION, 1, pieces[-1], END_HEADERS))
        line.send(frame(PING, 0, b"12345678"))
        kinds = []
        while (found := line.read()) is not None and found[0] != PING:
            kinds.append(found[0])
        assert found is not None or GOAWAY in kinds
        with sender(attacked.grpc) as export:
            export(request("a"), timeout=10)
        assert attacked.statistics()["grpc_requests"] == 2  # that, and the one before


@pytest.mark.parametrize("piece", [b"", b"\0" * 16000])
def test_a_head_that_never_ends_ends_its_connection(piece: bytes) -> None:
    """CVE-2024-27316 and its like; with empty frames, too."""
    with receiver() as attacked, WellBehaved(attacked.grpc) as other, Line(attacked.grpc) as line:
        line.send(line.head(1, flags=0))
        with suppress(ConnectionError):
            for _ in range(20_000):
                line.send(frame(CONTINUATION, 1, piece))
        line.frames_until_closed()
        assert attacked.grown_mib() < 20
    other.check()


@pytest.mark.parametrize(
    "flood",
    [frame(PING, 0, b"12345678"), frame(SETTINGS), frame(DATA, 1), frame(SETTINGS, 0, struct.pack(">HI", 4, 1))],
)
def test_frames_that_want_an_answer_each_do_not_pile_up(flood: bytes) -> None:
    """And nobody reads the answers."""
    with receiver() as attacked, WellBehaved(attacked.grpc) as other, Line(attacked.grpc, timeout_s=3) as line:
        line.send(line.head(1))
        with suppress(ConnectionError, TimeoutError):
            for _ in range(400):
                line.send(*[flood] * 1000)
        assert attacked.grown_mib() < 20
    other.check()


def test_bytes_that_are_no_http_end_their_connection() -> None:
    with receiver() as attacked:
        for port in (attacked.grpc, attacked.http):
            with socket.create_connection(("127.0.0.1", port), 10) as line:
                line.sendall(b"\0\1\2 garbage\r\n\r\n" * 10)
                with suppress(ConnectionError):
                    while line.recv(4096):
                        pass
        wait_until(lambda: attacked.statistics()["connections_failed"] == 2, "both to be over")


def test_a_head_of_http1_may_not_be_longer_than_the_limit() -> None:
    with receiver() as attacked, socket.create_connection(("127.0.0.1", attacked.http), 10) as line:
        line.sendall(b"POST /v1/traces HTTP/1.1\r\nhost: x\r\nx-large: " + b"y" * 100_000)
        assert line.recv(4096).startswith(b"HTTP/1.1 431")


def test_a_body_of_http1_that_drips_ends_its_request() -> None:
    with receiver(message_timeout_ns=300_000_000) as attacked:
        line = socket.create_connection(("127.0.0.1", attacked.http), 10)
        with line:
            head = b"POST /v1/traces HTTP/1.1\r\nhost: x\r\ncontent-type: application/x-protobuf\r\n"
            line.sendall(head + b"content-length: 1000\r\n\r\nx")
            assert line.recv(4096).startswith(b"HTTP/1.1 503")
        statistics = attacked.statistics()
        assert (statistics["slow_messages"], statistics["abandoned"]) == (1, 1)


def test_connections_beyond_the_limit_are_closed_and_those_before_stay() -> None:
    queue = new_queue()
    endpoint, port = opened("grpc", max_connections=3)
    with serving(endpoint, queue=queue) as server, ExitStack() as stack:
        first: list[Any] = [stack.enter_context(sender(port)) for _ in range(3)]
        for export in first:
            export(request("a"))
        with socket.create_connection(("127.0.0.1", port), 10) as surplus:
            assert surplus.recv(1) == b""
        for export in first:
            export(request("b"))
        assert server.statistics()["connections_refused"] == 1
        assert server.statistics()["connections"] == 3
