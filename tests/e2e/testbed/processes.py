"""A started program, its output, its descendants; and waiting for a condition instead of for a time."""

import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

T = TypeVar("T")

POLL_S = 0.02
START_DEADLINE_S = 30.0
STOP_DEADLINE_S = 30.0


class DeadlinePassedError(AssertionError):
    """What was waited for has not come in time."""


def wait_until(condition: Callable[[], T | None], what: str, deadline_s: float = 20.0) -> T:
    """The first true value of the condition. Raises DeadlinePassedError with `what` and the last value."""
    end = time.monotonic() + deadline_s
    while True:
        if value := condition():
            return value
        if time.monotonic() > end:
            raise DeadlinePassedError(f"{what}: not within {deadline_s:g} s, last: {value!r}")
        time.sleep(POLL_S)


def free_port() -> int:
    """A TCP port of 127.0.0.1 that nobody listens on now; only for programs that cannot choose one themselves."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def is_listening(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 0.2).close()
    except OSError:
        return False
    return True


def pinned_to(cores: Sequence[int] | None) -> list[str]:
    """What to put before a command so that it and its children run on these cores only."""
    return ["taskset", "-c", ",".join(map(str, cores))] if cores is not None else []


class Program:
    """A process of ours. Its standard error goes into a file, whose end is part of every failure.

    Takes lines on its standard input and answers each by a line of JSON, if it is one that does so.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        log: Path,
        *,
        environment: Mapping[str, str] | None = None,
        cores: Sequence[int] | None = None,
        pass_fds: Sequence[int] = (),
    ) -> None:
        self.name = name
        self.log = log
        self._log_at = log.stat().st_size if log.exists() else 0
        with log.open("ab") as errors:
            self._process = subprocess.Popen(
                [*pinned_to(cores), *command],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                env=dict(environment) if environment is not None else None,
                pass_fds=pass_fds,
            )

    def __enter__(self) -> Self:
        """Waits until it is ready; one that does not become so is ended."""
        try:
            self._become_ready()
        except BaseException:
            self.stop()
            raise
        return self

    def _become_ready(self) -> None:
        """For programs that have to be waited for."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def status(self) -> int | None:
        """Exit status, None while it runs."""
        return self._process.poll()

    def complaint(self, what: str) -> str:
        tail = self.log.read_text(errors="replace")[-4000:] if self.log.exists() else ""
        return f"{self.name} (pid {self.pid}, status {self.status}): {what}\n{tail}"

    def answer(self) -> dict[str, Any]:
        """The next line of JSON on its standard output; the shape is the program's."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, self.complaint("has ended instead of answering")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def ask(self, command: str) -> dict[str, Any]:
        assert self._process.stdin is not None
        self._process.stdin.write(command + "\n")
        self._process.stdin.flush()
        return self.answer()

    def feed(self, text: str) -> None:
        """Writes to its standard input, and ends it."""
        assert self._process.stdin is not None
        self._process.stdin.write(text)
        self._process.stdin.close()

    def wait_listening(self, port: int) -> None:
        def listening() -> bool:
            assert self.status is None, self.complaint("has ended before it listened")
            return is_listening(port)

        try:
            wait_until(listening, f"{self.name} listens on {port}", START_DEADLINE_S)
        except DeadlinePassedError as error:
            raise DeadlinePassedError(self.complaint(str(error))) from error

    def wait_said(self, text: str) -> None:
        """Until it has written this into its log."""

        def said() -> bool:
            assert self.status is None, self.complaint(f"has ended before it said {text!r}")
            return text.encode() in self.log.read_bytes()[self._log_at :]

        wait_until(said, f"{self.name} says {text!r}", START_DEADLINE_S)

    def finish(self) -> None:
        """Ends its standard input and waits: for programs that then end by themselves, with status 0."""
        _, _ = self._process.communicate(timeout=STOP_DEADLINE_S)
        assert self.status == 0, self.complaint("has not ended well")

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def stop(self) -> None:
        """SIGTERM, and SIGKILL if that has no effect; nothing if it has ended."""
        if self.status is None:
            self._process.terminate()
            try:
                self._process.wait(STOP_DEADLINE_S)
            except subprocess.TimeoutExpired:
                self.kill()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()


def children(pid: int) -> list[int]:
    """Living children of the process, whatever thread of it started them."""
    pids = [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]
    return [member for member in pids if (fields := stat_fields(member)) and int(fields[1]) == pid]


def tree(pid: int) -> list[int]:
    """The process and all its living descendants."""
    found = [pid]
    for member in found:
        found += children(member)
    return found


def stat_fields(pid: int) -> list[str]:
    """Fields of /proc/PID/stat from the third (state) on; empty if the process has gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return []


def command_line(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
    except (FileNotFoundError, ProcessLookupError):
        return []


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
