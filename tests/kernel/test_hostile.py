"""Programs that do to the probes what they can: none crashes, stops or misleads them, or harms what others get."""

import os
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import pytest

from enricher._native import EvidenceIndex, LogWriter
from enricher.config.model import Ebpf, Processors, Select, Settings
from enricher.evidence.records import RECORD_SIZE, Event, EventKind, ProbeCounter
from enricher.observer.probe_set import Probe

from . import tracer
from .conftest import CompileC, Kernel, observing, wait_until
from .hostile import Obeying, build, watch

LoadProbes = Callable[..., Kernel]
PROBES = (Probe.SYSCALLS, Probe.GO_SDK, Probe.GO_RUNTIME, Probe.GO_NET)
MS = 1_000_000
SECOND = 1_000_000_000
LOG_RECORDS = 131_072
_TGID_AT = 32  # in a record
TICKS_PER_S = os.sysconf("SC_CLK_TCK")
PATIENCE_S = 60.0  # a crowd takes its time to come about


@pytest.fixture(scope="session")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build("hostile", tmp_path_factory.mktemp("hostile"))


@pytest.fixture(scope="session")
def neighbour_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tracer.build("go1.27.4", tmp_path_factory.mktemp("neighbour"))


@pytest.fixture
def run() -> Iterator[Callable[[Path], Obeying]]:
    running: list[Obeying] = []

    def one(path: Path) -> Obeying:
        running.append(Obeying(path))
        return running[-1]

    yield one
    for program in running:
        program.end()


@pytest.fixture
def watched(run: Callable[[Path], Obeying], path: Path, load_probes: LoadProbes) -> tuple[Kernel, Obeying]:
    kernel, program = load_probes(*PROBES), run(path)
    program.do("end")
    watch(kernel, program)
    return kernel, program


def test_junk_in_the_register_of_the_goroutine_is_nobodys_wait_and_stops_nothing(
    watched: tuple[Kernel, Obeying],
) -> None:
    kernel, program = watched
    done = program.do("registers", 200)
    print(f"the longest of {done.count} calls took {done.longest_ns} ns; {done.note or 'userfaultfd took part'}")
    assert done.longest_ns < 1_000 * MS
    # One piece of junk is as good as a goroutine, but for its ids, which cannot be read. That is a loss.
    lost = kernel.probes.slots.newly_lost()
    assert lost.keys() == {program.pid}
    failed = [
        count
        for (_, counter), count in kernel.probes.counters.readings().items()
        if counter in {ProbeCounter.READ_FAILED, ProbeCounter.OVER_BUDGET}
    ]
    assert 200 <= sum(lost.values()) <= sum(failed)
    assert program.do("open", 5).count == 5
    program.do("end")
    kernel.wait_for(lambda event: event.kind is EventKind.SPAN_END, "span end", 5)


def test_junk_in_the_place_of_spans_ends_no_span_of_anybody(watched: tuple[Kernel, Obeying]) -> None:
    kernel, program = watched
    program.do("open", 5)
    program.do("end")
    before = kernel.wait_for(lambda event: event.kind is EventKind.SPAN_END, "span end", 5)
    done = program.do("ends", 20)
    assert done.count > 20 * 20
    told = [event for event in kernel.drain()[len(before) :] if event.kind is EventKind.SPAN_END]
    assert {event.tgid for event in told} <= {program.pid}
    assert not {event.span.span_id for event in told} & {event.span.span_id for event in before}
    assert kernel.probes.slots.newly_lost().keys() <= {program.pid}
    assert program.do("open", 5).count == 5
    program.do("end")
    kernel.wait_for(lambda event: event.kind is EventKind.SPAN_END, "span end", len(before) + len(told) + 5)


def test_a_thread_of_c_has_no_goroutine_and_what_it_does_is_no_loss(
    load_probes: LoadProbes, run: Callable[[Path], Obeying], tmp_path: Path
) -> None:
    kernel, program = load_probes(*PROBES), run(build("cthread", tmp_path, cgo=True))
    program.ask("1")
    watch(kernel, program)
    began_s = time.monotonic()
    done = program.ask("20000")
    print(f"{20_000 / (time.monotonic() - began_s):.0f} calls a second beside {done['spans']} spans")
    ends = kernel.wait_for(lambda event: event.kind is EventKind.SPAN_END, "span end", done["spans"])
    assert len(ends) == done["spans"]
    assert not [event for event in kernel.events if event.tid == done["thread"]]
    assert kernel.probes.slots.newly_lost() == {}


@dataclass
class Observed:
    """An observer as the process it is, and what it writes."""

    index: EvidenceIndex
    process: subprocess.Popen[str]
    read: int = 0  # records
    chosen: list[Event] = field(default_factory=list)

    def poll(self, *tgids: int) -> None:
        """Keeps the events of those processes and of all together. Of others there may be too many to look at each."""
        self.index.poll()
        records = self.index.take_tapped()
        self.read += len(records) // RECORD_SIZE
        found = memoryview(records).cast("I")[_TGID_AT // 4 :: RECORD_SIZE // 4].tolist()
        starts = (at * RECORD_SIZE for at, tgid in enumerate(found) if tgid == 0 or tgid in tgids)
        self.chosen += (Event.unpack(records[start : start + RECORD_SIZE]) for start in starts)

    def until_watched(self, *programs: Obeying) -> None:
        def are_watched() -> bool:
            self.poll()
            return all(self.index.process(program.pid) for program in programs)

        wait_until(are_watched, "the watching", PATIENCE_S)

    def until_all_is_told(self, *tgids: int) -> int:
        """What has happened up to now; when that was."""
        now_ns = time.monotonic_ns()

        def is_told() -> bool:
            self.poll(*tgids)
            return self.index.watermark_ns > now_ns

        wait_until(is_told, "the watermark", PATIENCE_S)
        return now_ns

    def longest_pause_s(self) -> float:
        """Between two heartbeats."""
        beats = [event.start_ns for event in self.chosen if event.kind is EventKind.HEARTBEAT]
        return max(later - earlier for earlier, later in pairwise(beats)) / SECOND

    def cpu_s(self) -> float:
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICKS_PER_S


@pytest.fixture
def observe() -> Iterator[Callable[[Select], Observed]]:
    started: list[Observed] = []

    def one(select: Select) -> Observed:
        fd = os.memfd_create("evidence", os.MFD_CLOEXEC)
        LogWriter(fd, LOG_RECORDS)
        index = EvidenceIndex(fd, 600 * SECOND, 1 << 20, 1 << 20)
        index.tap(True)
        command, fds = observing(fd)
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stderr=subprocess.PIPE,
            pass_fds=fds,
            text=True,
        )
        os.close(fd)
        assert process.stdin
        process.stdin.write(Settings(processors=Processors(ebpf=Ebpf(select=select))).to_json())
        process.stdin.close()
        process.stdin = None
        started.append(Observed(index, process))
        return started[-1]

    yield one
    for observed in started:
        observed.process.kill()
        _, logged = observed.process.communicate()
        assert "Traceback" not in logged, logged


class Neighbour:
    """A well-behaved program, and what it says it did."""

    def __init__(self, program: Obeying, observed: Observed) -> None:
        self.pid = program.pid
        self.since_ns = time.monotonic_ns()
        self._program = program
        self._observed = observed
        self._done: list[tracer.Done] = []

    def work(self, rounds: int) -> None:
        for _ in range(rounds):
            for action in ("many", "label others"):
                self._program.tell(action)
                self._done.append(tracer.Done.of_fields(self._program.answer(self._poll)))
                self._poll()

    def _poll(self) -> None:
        self._observed.poll(self.pid)

    def missing(self) -> tuple[int, bool]:
        """How many of its spans and waits were not told, and whether it is said that some were lost."""
        until_ns = self._observed.until_all_is_told(self.pid)
        own = [event for event in self._observed.chosen if event.tgid == self.pid]
        ends = {event.span.span_id.hex() for event in own if event.kind is EventKind.SPAN_END}
        waits = {(event.goid, event.fd) for event in own if event.kind is EventKind.WAIT}
        spans = {span.span_id for done in self._done for span in done.spans}
        waited = {(wait.goid, wait.fd) for done in self._done for wait in done.waits}
        missing = len(spans - ends) + len(waited - waits)
        lost = self._observed.index.lost(self.since_ns, until_ns, self.pid)
        print(f"of {len(spans)} spans and {len(waited)} waits of the neighbour {missing} are missing, lost: {lost}")
        print(f"the observer paused for {self._observed.longest_pause_s():.3f} s at most")
        assert spans
        assert waited
        return missing, lost


@pytest.fixture
def neighbourhood(
    observe: Callable[[Select], Observed], run: Callable[[Path], Obeying], path: Path, neighbour_path: Path
) -> Callable[..., tuple[Observed, Neighbour, list[Obeying]]]:
    """An observer, a neighbour and hostile programs, all of them watched."""

    def one(count: int, select: Select = Select()) -> tuple[Observed, Neighbour, list[Obeying]]:  # noqa: B008
        observed = observe(select)
        programs = [run(path) for _ in range(count)]
        good = run(neighbour_path)
        observed.until_watched(good, *programs)
        return observed, Neighbour(good, observed), programs

    return one


def test_a_crowd_of_goroutines_costs_nobody_else_anything(
    neighbourhood: Callable[..., tuple[Observed, Neighbour, list[Obeying]]],
) -> None:
    observed, neighbour, (crowd,) = neighbourhood(1)
    crowd.do("park", 300_000)
    cpu_s, began_s = observed.cpu_s(), time.monotonic()
    for _ in range(5):
        crowd.tell("wake 1")
        neighbour.work(5)
        crowd.answer()
    share = (observed.cpu_s() - cpu_s) / (time.monotonic() - began_s)
    print(f"the observer took {share:.1%} of a core")
    assert neighbour.missing() == (0, False)
    assert observed.index.lost(neighbour.since_ns, observed.until_all_is_told(), crowd.pid)
    assert share < 0.5


def test_programs_that_send_all_they_can_cost_nobody_else_anything(
    neighbourhood: Callable[..., tuple[Observed, Neighbour, list[Obeying]]],
) -> None:
    observed, neighbour, floods = neighbourhood(3)
    for flood in floods:
        flood.tell("flood 2")
        flood.answer(observed.poll)
    cpu_s, began_s, before = observed.cpu_s(), time.monotonic(), observed.read
    neighbour.work(30)
    seconds = time.monotonic() - began_s
    share = (observed.cpu_s() - cpu_s) / seconds
    for flood in floods:
        flood.do("stop")
    print(f"the observer took {share:.1%} of a core for {(observed.read - before) / seconds:.0f} events/s")
    assert neighbour.missing() == (0, False)
    assert share < 0.5
    until_ns = observed.until_all_is_told()
    throttled = sum(observed.index.lost(neighbour.since_ns, until_ns, flood.pid) for flood in floods)
    print(f"{throttled} of {len(floods)} had sent too much")


def test_storms_of_forks_and_programs_lose_nobody_anything_unsaid(
    neighbourhood: Callable[..., tuple[Observed, Neighbour, list[Obeying]]], compile_c: CompileC
) -> None:
    storm = compile_c(
        """
        #include <stdlib.h>
        #include <sys/wait.h>
        #include <unistd.h>
        int main(int argc, char **argv) {
            if (argc > 1) return 0;
            for (int i = 0; i < 20000; i++) {
                pid_t child = fork();
                if (child < 0) return 1;
                if (!child && i % 10 == 0) execl(argv[0], argv[0], "leaf", NULL);
                if (!child) _exit(0);
                if (i % 50 == 49) while (waitpid(-1, NULL, 0) > 0) ;
            }
            return 0;
        }
        """
    )
    observed, neighbour, _ = neighbourhood(0, Select(executables=(str(storm),)))
    cpu_s, began_s = observed.cpu_s(), time.monotonic()
    with subprocess.Popen([storm]) as process:
        while process.poll() is None:
            neighbour.work(1)
    assert process.returncode == 0
    share = (observed.cpu_s() - cpu_s) / (time.monotonic() - began_s)
    print(f"the observer took {share:.1%} of a core for {time.monotonic() - began_s:.1f} s")
    missing, lost = neighbour.missing()
    # A storm takes the processors, too: an observer that gets none cannot keep up, but says so.
    assert lost or not missing
    assert observed.process.poll() is None
