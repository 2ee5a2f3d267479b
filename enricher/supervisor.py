"""Starts the two halves, restarts what dies, stops both: the parent of `enricher run`.

The observer is privileged and speaks to nobody; the pipeline speaks to the network and is privileged to nothing.
What they share is the evidence log, memory made here so that it outlives either: the observer may write it, the
pipeline has a descriptor it can only read.
"""

import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from typing import Literal

from enricher._native import LogWriter
from enricher.config.model import Settings
from enricher.exits import CANNOT_OBSERVE, CANNOT_START
from enricher.privileges import die_with_parent
from enricher.recording.limit import Limit
from enricher.telemetry.logs import Logger, configure, get_logger

# 112 bytes each: 14 MiB, touched only as it fills. At 30,000 spans a second a reader may lag four seconds.
LOG_RECORDS = 131_072

FIRST_DELAY_S = 0.2
LONGEST_DELAY_S = 10.0
STEADY_AFTER_S = 30.0
STOP_DEADLINE_S = 15.0

_ENVIRONMENT = {
    # Each thread of the C library's allocator would otherwise keep an arena of its own.
    "MALLOC_ARENA_MAX": "2",
    # gRPC's own log prints what peers send it, unescaped: a line of our log, or a terminal's control sequence.
    "GRPC_VERBOSITY": "NONE",
}


@dataclass(slots=True)
class Child:
    """One of the two processes: `python -m MODULE --log-fd N ...`, its settings on standard input."""

    module: Literal["enricher.observer", "enricher.pipeline"]
    log_fd: int
    record: Limit | None = None  # of the pipeline's first start only: a recording has one index from its beginning
    process: subprocess.Popen[bytes] | None = None
    started_s: float = 0.0
    delay_s: float = FIRST_DELAY_S
    due_s: float | None = 0.0  # when to start it; None: it runs, or is not to be started again
    starts: int = field(default=0)

    def start(self, settings: bytes, now_s: float) -> None:
        """Raises OSError."""
        self.starts += 1
        record = self.record
        self.process = subprocess.Popen(
            # -P: no module is taken from the folder in which root happened to start this.
            [sys.executable, "-P", "-m", self.module, "--log-fd", str(self.log_fd), *_arguments(record)],
            stdin=subprocess.PIPE,
            pass_fds=[self.log_fd, *([record.fd] if record else [])],
            env=os.environ | _ENVIRONMENT,
            preexec_fn=_begin_child,  # noqa: PLW1509 - this process has one thread
        )
        self.started_s, self.due_s = now_s, None
        if record:
            os.close(record.fd)
            self.record = None
        assert self.process.stdin is not None
        try:
            with self.process.stdin as pipe:
                pipe.write(settings)
        except BrokenPipeError:
            return  # it has died already: seen, and told, when it is reaped

    def schedule(self, now_s: float) -> None:
        """Starts it again: soon if it has run for a while, later each time if it has not."""
        steady = now_s - self.started_s >= STEADY_AFTER_S
        delay_s = FIRST_DELAY_S if steady else self.delay_s
        self.due_s = now_s + delay_s
        self.delay_s = min(delay_s * 2, LONGEST_DELAY_S)


def supervise(settings: Settings, record: Limit | None = None) -> int:
    """Runs until SIGTERM or SIGINT. Returns the exit status: 0, or 1 if it could not start as configured.

    `record`: the pipeline records, as long as it lives.
    """
    _fill_standard_descriptors()
    configure("supervisor", settings.service.telemetry.logs.level)
    signals = {signal.SIGTERM, signal.SIGINT, signal.SIGCHLD, signal.SIGHUP}
    signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    writable, readable = _evidence_log()
    observer = Child("enricher.observer", writable)
    pipeline = Child("enricher.pipeline", readable, record)
    # The pipeline first: spans flow whatever becomes of the observer, and are last to be stopped.
    return _Supervisor([pipeline, observer], settings.to_json().encode(), signals, get_logger()).run()


def _arguments(record: Limit | None) -> list[str]:
    """For the pipeline; see there."""
    if not record:
        return []
    for_ns = [] if record.for_ns is None else ["--record-for-ns", str(record.for_ns)]
    return ["--record-fd", str(record.fd), "--record-bytes", str(record.max_bytes), *for_ns]


def _fill_standard_descriptors() -> None:
    """Puts /dev/null where one of the three is closed: another file would be opened in its place, and be written to."""
    while (opened := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(opened, True)
    os.close(opened)


def _begin_child() -> None:
    """Runs in the child before its program."""
    die_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to the whole group; the parent decides the order
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def _evidence_log() -> tuple[int, int]:
    """Descriptors of the log: for the writer, and for readers. 0600: no reader can open it anew to write."""
    writable = os.memfd_create("enricher-evidence", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.fchmod(writable, 0o600)
    LogWriter(writable, LOG_RECORDS)
    return writable, os.open(f"/proc/self/fd/{writable}", os.O_RDONLY | os.O_CLOEXEC)


class _Supervisor:
    def __init__(self, children: list[Child], settings: bytes, signals: set[signal.Signals], log: Logger) -> None:
        self._children = children
        self._settings = settings
        self._signals = signals
        self._log = log

    def run(self) -> int:
        while True:
            now_s = time.monotonic()
            for child in self._children:
                if child.due_s is not None and child.due_s <= now_s:
                    self._start(child, now_s)
            if (status := self._wait()) is not None:
                self._stop()
                return status

    def _start(self, child: Child, now_s: float) -> None:
        try:
            child.start(self._settings, now_s)
        except OSError as error:  # no process or memory to be had, or the interpreter is being replaced
            child.schedule(now_s)
            self._log.error("process cannot be started", module=child.module, error=error)

    def _wait(self) -> int | None:
        """Until a signal comes or a child is due. Returns the exit status when it is time to end."""
        due = [child.due_s for child in self._children if child.due_s is not None]
        timeout_s = max(0.0, min(due) - time.monotonic()) if due else 3600.0
        received = signal.sigtimedwait(self._signals, timeout_s)
        if received is None:
            return None
        if received.si_signo in (signal.SIGTERM, signal.SIGINT):
            return 0
        if received.si_signo == signal.SIGHUP:
            self._log.warning("SIGHUP ignored: the configuration is read at start only")
            return None
        for child in self._children:
            status = child.process.poll() if child.process else None
            if status is not None and self._has_ended(child, status):
                return 1
        return None

    def _has_ended(self, child: Child, status: int) -> bool:
        """Decides what follows. True: everything is to end."""
        now_s = time.monotonic()
        child.process = None
        if status == CANNOT_START and child.starts == 1:
            return True  # it has said why
        if status == CANNOT_OBSERVE:
            self._log.warning("nothing is observed: spans pass through untouched; run `enricher doctor`")
            return False
        child.schedule(now_s)
        how = f"signal {-status}" if status < 0 else f"status {status}"
        self._log.error(
            "process ended, starting it again",
            module=child.module,
            how=how,
            ran_s=round(now_s - child.started_s, 3),
            in_s=round((child.due_s or now_s) - now_s, 3),
        )
        return False

    def _stop(self) -> None:
        """One after the other: the pipeline hands on what it holds while the observer still watches."""
        deadline_s = time.monotonic() + STOP_DEADLINE_S
        for child in self._children:
            if not child.process or child.process.poll() is not None:
                continue
            child.process.terminate()
            try:
                child.process.wait(max(0.1, deadline_s - time.monotonic()))
            except subprocess.TimeoutExpired:
                self._log.error("process does not stop, killed", module=child.module)
                child.process.kill()
                child.process.wait()
