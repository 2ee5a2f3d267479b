"""Who the workers of the pipeline are, and how each of them is: what the supervisor and they write on the board.

The supervisor says which processes there should be (the roster), each worker every second how it is and what it has
counted. A worker that is dead, or stopped, or hangs, writes nothing: so whoever is asked, of those that live, compares
what there should be with what was heard of lately, and never takes silence for health.
"""

import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any, Final

from enricher.board import Board, Note
from enricher.telemetry import series_json
from enricher.telemetry.metrics import Series

MAX_WORKERS: Final = 64
LIVE_SLOT: Final = 0  # see `live`
ROSTER_SLOT: Final = 1
_FIRST_WORKER_SLOT: Final = 2
# Of each worker two processes may be there at once: one that takes spans, and the one before it that delivers its last.
SLOTS: Final = _FIRST_WORKER_SLOT + 2 * MAX_WORKERS

BEAT_S: Final = 1.0
# Two beats may be missed: on a machine with too much to do a process does not run for a second.
SILENT_AFTER_NS: Final = 3_000_000_000
# A first start from a cold disk takes seconds.
_STARTS_WITHIN_NS: Final = 10_000_000_000


class State(IntEnum):
    """Of a worker, as the tag of its note."""

    STARTING = 1
    SERVING = 2
    ENDING = 3  # takes no more spans, delivers what it has


@dataclass(frozen=True, slots=True)
class Member:
    """A process that there should be."""

    worker: int  # from 0
    slot: int
    pid: int | None  # None: it has died, and is to be started again
    started_ns: int  # CLOCK_MONOTONIC
    ending: bool = False

    @property
    def name(self) -> str:
        return f"{self.worker}-ending" if self.ending else str(self.worker)


@dataclass(frozen=True, slots=True)
class Roster:
    """By the supervisor."""

    members: tuple[Member, ...] = ()
    restarts: Mapping[str, int] = field(default_factory=dict)  # of what died, by "pipeline" and "observer"
    reloads: Mapping[str, int] = field(default_factory=dict)  # of the configuration, by "applied" and "refused"

    def write(self, board: Board) -> None:
        members = [
            [member.worker, member.slot, member.pid, member.started_ns, member.ending] for member in self.members
        ]
        text = json.dumps({"members": members, "restarts": self.restarts, "reloads": self.reloads})
        board.write(ROSTER_SLOT, text.encode())

    @classmethod
    def read(cls, board: Board) -> "Roster":
        """An empty one where there is none, or nothing that can be read."""
        note = board.read(ROSTER_SLOT)
        told: Any = _parsed(note.text) if note else None
        try:
            members = tuple(Member(*member) for member in told["members"])
            return cls(members, dict(told["restarts"]), dict(told["reloads"]))
        except (KeyError, TypeError, ValueError):
            return cls()

    def series(self) -> Iterator[Series]:
        yield Series(
            "process_restarts", "counter", "processes that died and were started again", "process", self.restarts
        )
        yield Series(
            "config_reloads", "counter", "times that the configuration was read again", "outcome", self.reloads
        )


def slot_of(worker: int, start: int) -> int:
    """Of the `start`th process of a worker."""
    return _FIRST_WORKER_SLOT + 2 * worker + start % 2


@dataclass(frozen=True, slots=True)
class Report:
    """By a worker. As text two lines of JSON, the second its series: health is asked for more often than numbers."""

    pid: int
    state: State
    problems: Sequence[str] = ()  # "the policy has died"

    @property
    def serves(self) -> bool:
        return self.state is State.SERVING and not self.problems

    def write(self, board: Board, slot: int, series: Iterable[Series] = ()) -> None:
        """Raises NoteTooLarge."""
        told = json.dumps({"pid": self.pid, "problems": list(self.problems)})
        board.write(slot, f"{told}\n{json.dumps(series_json.plain(series))}".encode(), self.state)

    @classmethod
    def of(cls, note: Note) -> "Report | None":
        """None where it cannot be read."""
        told: Any = _parsed(note.text.partition(b"\n")[0])
        try:
            problems = [str(problem) for problem in told["problems"]]
            return cls(int(told["pid"]), State(note.tag), problems)
        except (KeyError, TypeError, ValueError):
            return None


@dataclass(frozen=True, slots=True)
class Standing:
    """How one worker is."""

    member: Member
    state: State
    problem: str = ""  # "": it does its work
    note: Note | None = None

    @property
    def serves(self) -> bool:
        return not self.problem and self.state is State.SERVING

    def series(self) -> list[Series]:
        """As last told by the process that there should be; none where it has told nothing."""
        try:
            return series_json.parsed(_parsed(self.note.text.partition(b"\n")[2])) if self.note else []
        except ValueError:
            return []


def standings(board: Board, clock_ns: Callable[[], int] = time.monotonic_ns) -> list[Standing]:
    """Of every worker on the roster, by worker."""
    now_ns = clock_ns()
    found = [_standing(member, board.read(member.slot), now_ns) for member in Roster.read(board).members]
    return sorted(found, key=lambda standing: (standing.member.worker, standing.member.ending))


def _standing(member: Member, note: Note | None, now_ns: int) -> Standing:
    if member.pid is None:
        return Standing(member, State.STARTING, "it has died and is to be started again")
    report = Report.of(note) if note else None
    if note is None or report is None or report.pid != member.pid:
        report, note = Report(member.pid, State.STARTING), None
    problem = "; ".join(report.problems)
    heard_ns = note.written_ns if note else member.started_ns + _STARTS_WITHIN_NS
    if now_ns - heard_ns > SILENT_AFTER_NS:
        problem = f"process {member.pid} has not been heard of for {(now_ns - heard_ns) / 1e9:.0f} s"
    elif report.state is State.STARTING and now_ns - member.started_ns > _STARTS_WITHIN_NS:
        problem = problem or f"process {member.pid} does not come to serve spans"
    return Standing(member, report.state, problem, note)


def _parsed(text: bytes) -> object:
    """None where this is no JSON."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None
