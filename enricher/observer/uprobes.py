"""Probes inside Go programs: one for each instruction, however many processes run the program."""

import os
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum

from enricher.errors import EnricherError
from enricher.evidence.records import EventFlag
from enricher.observer.libbpf import Link, Program

# Device and inode of a binary, and the offset in it.
ProbePlace = tuple[int, int, int]

_COOKIE_MULTIPLEXED = 1 << 16  # in probes/connections.bpf.c, as the next one
_COOKIE_OVER = 1 << 17


class Uprobe(StrEnum):
    """A program that is attached to instructions, by its name in the object file."""

    SPAN_END = "span_end"
    SPAN_START = "span_start"
    GOROUTINE_MADE = "goroutine_made"
    GOROUTINE_EXIT = "goroutine_exit"
    CONNECTION_CALL = "connection_call"


@dataclass(frozen=True, slots=True)
class UprobeTarget:
    """An instruction to be probed: by which program, where in the file, and what the program has to know of it."""

    uprobe: Uprobe
    file_offset: int
    cookie: int = 0


def connection_cookie(connection_offset: int, *, multiplexed: bool, over: bool = False) -> int:
    """The cookie for CONNECTION_CALL. `connection_offset`: bytes, below 65536."""
    return connection_offset | (_COOKIE_MULTIPLEXED if multiplexed else 0) | (_COOKIE_OVER if over else 0)


def maker_cookie(probed_at: int, makes_nobodys: tuple[int, int] | None) -> int:
    """The cookie for GOROUTINE_MADE: `makes_nobodys`, address and size of a function whose goroutines are nobody's, as
    seen from the instruction that is probed, since where a program is loaded is known only when it runs."""
    if makes_nobodys is None:
        return 0
    address, size = makes_nobodys
    return (address - probed_at) & 0xFFFFFFFF | min(size, 0xFFFFFFFF) << 32


_NOTHING = EventFlag(0)


@dataclass(frozen=True, slots=True)
class Attached:
    """What came of an attachment. `flags`: PROCESS_HAS_SPAN_ENDS and others, for what is probed now; `places`: to be
    given back to `Uprobes.release`; `refused`: why the rest is not."""

    places: tuple[ProbePlace, ...] = ()
    flags: EventFlag = _NOTHING
    refused: tuple[EnricherError, ...] = ()


# Each with what it says of a process and what it needs: without the end of a span its start is of no use, and without
# starts nobody knows who is inside a span.
_ORDER = (
    (Uprobe.SPAN_END, EventFlag.PROCESS_HAS_SPAN_ENDS, _NOTHING),
    (Uprobe.SPAN_START, EventFlag.PROCESS_HAS_SPAN_STARTS, EventFlag.PROCESS_HAS_SPAN_ENDS),
    (Uprobe.GOROUTINE_MADE, EventFlag.PROCESS_HAS_LINEAGE, EventFlag.PROCESS_HAS_SPAN_STARTS),
    (Uprobe.GOROUTINE_EXIT, EventFlag.PROCESS_HAS_EXITS, EventFlag.PROCESS_HAS_LINEAGE),
    (Uprobe.CONNECTION_CALL, EventFlag.PROCESS_HAS_CALLS, _NOTHING),
)


@dataclass(slots=True)
class _Used:
    link: Link
    users: int = 0


class Uprobes:
    """Those that are attached, each with how many processes use it."""

    def __init__(self, programs: Mapping[Uprobe, Program]) -> None:
        """`programs`: those that are loaded."""
        self._programs = programs
        self._used: dict[ProbePlace, _Used] = {}

    @property
    def places(self) -> frozenset[ProbePlace]:
        """Where there is a probe now."""
        return frozenset(self._used)

    def attach(self, fd: int, targets: Iterable[UprobeTarget]) -> Attached:
        """Probes an open binary, as far as may be: of the targets of one program all are probed, or none."""
        found = os.fstat(fd)
        wanted = tuple(targets)
        places: list[ProbePlace] = []
        flags = _NOTHING
        refused: list[EnricherError] = []
        for uprobe, says, needs in _ORDER:
            program = self._programs.get(uprobe)
            chosen = [target for target in wanted if target.uprobe is uprobe]
            if program is None or not chosen or needs & ~flags:
                continue
            taken: list[ProbePlace] = []
            try:
                for target in chosen:
                    place = (found.st_dev, found.st_ino, target.file_offset)
                    self._take(program, fd, place, target)
                    taken.append(place)
            except EnricherError as error:
                refused.append(error)
                self.release(taken)
                continue
            places += taken
            flags |= says
        return Attached(tuple(places), flags, tuple(refused))

    def release(self, places: Iterable[ProbePlace]) -> None:
        """Detaches with the last process: a probe holds the binary's file system, which could not be unmounted."""
        unused: list[Link] = []
        for place in places:
            used = self._used[place]
            used.users -= 1
            if used.users == 0:
                del self._used[place]
                unused.append(used.link)
        if unused:
            # The kernel waits 0.1 s for its own readers before it is done with a uprobe (measured, Linux 6.18).
            threading.Thread(target=_close, args=(unused,), name="detach").start()

    def close(self) -> None:
        """Detaches everything."""
        _close([used.link for used in self._used.values()])
        self._used.clear()

    def _take(self, program: Program, fd: int, place: ProbePlace, target: UprobeTarget) -> None:
        if place not in self._used:
            link = program.attach_uprobe(f"/proc/self/fd/{fd}", target.file_offset, cookie=target.cookie)
            self._used[place] = _Used(link)
        self._used[place].users += 1


def _close(links: Iterable[Link]) -> None:
    for link in links:
        link.close()
