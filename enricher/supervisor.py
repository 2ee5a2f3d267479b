"""Starts the processes, restarts what dies, stops all: the parent of `enricher run`.

The observer is privileged and speaks to nobody; the workers of the pipeline speak to the network and are privileged
to nothing. What they share is made here, so that it outlives any of them: the evidence log, which the observer may
write and workers have a descriptor they can only read; the board, on which workers say how they are; and the sockets
that they listen on.
"""

import os
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Final

from enricher._native import LogWriter
from enricher.board import Board
from enricher.child import Child
from enricher.config.model import Settings
from enricher.config.problems import ConfigError
from enricher.config.reload import changed_parts
from enricher.deadlines import OBSERVER_STOP_S, WORKER_STOP_S
from enricher.errors import EnricherError
from enricher.exits import CANNOT_OBSERVE, CANNOT_START
from enricher.live import Live, LiveSettings
from enricher.recording.limit import Limit
from enricher.storage_directory import prepare
from enricher.telemetry.logs import configure, get_logger, set_level
from enricher.worker_set import POLL_S, WorkerSet
from enricher.workers import SLOTS, Roster

# 112 bytes each: 14 MiB, touched only as it fills. At 30,000 spans a second a reader may lag four seconds.
LOG_RECORDS: Final = 131_072

_LONGEST_WAIT_S: Final = 3600.0
_SIGNALS: Final = frozenset({signal.SIGTERM, signal.SIGINT, signal.SIGCHLD, signal.SIGHUP})


def supervise(settings: Settings, record: Limit | None = None, read_again: Callable[[], Settings] | None = None) -> int:
    """Runs until SIGTERM or SIGINT. Returns the exit status: 0, or 1 if it could not start as configured.

    `record`: the pipeline records, as long as it lives; it has one worker then. `read_again` gives the settings at
    SIGHUP, or raises ConfigError; None: they do not change.
    """
    if record:
        settings = replace(settings, service=replace(settings.service, workers=1))
    _fill_standard_descriptors()
    configure("supervisor", settings.service.telemetry.logs.level)
    signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    supervisor = _Supervisor(settings, read_again)
    try:
        supervisor.begin(record)
    except EnricherError as error:
        get_logger().error("cannot start", error=error)
        return 1
    return supervisor.run()


def _fill_standard_descriptors() -> None:
    """Puts /dev/null where one of the three is closed: another file would be opened in its place, and be written to."""
    while (opened := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(opened, True)
    os.close(opened)


def _evidence_log() -> tuple[int, int]:
    """Descriptors of the log: for the writer, and for readers. 0600: no reader can open it anew to write."""
    writable = os.memfd_create("enricher-evidence", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.fchmod(writable, 0o600)
    LogWriter(writable, LOG_RECORDS)
    return writable, _read_only(writable)


def _read_only(fd: int) -> int:
    """Another descriptor of the same memory."""
    return os.open(f"/proc/self/fd/{fd}", os.O_RDONLY | os.O_CLOEXEC)


class _Supervisor:
    def __init__(self, settings: Settings, read_again: Callable[[], Settings] | None) -> None:
        self._log = get_logger()
        self._settings = settings
        self._read_again = read_again
        self._to_follow: Settings | None = None  # for which new workers are being started
        self._reload_asked = False
        writable, readable = _evidence_log()
        self._board, board_fd = Board.make(SLOTS)
        self._live = LiveSettings(self._board)
        readable_board = _read_only(board_fd)
        arguments = ("--log-fd", str(writable), "--board-fd", str(readable_board))
        self._observer = Child("enricher.observer", settings, arguments, (writable, readable_board))
        self._workers = WorkerSet(settings, self._board, board_fd, readable, self._log)
        self._restarts: Counter[str] = Counter(pipeline=0, observer=0)
        self._reloads: Counter[str] = Counter(applied=0, refused=0)
        self._told: Roster | None = None

    def begin(self, record: Limit | None) -> None:
        """Raises CannotListenError, StorageUnusable."""
        prepare(self._settings)
        self._workers.begin(record)
        self._set_live(self._settings)

    def run(self) -> int:
        while True:
            self._turn(time.monotonic())
            if (status := self._wait()) is not None:
                self._stop()
                return status

    def _turn(self, now_s: float) -> None:
        # The pipeline first: spans flow whatever becomes of the observer, and are last to be stopped.
        for child in self._children():
            if child.kill_if_late(now_s):
                self._log.error("process does not stop, killed", child=child.name, pid=child.pid)
            if child.due_s is not None and child.due_s <= now_s:
                self._start(child, now_s)
        if self._to_follow:
            if self._workers.adopt_if_serving(now_s):
                self._apply(self._to_follow, now_s)
            elif self._workers.abandon_if_late(now_s):
                self._refuse("its workers do not come to serve spans")
        if self._reload_asked and self._workers.settled and self._to_follow is None:
            self._reload_asked = False
            self._reload(now_s)
        self._tell()

    def _children(self) -> Iterable[Child]:
        return (*self._workers.all(), self._observer)

    def _start(self, child: Child, now_s: float) -> None:
        if child is not self._observer:
            self._workers.about_to_start(child)
        try:
            child.start(now_s)
        except OSError as error:  # no process or memory to be had, or the interpreter is being replaced
            child.schedule(now_s)
            self._log.error("process cannot be started", child=child.name, error=error)
            return
        self._workers.started(child)

    def _wait(self) -> int | None:
        """Until a signal comes or something is due. Returns the exit status when it is time to end."""
        received = signal.sigtimedwait(_SIGNALS, self._timeout_s())
        if received is None:
            return None
        if received.si_signo in (signal.SIGTERM, signal.SIGINT):
            return 0
        if received.si_signo == signal.SIGHUP:
            self._reload_asked = True
            return None
        for child in self._children():
            status = child.ended()
            if status is not None and self._has_ended(child, status):
                return 1
        return None

    def _timeout_s(self) -> float:
        if self._workers.coming:
            return POLL_S
        times = [at for child in self._children() for at in (child.due_s, child.kill_s) if at is not None]
        return max(0.0, min(min(times, default=float("inf")) - time.monotonic(), _LONGEST_WAIT_S))

    def _has_ended(self, child: Child, status: int) -> bool:
        """Decides what follows. True: everything is to end."""
        now_s = time.monotonic()
        if self._workers.has_ended(child, status):
            return False
        if child in self._workers.coming:
            self._workers.abandon(now_s)
            self._refuse("a worker has ended before it served spans; it has said why")
            return False
        if child.changing:
            child.changing, child.due_s = False, now_s
            return False
        if status == CANNOT_START and child.starts == 1:
            if not child.go_back(now_s):
                return True  # it has said why
            if child is not self._observer:
                self._workers.settings = child.settings
            self._refuse(f"the {child.name} cannot start with it, and goes back to the one before")
            return False
        if status == CANNOT_OBSERVE:
            self._log.warning("nothing is observed: spans pass through untouched; run `enricher doctor`")
            return False
        child.schedule(now_s)
        self._restarts[child.name] += 1
        how = f"signal {-status}" if status < 0 else f"status {status}"
        self._log.error(
            "process ended, starting it again",
            child=child.name,
            worker=child.worker,
            how=how,
            ran_s=round(now_s - child.started_s, 3),
            in_s=round((child.due_s or now_s) - now_s, 3),
        )
        return False

    def _reload(self, now_s: float) -> None:
        if self._read_again is None:
            self._log.warning("SIGHUP ignored: the configuration does not change while spans are recorded")
            return
        try:
            settings = self._read_again()
            parts = changed_parts(self._settings, settings)
            if parts & {"pipeline", "workers"}:
                prepare(settings)
                self._workers.replace(settings, now_s)
        except ConfigError as error:
            for problem in error.problems:
                self._log.error(
                    "the configuration is wrong",
                    key=problem.key,
                    line=problem.line,
                    file=problem.source,
                    error=problem.message,
                )
            self._refuse("it is wrong")
            return
        except EnricherError as error:
            self._log.error("the configuration cannot be applied", error=error)
            self._refuse("it cannot be applied")
            return
        if self._workers.coming:
            self._to_follow = settings
            self._log.info("configuration read again, starting workers", changed=sorted(parts))
        else:
            self._apply(settings, now_s)

    def _apply(self, settings: Settings, now_s: float) -> None:
        """Of a new configuration all that is not the workers', which have it."""
        before, self._settings, self._to_follow = self._settings, settings, None
        parts = changed_parts(before, settings)
        if "observer" in parts:
            self._observer.change(settings, now_s, now_s + OBSERVER_STOP_S)
        if "live" in parts:
            self._set_live(settings)
        for child in (*self._workers.in_force, self._observer):
            child.settings = settings  # for when they are started again
        self._reloads["applied"] += 1
        self._log.info("configuration applied", changed=sorted(parts))

    def _refuse(self, why: str) -> None:
        self._to_follow = None
        self._settings = self._workers.settings
        self._reloads["refused"] += 1
        self._log.error("configuration refused, the one before stays in force", why=why)

    def _set_live(self, settings: Settings) -> None:
        level = settings.service.telemetry.logs.level
        set_level(level)
        self._live.set(lambda _: Live(log_level=level, sampling=settings.sampling))

    def _tell(self) -> None:
        """How it stands, on the board, if that has changed."""
        roster = Roster(tuple(self._workers.members()), dict(self._restarts), dict(self._reloads))
        if roster != self._told:
            roster.write(self._board)
            self._told = roster

    def _stop(self) -> None:
        """One after the other: the pipeline hands on what it holds while the observer still watches."""
        self._workers.close_sockets()  # who comes now is to be refused, and not to wait
        self._end(self._workers.all(), WORKER_STOP_S)
        self._end([self._observer], OBSERVER_STOP_S)

    def _end(self, children: Iterable[Child], within_s: float) -> None:
        deadline_s = time.monotonic() + within_s
        for child in children:
            child.end(deadline_s)
        for child in children:
            if not child.process:
                continue
            try:
                child.process.wait(max(0.1, deadline_s - time.monotonic()))
            except subprocess.TimeoutExpired:
                self._log.error("process does not stop, killed", child=child.name, pid=child.pid)
                child.process.kill()
                child.process.wait()
