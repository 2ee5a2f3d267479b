"""The workers of the pipeline as the supervisor sees them: those in force, those that are to follow, those that end.

A new configuration begins in new processes, beside those in force and on the same sockets. Only when all of them
serve are the ones before asked to end; if one does not come to it, all new ones are given up and nothing has happened.
Where a worker owns a queue on disk two of them cannot stand beside each other: there each ends first and is started
again then, while connections wait.
"""

import os
from collections.abc import Iterator, Sequence
from typing import Final

from enricher.board import Board
from enricher.child import Child
from enricher.config.model import OtlpExporter, Settings
from enricher.deadlines import START_S, WORKER_STOP_S
from enricher.listening import Kind, Listener, bound_by_workers, open_all, wanted_by
from enricher.recording.limit import Limit
from enricher.telemetry.logs import Logger
from enricher.workers import Member, State, slot_of

# How often it is looked whether new workers serve.
POLL_S: Final = 0.05

_Listeners = dict[tuple[Kind, str], Listener]  # by kind and endpoint


class WorkerSet:
    def __init__(self, settings: Settings, board: Board, board_fd: int, log_fd: int, log: Logger) -> None:
        self.settings = settings  # in force, and not those to follow
        self.in_force: list[Child] = []
        self.coming: list[Child] = []
        self.ending: list[Child] = []
        self._board = board
        self._shared_fds = (log_fd, board_fd)
        self._arguments = ("--log-fd", str(log_fd), "--board-fd", str(board_fd))
        self._log = log
        self._listeners: _Listeners = {}
        self._bound_by_workers: frozenset[str] = frozenset()  # endpoints
        self._next_settings = settings
        self._next_listeners = self._listeners
        self._give_up_s = 0.0

    def begin(self, record: Limit | None) -> None:
        """Has them started. `record`: by the one that there then is. Raises CannotListenError."""
        self._next_listeners = self._opened(self.settings)
        self._take_over()
        self.in_force = self._children(self.settings, taken=())
        if record:
            (child,) = self.in_force
            child.arguments = (*child.arguments, *_record_arguments(record))
            child.descriptors = (*child.descriptors, record.fd)

    def started(self, child: Child) -> None:
        """To be called after each start: a recording has one index from its beginning, so it is of the first alone."""
        if "--record-fd" in child.arguments:
            at = child.arguments.index("--record-fd")
            os.close(child.descriptors[-1])
            child.arguments, child.descriptors = child.arguments[:at], child.descriptors[:-1]

    def about_to_start(self, child: Child) -> None:
        """What is on the board afterwards is of the new process."""
        self._board.clear(child.slot)

    def replace(self, settings: Settings, now_s: float) -> None:
        """Begins to. To be called when `settled`. Raises CannotListenError, then nothing has happened."""
        assert self.settled
        self._next_listeners = self._opened(settings)
        self._next_settings = settings
        if _owns_a_queue_on_disk(self.settings) or _owns_a_queue_on_disk(settings):
            self._change_in_place(now_s)
            return
        self.coming = self._children(settings, taken=[child.slot for child in self.in_force])
        self._give_up_s = now_s + START_S

    @property
    def settled(self) -> bool:
        return not self.coming and not self.ending and not any(child.kill_s for child in self.in_force)

    def adopt_if_serving(self, now_s: float) -> bool:
        """True when those that were to follow are in force now."""
        if not self.coming or not all(self._serves(child) for child in self.coming):
            return False
        before, self.in_force, self.coming = self.in_force, self.coming, []
        self._end(before, now_s)
        self._take_over()
        return True

    def abandon_if_late(self, now_s: float) -> bool:
        """True when those that were to follow have been given up now."""
        if not self.coming or now_s < self._give_up_s:
            return False
        self.abandon(now_s)
        return True

    def abandon(self, now_s: float) -> None:
        given_up, self.coming = self.coming, []
        self._end(given_up, now_s)
        self._close_unused(self._next_listeners, self._listeners)

    def has_ended(self, child: Child, status: int) -> bool:
        """Takes note of what was to end. False: it was not, and the caller decides what follows."""
        if child in self.ending:
            self.ending.remove(child)
            if status:
                self._log.error("a worker has not ended well", worker=child.worker, status=status)
            return True
        return False

    def all(self) -> list[Child]:
        return [*self.in_force, *self.coming, *self.ending]

    def members(self) -> Iterator[Member]:
        """For the roster: those to follow are none of it before they are in force."""
        for child in self.in_force:
            yield _member(child)
        for child in self.ending:
            yield _member(child, ending=True)

    def close_sockets(self) -> None:
        for listener in [*self._listeners.values(), *self._next_listeners.values()]:
            listener.close()

    def _change_in_place(self, now_s: float) -> None:
        fresh = self._children(self._next_settings, taken=())
        for child, wanted in zip(self.in_force, fresh, strict=False):
            child.arguments, child.descriptors = wanted.arguments, wanted.descriptors
            child.change(self._next_settings, now_s, now_s + WORKER_STOP_S)
        self._end(self.in_force[len(fresh) :], now_s)
        self.in_force = [*self.in_force[: len(fresh)], *fresh[len(self.in_force) :]]
        self._take_over()

    def _take_over(self) -> None:
        before, self._listeners = self._listeners, self._next_listeners
        self.settings = self._next_settings
        self._bound_by_workers = frozenset(own.endpoint for own in bound_by_workers(self.settings))
        self._close_unused(before, self._listeners)

    def _end(self, children: Sequence[Child], now_s: float) -> None:
        for child in children:
            child.end(now_s + WORKER_STOP_S)
        self.ending += [child for child in children if child.process]

    def _serves(self, child: Child) -> bool:
        note = self._board.read(child.slot)
        return child.process is not None and note is not None and note.tag == State.SERVING

    def _children(self, settings: Settings, taken: Sequence[int]) -> list[Child]:
        count = settings.service.workers
        made = []
        for worker in range(count):
            slot = next(slot for slot in (slot_of(worker, 0), slot_of(worker, 1)) if slot not in taken)
            descriptors = [
                (listener.kind, fd)
                for listener in self._next_listeners.values()
                for fd in listener.descriptors(worker, count)
            ]
            listen = [argument for kind, fd in descriptors for argument in ("--listen", f"{kind}={fd}")]
            made.append(
                Child(
                    "enricher.pipeline",
                    settings,
                    (*self._arguments, "--worker", str(worker), "--slot", str(slot), *listen, *_share_ports(settings)),
                    (*self._shared_fds, *(fd for _, fd in descriptors)),
                    worker=worker,
                    slot=slot,
                )
            )
        return made

    def _opened(self, settings: Settings) -> _Listeners:
        """The sockets that these settings want: those that are there, and others, opened. Raises CannotListenError."""
        for own in bound_by_workers(settings):
            if own.endpoint not in self._bound_by_workers:
                own.open(1)  # fails where another program listens; the workers' own, which share, would not
                own.close()
        wanted = {(listener.kind, listener.endpoint): listener for listener in wanted_by(settings)}
        found = {key: self._listeners.get(key, listener) for key, listener in wanted.items()}
        for failed in open_all(list(found.values()), settings.service.workers):
            self._log.warning("no health, metrics and explanations are served", error=failed)
        return found

    @staticmethod
    def _close_unused(before: _Listeners, now: _Listeners) -> None:
        for key, listener in before.items():
            if key not in now:
                listener.close()


def _member(child: Child, *, ending: bool = False) -> Member:
    return Member(child.worker, child.slot, child.pid, int(child.started_s * 1e9), ending)


def _owns_a_queue_on_disk(settings: Settings) -> bool:
    exporter = settings.exporter
    return isinstance(exporter, OtlpExporter) and exporter.sending_queue.storage is not None


def _share_ports(settings: Settings) -> list[str]:
    return ["--share-ports"] if any(bound_by_workers(settings)) else []


def _record_arguments(record: Limit) -> list[str]:
    """See `pipeline`."""
    for_ns = [] if record.for_ns is None else ["--record-for-ns", str(record.for_ns)]
    return ["--record-fd", str(record.fd), "--record-bytes", str(record.max_bytes), *for_ns]
