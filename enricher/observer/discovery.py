"""Finds the processes to watch among those that run and those that start, and has the probes watch them.

Everything comes in through one queue of pids: at the start all there are, then those that run another image, as the
probe on exec tells. Each tick works on it for a few milliseconds, so that a build that starts ten thousand processes
a second delays discovery and nothing else. A process may be gone at any moment, and its pid may be another's: what
was done to it is checked against its executable and its start time afterwards.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import ClassVar

from enricher.config.model import Select
from enricher.errors import EnricherError
from enricher.evidence.records import Event, EventFlag, EventKind, ProcessIdentity, ProcessLayout
from enricher.observer.inspection import GoProgram, Inspected, Inspector, NotGo, Uninspected
from enricher.observer.libbpf import MapFull
from enricher.observer.probe_set import Probe, ProbeSet
from enricher.observer.selection import Candidate, Verdict, decide
from enricher.observer.uprobes import Attached, ProbePlace
from enricher.processes import proc
from enricher.processes.proc import Executable, FileIdentity, ProcessHidden, ProcessUnreadable
from enricher.telemetry.logs import FirstTimes, Logger

QUEUE_LIMIT = 4096  # pids waiting to be looked at; more, and all of /proc is looked at again
BINARY_LIMIT = 1024  # binaries whose inspection is remembered
INSPECTION_LIMIT = 128  # binaries waiting for it, each of them open
_RESCAN_APART_NS = 1_000_000_000


@dataclass(slots=True)
class Statistics:
    """Counts since the start, for the log."""

    looked_at: int = 0
    inspected: int = 0
    watched: int = 0
    gone: int = 0  # while they were looked at, or of the kernel
    hidden: int = 0  # the kernel does not let us look at them
    rescans: int = 0
    too_many: int = 0  # not watched, as the map of the probes is full
    failed: int = 0  # to be watched, for any other reason


@dataclass(frozen=True, slots=True)
class Watched:
    """A process that is watched, by the image it ran then."""

    start_ticks: int
    identity: FileIdentity
    flags: int
    places: tuple[ProbePlace, ...]
    process: ProcessIdentity


class ImageChanged(EnricherError):
    """The process runs another image than the one looked at, or the pid is another's by now."""

    code: ClassVar[str] = "image_changed"


class Discovery:
    """Keeps the set of watched processes. `step` does the work; all the rest only notes what is to be done."""

    def __init__(
        self, probes: ProbeSet, inspector: Inspector, select: Select, log: Logger, clock: Callable[[], int]
    ) -> None:
        """`clock` gives CLOCK_MONOTONIC in nanoseconds."""
        self.watched: dict[int, Watched] = {}
        self.statistics = Statistics()
        self._probes = probes
        self._inspector = inspector
        self._select = select
        self._log = log
        self._clock = clock
        self._first_time = FirstTimes()
        self._queue: dict[int, None] = {}
        self._binaries: dict[FileIdentity, Inspected] = {}
        self._waiting: dict[FileIdentity, list[int]] = {}
        self._records: list[Event] = []
        self._announced: dict[int, Event] = {}
        self._rescan_wanted = False
        self._rescan_from_ns = 0
        self._own = proc.executable_identity(os.getpid())
        self._family = {os.getpid(), os.getppid()}

    @property
    def is_settled(self) -> bool:
        """Whether nothing is waiting to be looked at."""
        return not (self._queue or self._waiting or self._rescan_wanted)

    @property
    def has_work(self) -> bool:
        """Whether there is something for `step` to do."""
        return bool(
            self._queue or self._records or self._rescan_wanted or (self._waiting and self._inspector.has_results)
        )

    @property
    def without_span_ends(self) -> list[int]:
        """Watched processes whose spans can be told only by who sent them."""
        has_span_ends = EventFlag.PROCESS_HAS_SPAN_ENDS
        return [tgid for tgid, watched in self.watched.items() if not watched.flags & has_span_ends]

    @property
    def announced(self) -> list[Event]:
        """What the log was told of the watched processes, to be told again: a reader that comes later may find the
        log overwritten since."""
        return list(self._announced.values())

    def rescan(self) -> None:
        """Looks at every process there is, as soon as may be."""
        self._rescan_wanted = True

    def process_began(self, tgid: int, at_ns: int) -> None:
        """It runs another image now: whatever was known of it is over."""
        if tgid in self.watched:
            self._unwatch(tgid)
            self._records.append(_event(EventKind.PROCESS_EXIT, tgid, at_ns))
        self._enqueue(tgid)

    def process_ended(self, tgid: int) -> None:
        """It is no more. The probe has said so in the log."""
        self._queue.pop(tgid, None)
        if tgid in self.watched:
            self._unwatch(tgid)

    def step(self, budget_ns: int) -> list[Event]:
        """Works for about `budget_ns`; what is to be written to the log."""
        until_ns = self._clock() + budget_ns
        for identity, inspected in self._inspector.results():
            self._remember(identity, inspected)
            for tgid in self._waiting.pop(identity, ()):
                self._enqueue(tgid)
        if self._rescan_wanted and not self._queue and self._clock() >= self._rescan_from_ns:
            self._begin_rescan()
        fresh: dict[int, None] = {}
        while self._queue and self._clock() < until_ns:
            tgid = next(iter(self._queue))
            del self._queue[tgid]
            if self._look_at(tgid):
                fresh[tgid] = None
        if fresh:
            self._probes.mark_threads()
            now_ns = self._clock()
            told = {tgid: _process_event(tgid, now_ns, self.watched[tgid]) for tgid in fresh if tgid in self.watched}
            self._announced |= told
            self._records += told.values()
        records, self._records = self._records, []
        return records

    def close(self) -> None:
        """Watches nobody any more."""
        for tgid in list(self.watched):
            self._unwatch(tgid)
        self._inspector.close()

    def _begin_rescan(self) -> None:
        self._rescan_wanted = False
        self._rescan_from_ns = self._clock() + _RESCAN_APART_NS
        self.statistics.rescans += 1
        present = set(proc.pids())
        for tgid in self.watched.keys() - present:
            self._unwatch(tgid)
            self._records.append(_event(EventKind.PROCESS_EXIT, tgid, self._clock()))
        if self.watched:
            self._probes.mark_threads()  # a thread that could not be marked when it was made
        # Not by way of _enqueue: there may be more than its limit, and these are all there are.
        self._queue.update(dict.fromkeys(sorted(present)))

    def _enqueue(self, tgid: int) -> None:
        if len(self._queue) < QUEUE_LIMIT:
            self._queue[tgid] = None
        else:
            self._rescan_wanted = True

    def _remember(self, identity: FileIdentity, inspected: Inspected) -> None:
        self.statistics.inspected += 1
        while len(self._binaries) >= BINARY_LIMIT:
            del self._binaries[next(iter(self._binaries))]
        self._binaries[identity] = inspected

    def _look_at(self, tgid: int) -> bool:
        """Whether it is newly watched."""
        self.statistics.looked_at += 1
        try:
            # Most of what starts on a host is this: known, and nothing to us. It takes one system call.
            if self._is_no_concern(proc.executable_identity(tgid)) and tgid not in self.watched:
                return False
            status = proc.status(tgid)
            if self._is_watched_already(status):
                return False
            with proc.open_executable(tgid) as executable:
                if self._is_own(status, executable):
                    return False
                return self._consider(status, executable)
        except ProcessHidden as error:
            self.statistics.hidden += 1
            if self._first_time("hidden"):
                self._log.warning("a process cannot be looked at", error=error)
        except ProcessUnreadable:
            self.statistics.gone += 1
        # One process with which something is wrong must not end the watching of the others.
        except (EnricherError, OSError) as error:
            self.statistics.failed += 1
            if self._first_time(type(error).__name__):
                self._log.warning("a process cannot be watched", pid=tgid, error=error)
        return False

    def _is_no_concern(self, identity: FileIdentity) -> bool:
        selects = self._select.executables or self._select.cgroups
        return not selects and isinstance(self._binaries.get(identity), NotGo)

    def _is_watched_already(self, status: proc.Status) -> bool:
        watched = self.watched.get(status.pid)
        if watched is None:
            return False
        if watched.start_ticks == status.start_ticks and watched.identity == proc.executable_identity(status.pid):
            return True
        self._unwatch(status.pid)
        self._records.append(_event(EventKind.PROCESS_EXIT, status.pid, self._clock()))
        return False

    def _is_own(self, status: proc.Status, executable: Executable) -> bool:
        """Observer, pipeline and supervisor are one interpreter and one family: never watched, whatever is selected."""
        related = status.pid in self._family or status.parent in self._family
        return related and executable.identity == self._own

    def _consider(self, status: proc.Status, executable: Executable) -> bool:
        inspected = self._binaries.get(executable.identity)
        if inspected is None:
            self._have_inspected(status.pid, executable)
            return False
        cgroup = proc.cgroup(status.pid) if self._select.cgroups else ""
        verdict = decide(Candidate(executable.path, cgroup, inspected), self._select)
        flags = 0
        if verdict.watch:
            flags = self._watch(status, executable, inspected)
        if self._first_time((executable.identity, verdict)):
            self._tell(executable, inspected, verdict, flags)
        return verdict.watch

    def _have_inspected(self, tgid: int, executable: Executable) -> None:
        waiting = self._waiting.get(executable.identity)
        if waiting is not None:
            if tgid not in waiting and len(waiting) < QUEUE_LIMIT:
                waiting.append(tgid)
        elif len(self._waiting) < INSPECTION_LIMIT:
            self._waiting[executable.identity] = [tgid]
            self._inspector.submit(executable.identity, executable.fd)
        else:
            self._rescan_wanted = True

    def _watch(self, status: proc.Status, executable: Executable, inspected: Inspected) -> int:
        """Returns the flags. The order is that of `Discovery.step`: uprobe, map, threads, and only then the time from
        which on the evidence is whole."""
        tgid = status.pid
        layout, attached = ProcessLayout(), Attached()
        if isinstance(inspected, GoProgram) and inspected.layout is not None:
            attached = self._attach(executable, inspected)
            layout = replace(inspected.layout, flags=EventFlag.PROCESS_HAS_GOROUTINES | attached.flags)
        if not layout.flags & EventFlag.PROCESS_HAS_SPAN_ENDS and self._probes.has(Probe.HEADERS):
            layout = replace(layout, flags=layout.flags | EventFlag.PROCESS_WANTS_HEADERS)
        try:
            process = ProcessIdentity(
                start_ticks=status.start_ticks,
                inner_pid=proc.inner_pid(tgid),
                container_id=proc.container_id(tgid)[: len(ProcessIdentity().container_id)],
            )
            self._probes.watch(tgid, layout)
            # It may have run another image, or have ended and left its pid to another, since it was looked at.
            if (
                proc.executable_identity(tgid) != executable.identity
                or proc.status(tgid).start_ticks != status.start_ticks
            ):
                raise ImageChanged(f"process {tgid} has changed while it was looked at")
        except EnricherError as error:
            self._probes.unwatch(tgid)
            self._probes.release(attached.places)
            if isinstance(error, MapFull):
                self.statistics.too_many += 1
            if isinstance(error, ImageChanged):
                self._enqueue(tgid)
            raise
        self.watched[tgid] = Watched(status.start_ticks, executable.identity, layout.flags, attached.places, process)
        self.statistics.watched += 1
        return layout.flags

    def _attach(self, executable: Executable, program: GoProgram) -> Attached:
        """The lesser match methods need no probe in the binary, so that one that is refused ends nothing."""
        attached = self._probes.attach(executable.fd, program.targets)
        for error in attached.refused:
            if self._first_time(("attach", executable.identity)):
                self._log.warning("a program cannot be probed", executable=executable.path, error=error)
        return attached

    def _unwatch(self, tgid: int) -> None:
        watched = self.watched.pop(tgid)
        self._announced.pop(tgid, None)
        self._probes.unwatch(tgid)
        self._probes.release(watched.places)

    def _tell(self, executable: Executable, inspected: Inspected, verdict: Verdict, flags: int) -> None:
        """How, once per binary; or why not, where somebody might have expected it."""
        fields: dict[str, object] = {"executable": executable.path, "because": verdict.value}
        if isinstance(inspected, GoProgram):
            fields |= {"go": inspected.go_version, "sdk": inspected.sdk_version}
            if inspected.lacks:
                fields["lacks"] = "; ".join(inspected.lacks)
        elif isinstance(inspected, Uninspected):
            fields["lacks"] = inspected.reason
        if verdict.watch:
            self._log.info("watching a program", **fields, spans=_matched_by(flags))
        elif isinstance(inspected, Uninspected):
            self._log.warning("a program cannot be inspected", **fields)
        elif verdict is not Verdict.NOT_SELECTED:
            self._log.info("not watching a program", **fields)
        else:
            self._log.debug("not watching a program", **fields)


def _matched_by(flags: int) -> str:
    if flags & EventFlag.PROCESS_HAS_SPAN_ENDS:
        return "matched exactly, by their end"
    return "matched by process only"


def _process_event(tgid: int, at_ns: int, watched: Watched) -> Event:
    return replace(_event(EventKind.PROCESS, tgid, at_ns, watched.flags), detail=watched.process.pack())


def _event(kind: EventKind, tgid: int, at_ns: int, flags: int = 0) -> Event:
    return Event(kind=kind, tgid=tgid, start_ns=at_ns, end_ns=at_ns, flags=flags, fd=-1)
