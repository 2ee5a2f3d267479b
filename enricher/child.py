"""A process of `enricher run`: started with its settings on standard input, started again when it dies."""

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, Literal

from enricher.config.model import Settings
from enricher.privileges import die_with_parent

Module = Literal["enricher.observer", "enricher.pipeline"]

FIRST_DELAY_S: Final = 0.2
LONGEST_DELAY_S: Final = 10.0
STEADY_AFTER_S: Final = 30.0

_ENVIRONMENT: Final = {
    # Each thread of the C library's allocator would otherwise keep an arena of its own.
    "MALLOC_ARENA_MAX": "4",
    # gRPC's own log prints what peers send it, unescaped: a line of our log, or a terminal's control sequence.
    "GRPC_VERBOSITY": "NONE",
}


@dataclass(slots=True)
class Child:
    """`python -m MODULE ARGUMENTS`, of which `descriptors` are inherited."""

    module: Module
    settings: Settings
    arguments: Sequence[str] = ()
    descriptors: Sequence[int] = ()
    worker: int = 0  # of the pipeline: which
    slot: int = 0  # of the board, as above
    process: subprocess.Popen[bytes] | None = None
    started_s: float = 0.0
    delay_s: float = FIRST_DELAY_S
    due_s: float | None = 0.0  # when to start it; None: it runs, or is not to be started again
    starts: int = field(default=0)  # with these settings
    before: Settings | None = None  # those to go back to if it cannot start with these
    kill_s: float | None = None  # it has been asked to end by then
    changing: bool = False  # and is to be started again at once

    @property
    def name(self) -> str:
        """For the metrics and logs."""
        return self.module.removeprefix("enricher.")

    @property
    def pid(self) -> int | None:
        return self.process.pid if self.process else None

    def start(self, now_s: float) -> None:
        """Raises OSError."""
        self.starts += 1
        self.process = subprocess.Popen(
            # -P: no module is taken from the folder in which root happened to start this.
            [sys.executable, "-P", "-m", self.module, *self.arguments],
            stdin=subprocess.PIPE,
            pass_fds=self.descriptors,
            env=os.environ | _ENVIRONMENT,
            preexec_fn=_begin,  # noqa: PLW1509 - this process has one thread
        )
        self.started_s, self.due_s = now_s, None
        assert self.process.stdin is not None
        try:
            with self.process.stdin as pipe:
                pipe.write(self.settings.to_json().encode())
        except BrokenPipeError:
            return  # it has died already: seen, and told, when it is reaped

    def ended(self) -> int | None:
        """Its exit status, once; None while it runs or where there is none."""
        status = self.process.poll() if self.process else None
        if status is not None:
            self.process = self.kill_s = None
        return status

    def schedule(self, now_s: float) -> None:
        """Starts it again: soon if it has run for a while, later each time if it has not."""
        steady = now_s - self.started_s >= STEADY_AFTER_S
        delay_s = FIRST_DELAY_S if steady else self.delay_s
        self.due_s = now_s + delay_s
        self.delay_s = min(delay_s * 2, LONGEST_DELAY_S)

    def end(self, kill_s: float) -> None:
        """Asks it to end; it is to be killed at `kill_s` if it has not."""
        self.due_s = None
        if self.process and self.kill_s is None:
            self.kill_s = kill_s
            self.process.terminate()

    def kill_if_late(self, now_s: float) -> bool:
        """True if it has been killed now."""
        if not self.process or self.kill_s is None or now_s < self.kill_s:
            return False
        self.kill_s = float("inf")
        self.process.kill()
        return True

    def change(self, settings: Settings, now_s: float, kill_s: float) -> None:
        """Ends it, and has it started with other settings as soon as it has ended."""
        self.before, self.settings, self.starts = self.settings, settings, 0
        self.end(kill_s)
        self.changing = self.process is not None
        if not self.changing:
            self.due_s = now_s

    def go_back(self, now_s: float) -> bool:
        """Has it started with the settings before; False where there are none."""
        if self.before is None:
            return False
        self.settings, self.before, self.due_s = self.before, None, now_s
        return True


def _begin() -> None:
    """Runs in the child before its program."""
    die_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to the whole group; the parent decides the order
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
