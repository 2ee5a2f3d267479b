"""`traceparent` as OpenTelemetry's own instrumentation sends it, seen in a real Go program with its real libraries."""

import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from enricher._native import EvidenceIndex, LogWriter
from enricher.config.model import Probes, Select
from enricher.evidence.records import Event, EventFlag, EventKind, ProbeCounter, ProbeProgram
from enricher.observer.header_ring import HeaderRing
from enricher.observer.headers import HeaderBlocks
from enricher.observer.probe_set import Probe

from .conftest import Kernel, wait_until
from .test_observer import Running, settings
from .test_waits import layout_of

LoadProbes = Callable[..., Kernel]
WRITTEN = EventFlag.TRACEPARENT_WRITTEN
MULTIPLEXED = EventFlag.CALL_MULTIPLEXED


@dataclass(frozen=True)
class Done:
    """What the program says of a request: the header and the goroutine as of its handler."""

    traceparent: str
    goid: int
    server_fd: int
    client_fd: int


class Propagator:
    """The running program."""

    def __init__(self, program: Path) -> None:
        self._process = subprocess.Popen([program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.pid = self._process.pid

    def send(self, protocol: str, count: int) -> list[Done]:
        """Requests; they are over."""
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(f"{protocol} {count}\n")
        self._process.stdin.flush()
        return [Done(**json.loads(self._process.stdout.readline())) for _ in range(count)]

    def close(self) -> None:
        self._process.communicate()


class Watched(Propagator):
    """The running program, under the probe."""

    def __init__(self, program: Path, kernel: Kernel) -> None:
        super().__init__(program)
        self.kernel = kernel
        self.events: list[Event] = []
        blocks = kernel.probes.header_blocks
        assert blocks is not None
        self._header_blocks = HeaderBlocks(HeaderRing(blocks.fd, blocks.max_entries))
        flags = EventFlag.PROCESS_HAS_GOROUTINES | EventFlag.PROCESS_WANTS_HEADERS
        kernel.probes.watch(self.pid, layout_of(program, flags))

    def told(self) -> list[Event]:
        """All so far."""
        decoded, caught_up = self._header_blocks.drain()
        assert caught_up
        traceparents = [event for event in self.kernel.drain() if event.kind is EventKind.TRACEPARENT]
        self.kernel.events.clear()
        self.events += [*traceparents, *decoded]
        return self.events


@pytest.fixture(scope="session")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    built = tmp_path_factory.mktemp("propagator") / "propagator"
    source = Path(__file__).parent / "programs" / "propagator"
    subprocess.run([os.environ.get("GO", "go"), "build", "-o", built, "."], cwd=source, check=True)
    return built


@pytest.fixture
def watched(program: Path, load_probes: LoadProbes) -> Iterator[Watched]:
    running = Watched(program, load_probes(Probe.HEADERS))
    yield running
    running.close()


def header(event: Event) -> str:
    return f"00-{event.span.trace_id.hex()}-{event.span.span_id.hex()}-01"


@pytest.mark.parametrize("protocol", ["http1", "h2c", "grpc"])
def test_every_request_is_told_once_by_either_end(watched: Watched, protocol: str) -> None:
    before_ns = time.monotonic_ns()
    done = [request for _ in range(5) for request in watched.send(protocol, 80)]
    events = wait_until(lambda: found if len(found := watched.told()) >= 800 else [], "all requests")
    after_ns = time.monotonic_ns()
    written = {header(event): event for event in events if event.flags & WRITTEN}
    read = {header(event): event for event in events if not event.flags & WRITTEN}
    assert len(events) == 800
    assert written.keys() == read.keys() == {request.traceparent for request in done}
    for request in done:
        sent, received = written[request.traceparent], read[request.traceparent]
        assert (sent.fd, received.fd) == (request.client_fd, request.server_fd)
        # A call is over for the other end before it is for the caller, so neither has to be first.
        assert all(before_ns < event.start_ns < after_ns for event in (sent, received))
        assert sent.goid
        assert received.goid
        assert bool(sent.flags & received.flags & MULTIPLEXED) == (protocol != "http1")
        # In HTTP/1 whoever reads the request handles it, in HTTP/2 never.
        assert (received.goid == request.goid) == (protocol == "http1")
    readings = watched.kernel.probes.counters.readings()
    assert not [
        counter.name
        for counter in ProbeCounter
        if counter is not ProbeCounter.EVENTS and readings[ProbeProgram.HEADERS, counter]
    ]
    assert watched.kernel.probes.failures() == ()


def test_nothing_is_seen_under_tls(watched: Watched) -> None:
    watched.send("https", 160)
    (request, *_) = watched.send("http1", 8)
    assert watched.told()
    events = wait_until(lambda: found if len(found := watched.told()) >= 16 else [], "all plain requests")
    assert len(events) == 16
    assert request.traceparent in map(header, events)
    assert watched.kernel.probes.failures() == ()


@pytest.fixture
def log_fd() -> Iterator[int]:
    fd = os.memfd_create("evidence", os.MFD_CLOEXEC)
    LogWriter(fd, 1 << 14)
    yield fd
    os.close(fd)


@pytest.mark.parametrize("protocol", ["http1", "h2c", "grpc"])
def test_the_observer_writes_them_into_the_log_before_their_time_is_promised(
    program: Path, log_fd: int, protocol: str
) -> None:
    index = EvidenceIndex(log_fd, 60_000_000_000, 1000, 1000)
    configured = settings(probes=Probes(go_sdk="off"), select=Select(executables=(str(program),)))
    observer, propagator = Running(log_fd, configured), Propagator(program)

    def flags() -> int:
        index.poll()
        found = index.process(propagator.pid)
        return found[1] if found else 0

    try:
        assert wait_until(flags, "its being watched") & EventFlag.PROCESS_WANTS_HEADERS
        done = propagator.send(protocol, 80)
        after_ns = time.monotonic_ns()
        wait_until(lambda: index.poll() >= 0 and index.watermark_ns > after_ns, "a later watermark")
        for request in done:
            _, trace_id, span_id, _ = request.traceparent.split("-")
            read = index.traceparent_read(bytes.fromhex(trace_id), bytes.fromhex(span_id))
            written = index.traceparent_written(bytes.fromhex(trace_id), bytes.fromhex(span_id))
            assert read is not None
            assert written is not None
            assert (read.tgid, read.fd, written.tgid, written.fd) == (
                propagator.pid,
                request.server_fd,
                propagator.pid,
                request.client_fd,
            )
            assert (read.goid == request.goid) == (protocol == "http1")
    finally:
        propagator.close()
        status, logged = observer.end()
    assert status == 0
    assert "Traceback" not in logged
