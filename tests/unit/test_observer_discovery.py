"""Discovery with real processes, and probes that only note what is asked of them."""

import itertools
import os
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, cast

import pytest

from enricher.config.model import Select
from enricher.evidence.records import Event, EventFlag, EventKind, ProcessIdentity, ProcessLayout
from enricher.observer import discovery as discovery_module
from enricher.observer.discovery import Discovery
from enricher.observer.inspection import GoProgram, Inspected, Inspector, NotGo, Uninspected
from enricher.observer.libbpf import AttachRefused, MapFull
from enricher.observer.probe_set import Probe
from enricher.observer.uprobes import Attached, ProbePlace, Uprobe, UprobeTarget
from enricher.processes import proc
from enricher.processes.proc import FileIdentity
from enricher.telemetry.logs import Logger, get_logger

if TYPE_CHECKING:
    from enricher.observer.probe_set import ProbeSet

GOROUTINES = EventFlag.PROCESS_HAS_GOROUTINES
SPAN_ENDS = EventFlag.PROCESS_HAS_SPAN_ENDS
GO = GoProgram(
    go_version="1.26.1",
    sdk_version="v1.47.0",
    is_collector=False,
    layout=ProcessLayout(g_goid=152),
    targets=(UprobeTarget(Uprobe.SPAN_END, 0x2012),),
    lacks=(),
)


class NotedProbes:
    """Stands for ProbeSet: what was asked of it, in order, and who is watched."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.watched: dict[int, ProcessLayout] = {}
        self.places: list[ProbePlace] = []
        self.room = 1024
        self.uprobes_refused = False
        self.loaded: set[Probe] = set()
        self.while_watching: Callable[[int], None] = lambda _: None

    def has(self, probe: Probe) -> bool:
        return probe in self.loaded

    def watch(self, tgid: int, layout: ProcessLayout) -> None:
        self.calls.append("watch")
        if len(self.watched) >= self.room:
            raise MapFull("full")
        self.watched[tgid] = layout
        self.while_watching(tgid)

    def unwatch(self, tgid: int) -> None:
        self.calls.append("unwatch")
        self.watched.pop(tgid, None)

    def mark_threads(self) -> None:
        self.calls.append("mark_threads")

    def attach(self, fd: int, targets: Iterable[UprobeTarget]) -> Attached:
        self.calls.append("attach")
        if self.uprobes_refused:
            return Attached(refused=(AttachRefused("refused"),))
        found = os.fstat(fd)
        places = tuple((found.st_dev, found.st_ino, target.file_offset) for target in targets)
        self.places += places
        return Attached(places, SPAN_ENDS if places else EventFlag(0))

    def release(self, places: Iterable[ProbePlace]) -> None:
        self.calls.append("release")
        for place in places:
            self.places.remove(place)


class KnownBinaries:
    """Stands for Inspector: answers from a table by size of the file, at the next step."""

    def __init__(self) -> None:
        self.known: dict[int, Inspected] = {}
        self.asked: list[FileIdentity] = []
        self.answered = 0
        self.silent = False

    def submit(self, identity: FileIdentity, fd: int) -> None:
        assert os.fstat(fd).st_size == identity.size
        self.asked.append(identity)

    @property
    def has_results(self) -> bool:
        return not self.silent and self.answered < len(self.asked)

    def results(self) -> Iterator[tuple[FileIdentity, Inspected]]:
        if not self.silent:
            for identity in self.asked[self.answered :]:
                self.answered += 1
                yield identity, self.known.get(identity.size, NotGo())

    def close(self) -> None:
        pass


class Scene:
    """A discovery and what surrounds it."""

    def __init__(self, directory: Path, select: Select) -> None:
        self.directory = directory
        self.probes = NotedProbes()
        self.binaries = KnownBinaries()
        self.time_ns = 1_000_000_000
        self.logged: list[tuple[str, dict[str, object]]] = []
        self.sizes = itertools.count(1)
        self.running: list[subprocess.Popen[bytes]] = []
        self.discovery = Discovery(
            cast("ProbeSet", self.probes), cast("Inspector", self.binaries), select, self._log(), lambda: self.time_ns
        )

    def _log(self) -> Logger:
        noted = self.logged

        class NotedLogger(Logger):
            def _log(self, level: int, event: str, fields: dict[str, object], exc_info: bool = False) -> None:
                noted.append((event, fields))

        return NotedLogger(get_logger()._logger, {})

    def program(self, inspected: Inspected, name: str = "app") -> Path:
        """A program that waits for its input to end, then does as a shell does."""
        path = self.directory / name
        content = Path("/bin/dash").read_bytes() + b"\0" * next(self.sizes)
        path.write_bytes(content)
        path.chmod(0o755)
        self.binaries.known[len(content)] = inspected
        return path

    def start(self, program: Path, then: str = ":") -> subprocess.Popen[bytes]:
        command = [str(program), "-c", f"echo; read line; {then}"]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert process.stdout
        assert process.stdout.readline() == b"\n"
        self.running.append(process)
        return process

    def go_on(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdin
        process.stdin.write(b"\n")
        process.stdin.flush()

    def steps(self, count: int = 3) -> list[Event]:
        return [event for _ in range(count) if self.discovery.has_work for event in self.discovery.step(10**9)]

    def end(self) -> None:
        self.discovery.close()
        for process in self.running:
            process.kill()
            process.communicate()


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    made = Scene(tmp_path, Select())
    yield made
    made.end()


@pytest.fixture
def scene_with(tmp_path: Path) -> Iterator[Callable[[Select], Scene]]:
    made: list[Scene] = []

    def make(select: Select) -> Scene:
        made.append(Scene(tmp_path, select))
        return made[-1]

    yield make
    for scene in made:
        scene.end()


def test_a_go_program_with_the_sdk_is_watched_in_the_order_that_makes_the_evidence_whole(scene: Scene) -> None:
    process = scene.start(scene.program(GO))
    scene.discovery.process_began(process.pid, 1)
    (event,) = scene.steps()
    assert scene.probes.calls == ["attach", "watch", "mark_threads"]
    assert scene.probes.watched[process.pid] == ProcessLayout(g_goid=152, flags=GOROUTINES | SPAN_ENDS)
    assert (event.kind, event.tgid, event.start_ns) == (EventKind.PROCESS, process.pid, scene.time_ns)
    assert event.flags == GOROUTINES | SPAN_ENDS
    identity = ProcessIdentity.unpack(event.detail)
    assert (identity.start_ticks, identity.inner_pid) == (proc.status(process.pid).start_ticks, process.pid)
    assert scene.discovery.without_span_ends == []


@pytest.mark.parametrize(
    ("inspected", "flags"),
    [
        (GoProgram("1.26.1", "v1.99.0", False, GO.layout, (), ("SDK too new",)), GOROUTINES),
        (GoProgram("1.99", "v1.47.0", False, None, (), ("Go too new",)), 0),
        # Without the layout of the runtime nobody could read what the probe finds.
        (GoProgram("1.99", "v1.47.0", False, None, GO.targets, ()), 0),
    ],
)
def test_what_is_not_known_of_a_program_leaves_it_to_lesser_methods(
    scene: Scene, inspected: GoProgram, flags: int
) -> None:
    process = scene.start(scene.program(inspected))
    scene.discovery.process_began(process.pid, 1)
    (event,) = scene.steps()
    assert event.flags == flags
    assert scene.discovery.without_span_ends == [process.pid]
    (line,) = [fields for told, fields in scene.logged if told == "watching a program"]
    assert line["spans"] == "matched by process only"
    assert line.get("lacks", "") == "; ".join(inspected.lacks)


@pytest.mark.parametrize(
    ("inspected", "uprobes_refused", "wants"),
    [
        (GO, False, False),
        (GO, True, True),
        (GoProgram("1.26.1", "v1.99.0", False, GO.layout, (), ("SDK too new",)), False, True),
        (GoProgram("1.99", "v1.47.0", False, None, (), ("Go too new",)), False, True),
    ],
)
def test_only_where_span_ends_are_not_seen_headers_are_looked_at(
    scene: Scene, inspected: GoProgram, uprobes_refused: bool, wants: bool
) -> None:
    scene.probes.loaded = {Probe.HEADERS}
    scene.probes.uprobes_refused = uprobes_refused
    process = scene.start(scene.program(inspected))
    scene.discovery.process_began(process.pid, 1)
    (event,) = scene.steps()
    assert bool(event.flags & EventFlag.PROCESS_WANTS_HEADERS) == wants
    assert scene.probes.watched[process.pid].flags == event.flags


def test_a_program_whose_span_ends_cannot_be_probed_is_watched_all_the_same(scene: Scene) -> None:
    scene.probes.uprobes_refused = True
    program = scene.program(GO)
    for process in (scene.start(program), scene.start(program)):
        scene.discovery.process_began(process.pid, 1)
    assert {event.flags for event in scene.steps()} == {GOROUTINES}
    assert [told for told, _ in scene.logged] == ["a program cannot be probed", "watching a program"]


@pytest.mark.parametrize("inspected", [NotGo(), Uninspected("broken")])
def test_other_programs_are_watched_where_selected(
    scene_with: Callable[[Select], Scene], tmp_path: Path, inspected: Inspected
) -> None:
    scene = scene_with(Select(executables=(f"{tmp_path}/chosen*",)))
    chosen = scene.start(scene.program(inspected, "chosen-one"))
    other = scene.start(scene.program(inspected, "other"))
    for process in (chosen, other):
        scene.discovery.process_began(process.pid, 1)
    (event,) = scene.steps()
    assert (event.tgid, event.flags) == (chosen.pid, 0)
    assert scene.probes.watched == {chosen.pid: ProcessLayout()}


def test_processes_that_run_already_are_found(scene: Scene) -> None:
    process = scene.start(scene.program(GO))
    scene.discovery.rescan()
    assert not scene.discovery.is_settled
    assert [event.tgid for event in scene.steps()] == [process.pid]
    assert scene.discovery.is_settled
    scene.time_ns += 10**10
    scene.discovery.rescan()
    assert scene.steps() == []
    assert scene.discovery.watched.keys() == {process.pid}


def test_a_binary_is_inspected_once_for_all_its_processes(scene: Scene) -> None:
    program = scene.program(GO)
    processes = [scene.start(program) for _ in range(3)]
    for process in processes:
        scene.discovery.process_began(process.pid, 1)
    assert {event.tgid for event in scene.steps()} == {process.pid for process in processes}
    assert len(scene.binaries.asked) == 1
    assert [told for told, _ in scene.logged] == ["watching a program"]
    late = scene.start(program)
    scene.discovery.process_began(late.pid, 1)
    assert [event.tgid for event in scene.steps(1)] == [late.pid]


def test_a_replaced_binary_is_inspected_anew(scene: Scene) -> None:
    scene.discovery.process_began(scene.start(scene.program(NotGo())).pid, 1)
    assert scene.steps() == []
    (scene.directory / "app").unlink()
    process = scene.start(scene.program(GO))
    scene.discovery.process_began(process.pid, 1)
    assert [event.tgid for event in scene.steps()] == [process.pid]


def test_short_lived_processes_are_nothing_special(scene: Scene) -> None:
    ended = [subprocess.Popen(["/bin/true"]) for _ in range(5)]
    for process in ended:
        process.wait()
        scene.discovery.process_began(process.pid, 1)
    assert scene.steps() == []
    assert scene.discovery.statistics.gone == 5
    assert scene.logged == []


def test_the_end_of_a_process_gives_everything_back(scene: Scene) -> None:
    process = scene.start(scene.program(GO))
    scene.discovery.process_began(process.pid, 1)
    scene.steps()
    process.communicate(b"\n")
    scene.discovery.process_ended(process.pid)
    assert scene.steps() == []  # the probe itself has told the end
    assert not scene.probes.watched
    assert not scene.probes.places
    assert not scene.discovery.watched


def test_another_image_in_a_watched_process_is_another_program(scene: Scene) -> None:
    other = scene.program(NotGo(), "other")
    process = scene.start(scene.program(GO), then=f"exec {other} -c 'echo; read line'")
    scene.discovery.process_began(process.pid, 1)
    scene.steps()
    scene.go_on(process)
    assert process.stdout
    assert process.stdout.readline() == b"\n"
    scene.discovery.process_began(process.pid, 77)
    (event,) = scene.steps()
    assert (event.kind, event.tgid, event.end_ns) == (EventKind.PROCESS_EXIT, process.pid, 77)
    assert not scene.probes.watched
    assert not scene.probes.places


def test_the_same_image_anew_is_watched_anew(scene: Scene) -> None:
    program = scene.program(GO)
    process = scene.start(program, then=f"exec {program} -c 'echo; read line'")
    scene.discovery.process_began(process.pid, 1)
    scene.steps()
    scene.go_on(process)
    assert process.stdout
    assert process.stdout.readline() == b"\n"
    scene.discovery.process_began(process.pid, 77)
    scene.time_ns += 5
    assert [(event.kind, event.start_ns) for event in scene.steps()] == [
        (EventKind.PROCESS_EXIT, 77),
        (EventKind.PROCESS, scene.time_ns),
    ]
    assert scene.probes.calls.count("mark_threads") == 2


def test_an_image_that_changes_while_it_is_looked_at_is_not_watched_as_the_old_one(scene: Scene) -> None:
    other = scene.program(NotGo(), "other")
    process = scene.start(scene.program(GO), then=f"exec {other} -c 'echo; read line'")

    def change(tgid: int) -> None:
        scene.go_on(process)
        assert process.stdout
        assert process.stdout.readline() == b"\n"

    scene.probes.while_watching = change
    scene.discovery.process_began(process.pid, 1)
    assert scene.steps() == []
    assert not scene.probes.watched
    assert not scene.probes.places
    assert len(scene.binaries.asked) == 2


def test_a_process_that_ended_unnoticed_is_found_out_by_a_rescan(scene: Scene) -> None:
    process = scene.start(scene.program(GO))
    scene.discovery.process_began(process.pid, 1)
    scene.steps()
    process.communicate(b"\n")
    scene.discovery.rescan()
    assert [(event.kind, event.tgid) for event in scene.steps()] == [(EventKind.PROCESS_EXIT, process.pid)]
    assert not scene.probes.watched


def test_a_pid_that_is_anothers_by_now_is_another_process(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    process = scene.start(scene.program(GO))
    scene.discovery.process_began(process.pid, 1)
    scene.steps()
    read = proc.status

    def later(pid: int) -> proc.Status:
        status = read(pid)
        return proc.Status(pid, status.parent, status.start_ticks + 1)

    monkeypatch.setattr(proc, "status", later)
    scene.discovery.rescan()
    assert [event.kind for event in scene.steps() if event.tgid == process.pid] == [
        EventKind.PROCESS_EXIT,
        EventKind.PROCESS,
    ]


def test_more_processes_than_the_map_holds_are_counted_and_told_once(scene: Scene) -> None:
    scene.probes.room = 1
    program = scene.program(GO)
    for process in [scene.start(program) for _ in range(3)]:
        scene.discovery.process_began(process.pid, 1)
    assert len(scene.steps()) == 1
    assert scene.discovery.statistics.too_many == 2
    assert len(scene.probes.places) == 1
    assert [told for told, _ in scene.logged].count("a process cannot be watched") == 1


def test_a_burst_beyond_the_queue_makes_for_a_rescan(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(discovery_module, "QUEUE_LIMIT", 1000)
    process = scene.start(scene.program(GO))
    for pid in range(4_000_000, 4_001_000):
        scene.discovery.process_began(pid, 1)
    scene.discovery.process_began(process.pid, 1)
    assert [event.tgid for event in scene.steps(5)] == [process.pid]
    assert scene.discovery.statistics.rescans == 1


def test_more_binaries_than_may_wait_come_to_their_turn(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(discovery_module, "INSPECTION_LIMIT", 1)
    processes = [scene.start(scene.program(GO, f"app{number}")) for number in range(3)]
    for process in processes:
        scene.discovery.process_began(process.pid, 1)
    found = set()
    end_s = time.monotonic() + 10
    while len(found) < 3:
        scene.time_ns += 2 * 10**9
        found |= {event.tgid for event in scene.steps()}
        assert time.monotonic() < end_s
    assert found == {process.pid for process in processes}


def test_work_stops_when_the_time_is_up(scene: Scene) -> None:
    program = scene.program(GO)
    for process in [scene.start(program) for _ in range(3)]:
        scene.discovery.process_began(process.pid, 1)
    scene.steps(1)

    def clock() -> int:
        scene.time_ns += 1
        return scene.time_ns

    scene.discovery._clock = clock
    # Each look at the clock takes one of the nanoseconds: one for the end, then one for each process.
    assert [len(scene.discovery.step(2)) for _ in range(3)] == [1, 1, 1]


def test_rescans_are_a_second_apart(scene: Scene) -> None:
    scene.discovery.rescan()
    scene.steps()
    scene.discovery.rescan()
    scene.steps()
    assert scene.discovery.statistics.rescans == 1
    assert not scene.discovery.is_settled
    scene.time_ns += 1_000_000_000
    scene.steps()
    assert scene.discovery.statistics.rescans == 2
    assert scene.discovery.is_settled


def test_discovery_is_not_settled_while_a_binary_is_under_inspection(scene: Scene) -> None:
    scene.binaries.silent = True
    process = scene.start(scene.program(GO))
    scene.discovery.process_began(process.pid, 1)
    assert scene.steps() == []
    assert not scene.discovery.is_settled
    scene.binaries.silent = False
    assert [event.tgid for event in scene.steps()] == [process.pid]
    assert scene.discovery.is_settled


def test_our_own_processes_are_never_watched(scene_with: Callable[[Select], Scene]) -> None:
    scene = scene_with(Select(executables=("*",)))
    scene.discovery.process_began(os.getpid(), 1)
    assert scene.steps() == []
    assert not scene.binaries.asked


def test_a_collector_is_told_as_not_watched(scene: Scene) -> None:
    process = scene.start(scene.program(GoProgram("1.26.1", "v1.47.0", True, GO.layout, GO.targets, ())))
    scene.discovery.process_began(process.pid, 1)
    assert scene.steps() == []
    ((told, fields),) = scene.logged
    assert told == "not watching a program"
    assert fields["because"] == "an OpenTelemetry collector"


def test_real_binaries_go_through_the_real_inspection(tmp_path: Path) -> None:
    scene = Scene(tmp_path, Select(executables=(f"{tmp_path}/*",)))
    paths: list[str] = []
    scene.discovery._inspector = Inspector(paths.append)
    process = scene.start(scene.program(NotGo()))
    try:
        scene.discovery.process_began(process.pid, 1)
        end_s = time.monotonic() + 10
        while not (events := scene.discovery.step(10**9)):
            assert time.monotonic() < end_s, "the inspection did not end"
        assert [event.tgid for event in events] == [process.pid]
        assert len(paths) == 1
    finally:
        scene.end()
