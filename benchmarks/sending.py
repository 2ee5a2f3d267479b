"""What it costs to send a request: the native client beside grpcio's, and beside a bare socket.

`python -m benchmarks.sending [--quick] [--rounds N] [--json FILE]`: CPU time of this process, all its threads, in µs a
request, to a receiver in Go on other cores that throws them away. A *bare socket* only writes as many bytes: what it
costs is the kernel's. All that is compared is measured in turns, round by round.
"""

import argparse
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.kit import Column, progress, table, write_json
from benchmarks.wire import body
from enricher.config.model import OtlpGrpcExporter
from enricher.otlp.sending.grpc import grpc_sender
from enricher.otlp.sending.grpcio import GrpcioSender
from enricher.otlp.transport import Sender, Taken
from tests.e2e.testbed.build import programs
from tests.e2e.testbed.processes import Program

TIMEOUT_NS = 10_000_000_000
DRAIN = "import socket\nc = socket.socket(fileno=0).accept()[0]\nb = bytearray(1 << 20)\nwhile c.recv_into(b): pass"


@dataclass(frozen=True, slots=True)
class Piece:
    body: bytes


def shapes() -> dict[str, list[Piece]]:
    """What is sent as one request, by what the table calls it. All but the first are as large."""
    small = Piece(body(list(range(8))))
    return {
        "8 spans": [small],
        "64 of 8 spans": [small] * 64,
        "8 of 64 spans": [Piece(body(list(range(64))))] * 8,
        "512 spans": [Piece(body(list(range(512))))],
    }


@contextmanager
def sink(cores: list[int]) -> Iterator[int]:
    """The port of a receiver that throws everything away."""
    with tempfile.TemporaryDirectory() as folder:
        program = Program("sink", [str(programs() / "sink")], Path(folder) / "log", cores=cores)
        with program:
            yield int(program.answer()["port"])


@contextmanager
def bare_socket(cores: list[int]) -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        command = ["taskset", "-c", ",".join(map(str, cores)), sys.executable, "-c", DRAIN]
        drain = subprocess.Popen(command, stdin=listener.fileno())
        with socket.create_connection(listener.getsockname()) as connection:
            yield connection
        drain.wait()


def cpu_us(send: Callable[[], object], seconds: float) -> float:
    """CPU time of each call, over so long."""
    send()
    count, began, until = 0, time.process_time(), time.monotonic() + seconds
    while time.monotonic() < until:
        send()
        count += 1
    return (time.process_time() - began) / count * 1e6


def sending(sender: Sender, pieces: list[Piece]) -> Callable[[], object]:
    def send() -> None:
        answer = sender.send(pieces, TIMEOUT_NS)
        assert isinstance(answer, Taken), answer

    return send


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one short round: does it run at all")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    own, *others = sorted(os.sched_getaffinity(0))
    with ExitStack() as open_things:
        port = open_things.enter_context(sink(others or [own]))
        connection = open_things.enter_context(bare_socket(others or [own]))
        os.sched_setaffinity(0, {own})
        senders: dict[str, Sender] = {}
        for name, compression in (("native", "none"), ("native, gzip", "gzip")):
            settings = OtlpGrpcExporter(endpoint=f"127.0.0.1:{port}", compression=compression)  # type: ignore[arg-type]
            senders[name] = grpc_sender(settings, settings.targets[0])
        for name, compression in (("grpcio", "none"), ("grpcio, gzip", "gzip")):
            settings = OtlpGrpcExporter(endpoint=f"127.0.0.1:{port}", compression=compression)  # type: ignore[arg-type]
            senders[name] = GrpcioSender(settings, settings.targets[0])
        made = shapes()
        rows: dict[str, list[dict[str, float]]] = {name: [] for name in ("bare socket", *senders)}
        for number in range(1 if arguments.quick else arguments.rounds):
            progress(f"round {number + 1}")
            found = {name: rows[name] for name in rows}
            for name in rows:
                found[name].append({})
            for shape, pieces in made.items():
                whole = b"".join(piece.body for piece in pieces)
                calls = {"bare socket": lambda whole=whole: connection.sendall(whole)} | {
                    name: sending(sender, pieces) for name, sender in senders.items()
                }
                for name, call in calls.items():
                    found[name][-1][shape] = cpu_us(call, 0.05 if arguments.quick else 1.0)
        for sender in senders.values():
            sender.close()
    sizes = {shape: sum(len(piece.body) for piece in pieces) for shape, pieces in made.items()}
    columns = [Column(f"{shape} ({size / 1024:.0f} KiB)", shape, "{:.0f}".format) for shape, size in sizes.items()]
    print(table("µs CPU a request", rows, columns))
    write_json(arguments.json, rows)


if __name__ == "__main__":
    main()
