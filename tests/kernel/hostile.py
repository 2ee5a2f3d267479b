"""The program `hostile`, and whatever else is told by lines what to do and answers with lines of JSON."""

import json
import os
import select
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from struct import Struct
from typing import Any, Self

from enricher.evidence.records import EventFlag
from enricher.observer.inspection import GoProgram, Inspector
from enricher.observer.uprobes import ProbePlace
from enricher.processes import proc

from .conftest import DEADLINE_S, Kernel, wait_until

_SOURCES = Path(__file__).parent / "programs"
_A_WHILE_S = 0.02
_USAGE = Struct("=Qiiii")  # struct usage in probes/budget.h


@dataclass(frozen=True)
class Done:
    """`longest_ns`: that one system call took. `note`: what this host does not have."""

    count: int
    longest_ns: int
    note: str


class Obeying:
    """A running program."""

    def __init__(self, path: Path) -> None:
        # The runtime looks for pointers to nowhere, and would end the program for them.
        environment = os.environ | {"GODEBUG": "invalidptr=0"}
        self._process = subprocess.Popen(
            [path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )
        self.pid = self._process.pid

    def ask(self, line: str) -> dict[str, Any]:
        """Its answer."""
        self.tell(line)
        return self.answer()

    def tell(self, line: str) -> None:
        """Without waiting for the answer."""
        assert self._process.stdin
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()

    def answer(self, meanwhile: Callable[[], None] = lambda: None) -> dict[str, Any]:
        """To the line of the last `tell`. `meanwhile` is called again and again until it comes."""
        assert self._process.stdout
        while not select.select([self._process.stdout], [], [], _A_WHILE_S)[0]:
            meanwhile()
        line = self._process.stdout.readline()
        assert line, f"the program has ended with {self._process.wait()}"
        found: dict[str, Any] = json.loads(line)
        return found

    def do(self, command: str, count: int = 0) -> Done:
        """A command of `hostile`."""
        return Done(**self.ask(f"{command} {count}"))

    def end(self) -> None:
        """By force: some of its goroutines may be stuck."""
        self._process.kill()
        self._process.communicate()


@dataclass(frozen=True)
class Used:
    """What a process has of what all share, in entries."""

    goroutines: int
    spans: int
    sleepers: int
    connections: int

    @classmethod
    def by(cls, kernel: Kernel, pid: int) -> Self:
        return cls.of_slot(kernel, kernel.probes.slots.take(pid))

    @classmethod
    def of_slot(cls, kernel: Kernel, slot: int) -> Self:
        value = kernel.probes._maps["usages"].lookup(slot.to_bytes(4, "little"))
        assert value is not None
        _, *entries = _USAGE.unpack(value)
        return cls(*entries)


def goroutine_entries(kernel: Kernel, pid: int) -> int:
    """Those there are of the process: keys are the address of g and the tgid."""
    return sum(key[8:12] == pid.to_bytes(4, "little") for key in kernel.probes._maps["goroutines"])


def build(name: str, directory: Path, *, cgo: bool = False) -> Path:
    built = directory / name
    environment = os.environ | {"CGO_ENABLED": "1" if cgo else "0"}
    command = [os.environ.get("GO", "go"), "build", "-o", built, "."]
    subprocess.run(command, cwd=_SOURCES / name, check=True, env=environment)
    return built


def watch(kernel: Kernel, program: Obeying) -> tuple[ProbePlace, ...]:
    """With every probe there is for it; where those are."""
    with proc.open_executable(program.pid) as executable:
        inspector = Inspector()
        inspector.submit(executable.identity, executable.fd)
        ((_, found),) = wait_until(lambda: list(inspector.results()), "the inspection", 3 * DEADLINE_S)
        inspector.close()
        assert isinstance(found, GoProgram), found
        assert found.layout
        attached = kernel.probes.attach(executable.fd, found.targets)
    assert not attached.refused
    kernel.probes.watch(program.pid, replace(found.layout, flags=EventFlag.PROCESS_HAS_GOROUTINES | attached.flags))
    kernel.probes.mark_threads()
    return attached.places
