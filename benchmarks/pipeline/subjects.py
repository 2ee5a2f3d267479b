"""What is measured, each started as a program on its own cores.

bare              grpcio, bytes in and the same bytes out: grpcio_forwarder.py
collector         a real OpenTelemetry Collector, OTLP in and OTLP out
attributes        the same, with its attributes processor inserting three attributes on every span
native            the pipeline with nobody watching
native-evidence   with an evidence log in which every span has its end, and one in twenty a wait
native-stamp      with `stamp: all` and an evidence log in which every span has its end: each gets three attributes
grpcio…           the same three with grpcio as the transport
"""

import json
import os
import socket
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

from enricher._native import LogWriter
from enricher.board import Board
from enricher.config.load import load
from enricher.workers import SLOTS
from tests.e2e.testbed.processes import Program, free_port
from tests.e2e.testbed.workload import Collector, Compression

# At most a million spans a second are sent, each with a record: a quarter of a second.
DEEP_LOG_RECORDS = 1 << 18

Transport = Literal["native", "grpcio"]
Work = Literal["plain", "evidence", "stamp"]

# What `stamp: all` writes on a span with no evidence that was matched.
STAMPS: dict[str, bool | str] = {"ebpf.observed": True, "ebpf.match.method": "span_end", "ebpf.complete": True}

# One span in so many waited.
ONE_IN_TWENTY = 20
NONE_OF_THEM = 0


@dataclass(frozen=True, slots=True)
class Cores:
    """Which cores belong to whom; the first of the subject's is enough for most."""

    subject: Sequence[int]
    load: Sequence[int]

    @classmethod
    def halves(cls) -> Self:
        """Of those that this process may use."""
        cores = sorted(os.sched_getaffinity(0))
        half = max(1, len(cores) // 2)
        return cls(cores[:half], cores[half:] or cores)

    @property
    def one(self) -> list[int]:
        return list(self.subject[:1])


@dataclass(frozen=True, slots=True)
class Bench:
    """Where a measurement runs."""

    directory: Path
    cores: Cores


@dataclass(frozen=True, slots=True)
class Room:
    """What the pipeline may hold at most."""

    queue_mib: int
    limit_mib: int


# A million spans a second, held for a tail of 300 ms: by default they would be refused, and sent again a second later.
ROOM_FLAT_OUT = Room(queue_mib=512, limit_mib=2048)
# The queue's own default, and half the default limit.
ROOM = Room(queue_mib=128, limit_mib=256)


@dataclass(frozen=True, slots=True)
class Enricher:
    """One of the pipeline's kinds."""

    transport: Transport
    work: Work


@dataclass(frozen=True, slots=True)
class Evidence:
    """Where the generator puts what the kernel would have seen of its spans."""

    pipe: Path
    every: int  # one span in so many has waited; 0: none


@dataclass(frozen=True, slots=True)
class Subject:
    """Something that takes spans on a port and sends them on."""

    port: int
    program: Program | None  # None: the receiver itself
    evidence: Evidence | None = None

    @property
    def pid(self) -> int:
        assert self.program is not None
        return self.program.pid


ENRICHERS = {
    transport if work == "plain" else f"{transport}-{work}": Enricher(transport, work)
    for transport in ("native", "grpcio")
    for work in ("plain", "evidence", "stamp")
}
SUBJECTS = ("bare", "collector", "attributes", *ENRICHERS)


@contextmanager
def subject(bench: Bench, name: str, to_port: int, compression: Compression = "none") -> Iterator[Subject]:
    """The subject of that name, listening. `compression` is of what it sends; it takes what comes."""
    port = free_port()
    if name == "bare":
        assert compression == "none", "the bare forwarder compresses nothing"
        command = [sys.executable, "-m", "benchmarks.pipeline.grpcio_forwarder", str(port), str(to_port)]
        with Program(name, command, bench.directory / f"{name}.log", cores=bench.cores.one) as program:
            program.wait_listening(port)
            yield Subject(port, program)
    elif name in ENRICHERS:
        with pipeline(bench, ENRICHERS[name], port, to_port, compression=compression) as found:
            yield found
    else:
        inserted = STAMPS if name == "attributes" else None
        with Collector(
            bench.directory, to_port, port, compression=compression, inserted=inserted, cores=bench.cores.one
        ) as collector:
            yield Subject(port, collector)


@contextmanager
def pipeline(
    bench: Bench,
    kind: Enricher,
    port: int,
    to_port: int,
    *,
    compression: Compression = "none",
    room: Room = ROOM_FLAT_OUT,
    log_records: int = DEEP_LOG_RECORDS,
) -> Iterator[Subject]:
    """The unprivileged half alone, with a log that nobody or the stand-in of the observer writes to."""
    config = bench.directory / "pipeline.yaml"
    config.write_text(json.dumps(settings(kind, port, to_port, compression, room)))  # which is YAML, too
    with ExitStack() as stack:
        writable = os.memfd_create("evidence", os.MFD_CLOEXEC)
        stack.callback(os.close, writable)
        LogWriter(writable, log_records)
        readable = os.open(f"/proc/self/fd/{writable}", os.O_RDONLY | os.O_CLOEXEC)
        stack.callback(os.close, readable)
        _, board_fd = Board.make(SLOTS)
        stack.callback(os.close, board_fd)
        fds = [readable, board_fd]
        command = [sys.executable, "-m", "enricher.pipeline", "--log-fd", str(readable), "--board-fd", str(board_fd)]
        if kind.transport == "native":
            listener = stack.enter_context(socket.create_server(("127.0.0.1", port), backlog=1024))
            command += ["--listen", f"grpc={listener.fileno()}"]
            fds.append(listener.fileno())
        program = stack.enter_context(
            Program(
                "pipeline",
                command,
                bench.directory / "pipeline.log",
                # As the supervisor starts it.
                environment=os.environ | {"MALLOC_ARENA_MAX": "4"},
                cores=bench.cores.one,
                pass_fds=fds,
            )
        )
        program.feed(load(config, {}).to_json())
        program.wait_said("spans are taken")  # its socket listens from the beginning
        evidence = stack.enter_context(_evidence(bench, kind.work, writable)) if kind.work != "plain" else None
        yield Subject(port, program, evidence)


@contextmanager
def _evidence(bench: Bench, work: Work, log_fd: int) -> Iterator[Evidence]:
    pipe = bench.directory / "records"
    pipe.unlink(missing_ok=True)
    os.mkfifo(pipe)
    command = [sys.executable, "-m", "benchmarks.pipeline.evidence_writer", str(log_fd), str(pipe)]
    with Program(
        "writer", command, bench.directory / "writer.log", cores=bench.cores.load, pass_fds=[log_fd]
    ) as writer:
        writer.answer()
        yield Evidence(pipe, ONE_IN_TWENTY if work == "evidence" else NONE_OF_THEM)


@contextmanager
def service(bench: Bench, workers: int, to_port: int) -> Iterator[Subject]:
    """`enricher run` with so many pipeline processes, each with a core, stamping spans of which nobody saw anything."""
    port = free_port()
    config = bench.directory / "service.yaml"
    wanted = settings(Enricher("native", "stamp"), port, to_port)
    wanted["service"]["workers"] = workers
    wanted["processors"]["ebpf"]["select"] = {"exclude": ["*"]}  # not the generator, nor the receiver
    config.write_text(json.dumps(wanted))
    command = [sys.executable, "-m", "enricher.cli.main", "run", "--config", str(config)]
    cores = bench.cores.subject[:workers]
    with Program("enricher", command, bench.directory / "service.log", cores=cores) as program:
        program.wait_listening(port)
        yield Subject(port, program)


def settings(
    kind: Enricher, port: int, to_port: int, compression: Compression = "none", room: Room = ROOM_FLAT_OUT
) -> dict[str, Any]:
    """A configuration of the product, as of its file."""
    return {
        "receivers": {"otlp": {"protocols": {"grpc": {"endpoint": f"127.0.0.1:{port}"}}}},
        "processors": {"ebpf": {"stamp": "all" if kind.work == "stamp" else "evidence"}},
        "exporters": {
            "otlp_grpc": {
                "endpoint": f"127.0.0.1:{to_port}",
                "compression": compression,
                "sending_queue": {"queue_size": 100_000, "queue_size_mib": room.queue_mib},
                "retry_on_failure": {"initial_interval": "100ms", "max_interval": "1s", "max_elapsed_time": "0"},
            }
        },
        "service": {
            "transport": kind.transport,
            "memory": {"limit_mib": room.limit_mib},
            "pipelines": {"traces": {"receivers": ["otlp"], "processors": ["ebpf"], "exporters": ["otlp_grpc"]}},
            "telemetry": {"metrics": {"address": f"127.0.0.1:{free_port()}"}},
        },
    }
