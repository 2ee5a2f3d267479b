"""Real Go programs with the real SDK: found, watched, and every end of a span seen."""

import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from enricher.config.model import Select
from enricher.evidence.records import Event, EventFlag, EventKind, ProbeCounter, ProcessLayout
from enricher.observer.discovery import Discovery
from enricher.observer.inspection import Inspector
from enricher.observer.uprobes import ProbePlace
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
        self.ours: set[int] = set()  # other Go programs may run on this machine
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
        self.ours |= {process.pid for process in processes}

        def all_are() -> bool:
            self.step()
            return self.discovery.watched.keys() >= {process.pid for process in processes}

        wait_until(all_are, "the watching of each process")

    def until_watched_since(self, pid: int, image: int) -> None:
        """Until that many images of the process have come to be watched."""

        def is_watched() -> bool:
            self.step()
            told = [record.kind for record in self.records if record.tgid == pid]
            return told.count(EventKind.PROCESS) == image

        wait_until(is_watched, f"the watching of image {image}")

    def span_ends(self, count: int) -> list[Event]:
        return self.kernel.wait_for(
            lambda event: event.kind is EventKind.SPAN_END and event.tgid in self.ours, "span end", count
        )

    def places(self) -> set[ProbePlace]:
        """Where our binary is probed."""
        inodes = {self.discovery.watched[pid].identity.inode for pid in self.ours & self.discovery.watched.keys()}
        return {place for place in self.kernel.probes.uprobes.places if place[1] in inodes}


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
    has = (
        EventFlag.PROCESS_HAS_GOROUTINES
        | EventFlag.PROCESS_HAS_SPAN_ENDS
        | EventFlag.PROCESS_HAS_SPAN_STARTS
        | EventFlag.PROCESS_HAS_LINEAGE
    )
    assert record.flags & has == has
    assert record.start_ns <= before_ns


def test_a_program_that_starts_later_is_watched_too(watching: Watching, start: Callable[[], Ender]) -> None:
    process = start()
    watching.until_watched(process)
    ended = process.end_spans(50)
    assert ids(watching.span_ends(50)) == ended


def test_one_probe_serves_all_processes_of_a_binary(watching: Watching, start: Callable[[], Ender]) -> None:
    processes = [start()]
    watching.until_watched(*processes)
    places = watching.places()
    assert places
    processes += [start(), start()]
    watching.until_watched(*processes)
    assert watching.places() == places
    ended = {(process.pid, *span) for process in processes for span in process.end_spans(20)}
    events = watching.span_ends(60)
    assert {(event.tgid, event.span.trace_id.hex(), event.span.span_id.hex()) for event in events} == ended
    assert len(events) == 60


def test_when_the_last_process_is_gone_so_is_everything_about_it(
    watching: Watching, start: Callable[[], Ender], ender: Path
) -> None:
    first, second = start(), start()
    watching.until_watched(first, second)
    first.stop()
    wait_until(lambda: watching.step() or first.pid not in watching.discovery.watched, "the first one's end")
    second.end_spans(5)
    assert {event.tgid for event in watching.span_ends(5)} == {second.pid}
    places = watching.places()
    assert places
    second.stop()
    wait_until(lambda: watching.step() or second.pid not in watching.discovery.watched, "the second one's end")
    assert not places & watching.kernel.probes.uprobes.places
    assert watching.kernel.probes._maps["processes"].lookup(first.pid.to_bytes(4, "little")) is None
    assert [record.kind for record in watching.records if record.tgid in watching.ours] == [EventKind.PROCESS] * 2


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
    assert process.pid in watching.discovery.watched
    lost = {
        (program.name, counter.name): count
        for (program, counter), count in watching.kernel.probes.counters.readings().items()
        if count and counter in {ProbeCounter.RING_FULL, ProbeCounter.MAP_FULL}
    }
    assert not lost, watching.kernel.probes.failures()
    assert longest_s < 1.0


def test_hooks_that_cost_everybody_are_attached_only_while_somebody_is_watched(watching: Watching) -> None:
    probes = watching.kernel.probes
    assert not probes._while_watching
    probes.watch(1_000_000_000, ProcessLayout())
    assert probes._while_watching
    probes.unwatch(1_000_000_000)
    probes.rest()
    assert not probes._while_watching
    probes.watch(1_000_000_000, ProcessLayout())
    assert probes._while_watching


def test_a_process_that_runs_its_image_anew_goes_on_being_watched(
    watching: Watching, compile_c: Callable[[str], Path]
) -> None:
    program = compile_c(
        """
        #include <stdio.h>
        #include <time.h>
        #include <unistd.h>
        int main(int argc, char **argv) {
            struct timespec doze = { .tv_nsec = 5000000 };
            char line[8];
            int ends[2];
            for (;;) {
                puts("ready");
                fflush(stdout);
                if (read(0, line, 1) != 1) return 0;
                if (*line == 'x') execl(argv[0], argv[0], NULL);
                /* blocked in a read for 5 ms */
                if (pipe(ends)) return 1;
                if (!fork()) { nanosleep(&doze, NULL); return write(ends[1], "x", 1) != 1; }
                if (read(ends[0], line, 1) != 1) return 1;
            }
        }
        """
    )
    watching.discovery._select = Select(executables=(str(program),))
    with subprocess.Popen([str(program)], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin
        assert process.stdout
        for image in range(1, 6):
            assert process.stdout.readline() == b"ready\n"
            watching.until_watched_since(process.pid, image)
            process.stdin.write(b"w")
            process.stdin.flush()
            assert process.stdout.readline() == b"ready\n"
            watching.kernel.wait_for(
                lambda event: event.kind is EventKind.WAIT and event.tgid == process.pid, "wait", count=image
            )
            process.stdin.write(b"x")
            process.stdin.flush()
        process.stdin.close()
