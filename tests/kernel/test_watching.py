"""Real Go programs with the real SDK: found, watched, and every end of a span seen."""

import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from enricher.config.model import Select
from enricher.evidence.records import Event, EventFlag, EventKind
from enricher.observer.discovery import Discovery
from enricher.observer.inspection import Inspector
from enricher.telemetry.logs import get_logger

from .conftest import DEADLINE_S, Kernel, wait_until

PROGRAM = Path(__file__).parent / "programs" / "ender"


@pytest.fixture(scope="session")
def ender(tmp_path_factory: pytest.TempPathFactory) -> Path:
    go = shutil.which("go") or os.environ.get("GO")
    assert go, "the kernel tests build a Go program: make test provides for Go"
    built = tmp_path_factory.mktemp("ender") / "ender"
    subprocess.run([go, "build", "-o", str(built), "."], cwd=PROGRAM, check=True)
    return built


class Ender:
    """The running program."""

    def __init__(self, path: Path) -> None:
        self._process = subprocess.Popen([str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.pid = self._process.pid

    def end_spans(self, count: int) -> set[tuple[str, str]]:
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(f"{count}\n")
        self._process.stdin.flush()
        lines = [self._process.stdout.readline().split() for _ in range(count)]
        return {(trace, span) for trace, span in lines}

    def stop(self) -> None:
        self._process.communicate()


@pytest.fixture
def start(ender: Path) -> Iterator[Callable[[], Ender]]:
    running: list[Ender] = []

    def one() -> Ender:
        running.append(Ender(ender))
        return running[-1]

    yield one
    for process in running:
        process.stop()


class Watching:
    """A discovery that is fed by the probes, as the observer does it."""

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        self.discovery = Discovery(kernel.probes, Inspector(), Select(), get_logger(), time.monotonic_ns)
        self.records: list[Event] = []
        self._handled = 0

    def step(self) -> None:
        events = self.kernel.drain()
        for event in events[self._handled :]:
            if event.kind is EventKind.PROCESS_EXEC:
                self.discovery.process_began(event.tgid, event.end_ns)
            elif event.kind is EventKind.PROCESS_EXIT:
                self.discovery.process_ended(event.tgid)
        self._handled = len(events)
        self.records += self.discovery.step(5_000_000)

    def until_watched(self, *processes: Ender) -> None:
        def all_are() -> bool:
            self.step()
            return self.discovery.watched.keys() >= {process.pid for process in processes}

        wait_until(all_are, "the watching of each process")

    def span_ends(self, count: int) -> list[Event]:
        return self.kernel.wait_for(lambda event: event.kind is EventKind.SPAN_END, "span end", count)


@pytest.fixture
def watching(load_probes: Callable[..., Kernel]) -> Iterator[Watching]:
    made = Watching(load_probes())
    yield made
    made.discovery.close()


def ids(events: list[Event]) -> set[tuple[str, str]]:
    return {(event.span.trace_id.hex(), event.span.span_id.hex()) for event in events}


def test_a_program_that_runs_already_is_watched_with_no_restart(watching: Watching, start: Callable[[], Ender]) -> None:
    process = start()
    ended_before = process.end_spans(10)
    watching.discovery.rescan()
    watching.until_watched(process)
    before_ns = time.monotonic_ns()
    ended = process.end_spans(200)
    events = watching.span_ends(200)
    assert ids(events) == ended
    assert not ids(events) & ended_before
    assert {event.tgid for event in events} == {process.pid}
    assert len({event.goid for event in events}) == 200
    assert all(before_ns <= event.end_ns <= time.monotonic_ns() for event in events)
    (record,) = [record for record in watching.records if record.tgid == process.pid]
    assert record.kind is EventKind.PROCESS
    assert record.flags == EventFlag.PROCESS_HAS_GOROUTINES | EventFlag.PROCESS_HAS_SPAN_ENDS
    assert record.start_ns <= before_ns


def test_a_program_that_starts_later_is_watched_too(watching: Watching, start: Callable[[], Ender]) -> None:
    process = start()
    watching.until_watched(process)
    ended = process.end_spans(50)
    assert ids(watching.span_ends(50)) == ended


def test_one_probe_serves_all_processes_of_a_binary(watching: Watching, start: Callable[[], Ender]) -> None:
    processes = [start() for _ in range(3)]
    watching.until_watched(*processes)
    assert len(watching.kernel.probes._span_ends) == 1
    ended = {(process.pid, *span) for process in processes for span in process.end_spans(20)}
    events = watching.span_ends(60)
    assert {(event.tgid, event.span.trace_id.hex(), event.span.span_id.hex()) for event in events} == ended
    assert len(events) == 60


def test_when_the_last_process_is_gone_so_is_everything_about_it(
    watching: Watching, start: Callable[[], Ender]
) -> None:
    first, second = start(), start()
    watching.until_watched(first, second)
    first.stop()
    wait_until(lambda: watching.step() or first.pid not in watching.discovery.watched, "the first one's end")
    second.end_spans(5)
    assert {event.tgid for event in watching.span_ends(5)} == {second.pid}
    second.stop()
    wait_until(lambda: watching.step() or not watching.discovery.watched, "the second one's end")
    assert not watching.kernel.probes._span_ends
    assert watching.kernel.probes._maps["processes"].lookup(first.pid.to_bytes(4, "little")) is None
    assert [record.kind for record in watching.records] == [EventKind.PROCESS] * 2


def test_a_storm_of_short_programs_delays_nothing_but_discovery(watching: Watching, start: Callable[[], Ender]) -> None:
    process = start()
    watching.until_watched(process)
    storm = subprocess.Popen(["/bin/sh", "-c", "i=0; while [ $i -lt 1500 ]; do /bin/true; i=$((i+1)); done"])
    longest_s, ended = 0.0, set()
    end_s = time.monotonic() + 2 * DEADLINE_S
    while storm.poll() is None:
        began_s = time.monotonic()
        watching.step()
        longest_s = max(longest_s, time.monotonic() - began_s)
        ended |= process.end_spans(2)
        assert time.monotonic() < end_s
    assert ids(watching.span_ends(len(ended))) == ended
    assert watching.discovery.watched.keys() == {process.pid}
    assert watching.kernel.probes.counters.losses() == 0
    assert longest_s < 1.0
