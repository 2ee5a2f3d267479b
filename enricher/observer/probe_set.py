"""The probes of this package in the kernel: which are loaded, what they count, whom they watch."""

from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from struct import Struct
from types import TracebackType
from typing import ClassVar, Self

from enricher.config.model import DEFAULT_RING_BYTES, ProbeSwitch
from enricher.errors import EnricherError
from enricher.evidence.records import COUNTERS_EACH, EventFlag, ProbeConfig, ProbeCounter, ProbeProgram, ProcessLayout
from enricher.observer.libbpf import Link, Map, Object, Program, Spec, possible_cpus
from enricher.observer.slots import Slots
from enricher.observer.uprobes import Attached, ProbePlace, Uprobe, Uprobes, UprobeTarget

OBJECTS = Path(__file__).parent / "objects"

_CHAIN_GAP_NS = 100_000  # a blocked write wakes up, writes on and waits again within tens of microseconds
_FORGET_WAITING_NS = 600_000_000_000
_FORGET_IDLE_NS = 12_000_000_000  # longer than any tail window

# What one process may take of what all share: a quarter of each map; and at 34,000 spans/s, the most measured, two
# events for each.
_EVENT_APART_NS = 14_000
_MOST_GOROUTINES = 8192
_MOST_SPANS = 16_384
_MOST_SLEEPERS = 1024
_MOST_CONNECTIONS = 1024

# A thread is not marked where another was about to be on the same CPU: the kernel's task storage refuses to wait.
_MARKING_ATTEMPTS = 5

_TRACEPOINT = "tp_btf/"

_TGID = Struct("=I")
_FAILURE = Struct("=IIi4x")
_COUNT = Struct("=Q")


class Probe(StrEnum):
    """A probe by the name it has in the configuration."""

    SYSCALLS = "syscalls"
    GO_SDK = "go_sdk"
    GO_RUNTIME = "go_runtime"
    GO_NET = "go_net"
    HEADERS = "headers"
    PROCESSES = "processes"

    @property
    def file(self) -> str:
        """Name of its object file."""
        return _FILES[self]


_FILES = {
    Probe.SYSCALLS: "waits.bpf.o",
    Probe.GO_SDK: "spans.bpf.o",
    Probe.GO_RUNTIME: "goroutines.bpf.o",
    Probe.GO_NET: "connections.bpf.o",
    Probe.HEADERS: "headers.bpf.o",
    Probe.PROCESSES: "processes.bpf.o",
}

# Programs that are run now and then.
_SCANS = {Probe.SYSCALLS: "scan", Probe.GO_SDK: "scan_spans", Probe.HEADERS: "scan_connections"}


@dataclass(frozen=True, slots=True)
class Loaded:
    """In the kernel, and attached or ready to be."""


@dataclass(frozen=True, slots=True)
class Off:
    """The configuration says so."""


@dataclass(frozen=True, slots=True)
class Failed:
    """This host cannot."""

    error: EnricherError


Status = Loaded | Off | Failed


@dataclass(frozen=True, slots=True)
class Failure:
    """Where in a program a helper of the kernel failed, with which errno, and how often."""

    program: ProbeProgram
    line: int
    error: int
    count: int


class Counters:
    """The probes' counters, summed over the CPUs."""

    def __init__(self, source: Map) -> None:
        self._source = source
        self._cpus = possible_cpus()

    def readings(self) -> dict[tuple[ProbeProgram, ProbeCounter], int]:
        """All of them."""
        values, cpus = self._source.read_per_cpu_array(), self._cpus
        return {
            (program, counter): sum(values[at * cpus : (at + 1) * cpus])
            for program in ProbeProgram
            for counter in ProbeCounter
            for at in (program * COUNTERS_EACH + counter,)
        }


class NothingLoaded(EnricherError):
    """No probe is in the kernel. `status` says of each why."""

    code: ClassVar[str] = "nothing_loaded"

    def __init__(self, status: Mapping[Probe, Status]) -> None:
        reasons = dict.fromkeys(str(found.error) for found in status.values() if isinstance(found, Failed))
        super().__init__("no probe is loaded: " + ("; ".join(reasons) or "all of them are off"))
        self.status = status


class ProbeSet:
    """The loaded probes: a context manager that detaches and unloads.

    The programs on system calls, switches of the scheduler and forks are attached only while somebody is watched:
    a tracepoint on system calls costs each process of the host, watched or not.
    """

    def __init__(
        self,
        wanted: Mapping[str, ProbeSwitch],
        *,
        blocked_threshold_ns: int,
        ring_bytes: int = DEFAULT_RING_BYTES,
        directory: Path = OBJECTS,
    ) -> None:
        """Loads what can be loaded of what is wanted (`auto` where nothing is said); `status` tells what came of it.

        A probe that this host cannot run is Failed, be it `auto` or `on`: what that means is the caller's to say.
        Raises NothingLoaded.
        """
        constants = ProbeConfig(
            blocked_threshold_ns=blocked_threshold_ns,
            chain_gap_ns=_CHAIN_GAP_NS,
            forget_waiting_ns=_FORGET_WAITING_NS,
            forget_idle_ns=_FORGET_IDLE_NS,
            event_apart_ns=_EVENT_APART_NS,
            ring_bytes=ring_bytes,
            most_goroutines=_MOST_GOROUTINES,
            most_spans=_MOST_SPANS,
            most_sleepers=_MOST_SLEEPERS,
            most_connections=_MOST_CONNECTIONS,
        ).pack()
        self.status: dict[Probe, Status] = {}
        self._objects: dict[Probe, Object] = {}
        self._maps: dict[str, Map] = {}
        self._always: list[Link] = []
        self._while_watching: list[Link] = []
        # What looks for headers costs each system call more than the rest, and is attached only while a watched
        # process wants it.
        self._reading_headers: list[Link] = []
        self._want_headers: set[int] = set()
        self._marker: Link | None = None
        # Processes that the maps may still tell of.
        self._leftovers: set[int] = set()
        self._uprobe_programs: dict[Uprobe, Program] = {}
        self.uprobes = Uprobes(self._uprobe_programs)
        for probe in Probe:
            if wanted.get(probe, "auto") == "off":
                self.status[probe] = Off()
                continue
            try:
                self._load(probe, directory / probe.file, constants, ring_bytes)
                self.status[probe] = Loaded()
            except EnricherError as error:
                self.status[probe] = Failed(error)
        if not any(map(self.has, Probe)):
            self.close()
            raise NothingLoaded(self.status)
        self.ring = self._maps["events"]
        self.header_blocks = self._maps.get("header_blocks")
        self.counters = Counters(self._maps["counters"])
        self.slots = Slots(self._maps["losses"].view())

    def _load(self, probe: Probe, file: Path, constants: bytes, ring_bytes: int) -> None:
        with Spec(file) as spec:
            spec.set_constants(constants)
            for name in spec.maps & self._maps.keys():
                spec.share(self._maps[name])
            if "events" not in self._maps:
                spec.set_max_entries("events", ring_bytes)
            loaded = self._objects[probe] = spec.load()
        self._uprobe_programs |= {uprobe: loaded.programs[uprobe] for uprobe in Uprobe if uprobe in loaded.programs}
        for name, found in loaded.maps.items():
            if not name.endswith(".rodata"):
                self._maps.setdefault(name, found)
        # Programs on one hook run in the order they were attached in. What forgets the image that a process ran before
        # comes first, so that whoever hears of the new image cannot have it forgotten, too.
        self._always += _attach_hooks(loaded, _is_rare)
        # Attached only to see: that the kernel refuses must be known now and not when somebody is watched.
        _close(_attach_hooks(loaded, _is_frequent))

    def has(self, probe: Probe) -> bool:
        """Whether it is loaded."""
        return isinstance(self.status[probe], Loaded)

    def watch(self, tgid: int, layout: ProcessLayout) -> None:
        """From now on new threads of the process are watched; those it has, after `mark_threads`.

        Raises MapFull when there are too many, AttachRefused.
        """
        if tgid in self._leftovers:
            # Another image may have goroutines at the same addresses and with the same ids.
            self._run_scans()
        if self.has(Probe.SYSCALLS) and not self._while_watching:
            self._while_watching = _attach_hooks(self._objects[Probe.SYSCALLS], _is_frequent)
        if layout.flags & EventFlag.PROCESS_WANTS_HEADERS:
            if not self._want_headers:
                self._reading_headers = _attach_hooks(self._objects[Probe.HEADERS], _is_frequent)
            self._want_headers.add(tgid)
        self._maps["processes"].update(_TGID.pack(tgid), replace(layout, slot=self.slots.take(tgid)).pack())

    def unwatch(self, tgid: int) -> None:
        """Not having been watched is no error. Its threads stay marked until the next `mark_threads`, or end."""
        self._maps["processes"].delete(_TGID.pack(tgid))
        self._leftovers.add(tgid)
        self.slots.give_back(tgid)
        self._want_headers.discard(tgid)
        if not self._want_headers:
            _close(self._reading_headers)
            self._reading_headers = []

    def rest(self) -> None:
        """Detaches what costs processes that are not watched. For when nobody is; the next `watch` undoes it."""
        _close(self._while_watching)
        self._while_watching = []

    def mark_threads(self) -> None:
        """Makes the existing threads of all watched processes watched, and of others not."""
        if not self.has(Probe.SYSCALLS):
            return
        if self._marker is None:
            self._marker = self._objects[Probe.SYSCALLS].programs["mark_threads"].attach()
        unmarked = self._unmarked()
        for _ in range(_MARKING_ATTEMPTS):
            self._marker.iterate()
            before, unmarked = unmarked, self._unmarked()
            if unmarked == before:
                return

    def _unmarked(self) -> int:
        """How many threads could not be marked so far."""
        readings = self.counters.readings()
        programs = (ProbeProgram.MARK_THREADS, ProbeProgram.PROCESS_FORK)
        return sum(readings[program, ProbeCounter.MAP_FULL] for program in programs)

    def scan(self) -> None:
        """Puts the waits that are going on and have passed the threshold into the ring, each once."""
        if self._while_watching or self._leftovers:
            self._run_scans()

    def _run_scans(self) -> None:
        for probe, scan in _SCANS.items():
            if self.has(probe):
                self._objects[probe].programs[scan].run()
        self._leftovers.clear()

    def attach(self, fd: int, targets: Iterable[UprobeTarget]) -> Attached:
        """Probes instructions of an open binary, once however many processes run it."""
        return self.uprobes.attach(fd, targets)

    def release(self, places: Iterable[ProbePlace]) -> None:
        """Gives back what `attach` gave."""
        self.uprobes.release(places)

    def failures(self) -> tuple[Failure, ...]:
        """Every place where a helper has failed, at most as many as the map holds."""
        found = []
        source = self._maps["failures"]
        for key in source:
            value = source.lookup(key)
            program, line, error = _FAILURE.unpack(key)
            found.append(Failure(ProbeProgram(program), line, -error, _COUNT.unpack(value or bytes(8))[0]))
        return tuple(found)

    def close(self) -> None:
        """Detaches and unloads everything."""
        self.rest()
        _close(self._reading_headers)
        self.uprobes.close()
        _close(self._always)
        if self._marker is not None:
            self._marker.close()
        for loaded in self._objects.values():
            loaded.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _is_rare(hook: str) -> bool:
    return hook in ("sched_process_exec", "sched_process_exit")


def _is_frequent(hook: str) -> bool:
    return not _is_rare(hook)


def _attach_hooks(loaded: Object, chosen: Callable[[str], bool]) -> list[Link]:
    """All programs on those tracepoints, or none."""
    with ExitStack() as undo:
        links = [
            undo.enter_context(program.attach())
            for program in loaded.programs.values()
            if program.section.startswith(_TRACEPOINT) and chosen(program.section.removeprefix(_TRACEPOINT))
        ]
        undo.pop_all()
    return links


def _close(links: Iterable[Link]) -> None:
    for link in links:
        link.close()


def try_load(directory: Path = OBJECTS) -> tuple[tuple[str, bool, str], ...]:
    """Of each object file its name, whether this host loads and attaches it, and if not the line that says why."""
    try:
        with ProbeSet({}, blocked_threshold_ns=1_000_000, directory=directory) as probes:
            status = probes.status
    except NothingLoaded as error:
        status = dict(error.status)
    return tuple(
        (probe.file, not isinstance(found, Failed), str(found.error) if isinstance(found, Failed) else "")
        for probe, found in status.items()
    )
