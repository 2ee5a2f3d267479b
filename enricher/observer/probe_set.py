"""The probes of this package in the kernel: which are loaded, what they count, whom they watch."""

import os
import threading
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from struct import Struct
from types import TracebackType
from typing import ClassVar, Self

from enricher.config.model import ProbeSwitch
from enricher.errors import EnricherError
from enricher.evidence.records import COUNTERS_EACH, ProbeConfig, ProbeCounter, ProbeProgram, ProcessLayout
from enricher.observer.libbpf import Link, Map, Object, Spec, possible_cpus

OBJECTS = Path(__file__).parent / "objects"

# At 34,000 spans/s, the most measured for one service, this holds half a second. The kernel maps a ring twice, and
# all of it counts as resident.
RING_BYTES = 2 << 20
_CHAIN_GAP_NS = 100_000  # a blocked write wakes up, writes on and waits again within tens of microseconds
_FORGET_WAITING_NS = 600_000_000_000
_FORGET_IDLE_NS = 12_000_000_000  # longer than any tail window

_TRACEPOINT = "tp_btf/"

_TGID = Struct("=I")
_FAILURE = Struct("=IIi4x")
_COUNT = Struct("=Q")


class Probe(StrEnum):
    """A probe by the name it has in the configuration."""

    SYSCALLS = "syscalls"
    GO_SDK = "go_sdk"
    PROCESSES = "processes"

    @property
    def file(self) -> str:
        """Name of its object file."""
        return {"syscalls": "waits", "go_sdk": "spans", "processes": "processes"}[self] + ".bpf.o"


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

    def __init__(self, source: Map, losses: Map) -> None:
        self._source = source
        self._cpus = possible_cpus()
        self._losses = losses.view()

    def losses(self) -> int:
        """How many events were lost since loading. What could not be read is none: C code has no goroutine."""
        return self._losses[0]

    def readings(self) -> dict[tuple[ProbeProgram, ProbeCounter], int]:
        """All of them."""
        values, cpus = self._source.read_per_cpu_array(), self._cpus
        return {
            (program, counter): sum(values[at * cpus : (at + 1) * cpus])
            for program in ProbeProgram
            for counter in ProbeCounter
            for at in (program * COUNTERS_EACH + counter,)
        }


@dataclass(slots=True)
class _SpanEnd:
    link: Link
    users: int = 0


# Device and inode of a binary, and the offset in it.
ProbePlace = tuple[int, int, int]


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
        ring_bytes: int = RING_BYTES,
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
        ).pack()
        self.status: dict[Probe, Status] = {}
        self._objects: dict[Probe, Object] = {}
        self._maps: dict[str, Map] = {}
        self._always: list[Link] = []
        self._while_watching: list[Link] = []
        self._marker: Link | None = None
        self._span_ends: dict[ProbePlace, _SpanEnd] = {}
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
        self.counters = Counters(self._maps["counters"], self._maps["losses"])

    def _load(self, probe: Probe, file: Path, constants: bytes, ring_bytes: int) -> None:
        with Spec(file) as spec:
            spec.set_constants(constants)
            for name in spec.maps & self._maps.keys():
                spec.share(self._maps[name])
            if "events" not in self._maps:
                spec.set_max_entries("events", ring_bytes)
            loaded = self._objects[probe] = spec.load()
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
        if self.has(Probe.SYSCALLS) and not self._while_watching:
            self._while_watching = _attach_hooks(self._objects[Probe.SYSCALLS], _is_frequent)
        self._maps["processes"].update(_TGID.pack(tgid), layout.pack())

    def unwatch(self, tgid: int) -> None:
        """Not having been watched is no error. Its threads stay marked until the next `mark_threads`, or end."""
        self._maps["processes"].delete(_TGID.pack(tgid))

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
        self._marker.iterate()

    def scan(self) -> None:
        """Puts the waits that are going on and have passed the threshold into the ring, each once."""
        if self._while_watching:
            self._objects[Probe.SYSCALLS].programs["scan"].run()

    def attach_span_end(self, fd: int, file_offset: int) -> ProbePlace:
        """Probes an instruction of an open binary, once however many processes run it.

        Give the place back to `release_span_end`. Raises AttachRefused, NotPermitted.
        """
        found = os.fstat(fd)
        place = (found.st_dev, found.st_ino, file_offset)
        if place not in self._span_ends:
            program = self._objects[Probe.GO_SDK].programs["span_end"]
            self._span_ends[place] = _SpanEnd(program.attach_uprobe(f"/proc/self/fd/{fd}", file_offset))
        self._span_ends[place].users += 1
        return place

    def release_span_end(self, place: ProbePlace) -> None:
        """Detaches with the last process: a probe holds the binary's file system, which could not be unmounted."""
        used = self._span_ends[place]
        used.users -= 1
        if used.users == 0:
            del self._span_ends[place]
            # The kernel waits 0.1 s for its own readers before it is done with a uprobe (measured, Linux 6.18).
            threading.Thread(target=used.link.close, name="detach").start()

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
        _close(used.link for used in self._span_ends.values())
        self._span_ends.clear()
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
