"""The program `tracer`, running and watched with every probe: what it says it did beside what the probes say."""

import json
import os
import subprocess
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

from enricher.evidence.records import Event, EventFlag, EventKind
from enricher.observer.inspection import GoProgram, Inspector
from enricher.processes import proc

from .conftest import DEADLINE_S, Kernel, wait_until

_SOURCE = Path(__file__).parent / "programs" / "tracer"

# The ends of what is supported: with the toolchain, the versions of SDK and clients of its time.
RELEASES = {"go1.21.0": "oldest.mod", "go1.27.4": "go.mod"}

Times = tuple[int, int]


@dataclass(frozen=True)
class Span:
    """Ids in hexadecimal digits; start and end lie between these two readings of the clock each."""

    name: str
    trace_id: str
    span_id: str
    parent_span_id: str
    start: Times
    end: Times
    start_goid: int
    end_goid: int


@dataclass(frozen=True)
class Wait:
    """It lies between the times of `read`. `made`: when its goroutine was made by `maker`, if that tells."""

    name: str
    goid: int
    maker: int
    made: Times
    fd: int
    read: Times


@dataclass(frozen=True)
class Call:
    """`fd` and `peer`, an address and a port or a path, are of the connection that the client was given."""

    name: str
    goid: int
    fd: int
    peer: str
    made: Times


@dataclass(frozen=True)
class Done:
    """What one action did."""

    spans: tuple[Span, ...]
    waits: tuple[Wait, ...]
    calls: tuple[Call, ...]

    def span(self, name: str = "span") -> Span:
        (found,) = [span for span in self.spans if span.name == name]
        return found

    def wait(self, name: str) -> Wait:
        (found,) = [wait for wait in self.waits if wait.name == name]
        return found

    @classmethod
    def of(cls, line: str) -> Self:
        return cls.of_fields(json.loads(line))

    @classmethod
    def of_fields(cls, told: dict[str, Any]) -> Self:
        return cls(
            spans=tuple(Span(**_tupled(span)) for span in told["spans"] or ()),
            waits=tuple(Wait(**_tupled(wait)) for wait in told["waits"] or ()),
            calls=tuple(Call(**_tupled(call)) for call in told["calls"] or ()),
        )


def _tupled(fields: dict[str, object]) -> dict[str, object]:
    return {name: tuple(value) if isinstance(value, list) else value for name, value in fields.items()}


def build(release: str, directory: Path) -> Path:
    built = directory / "tracer"
    environment = os.environ | {"CGO_ENABLED": "0", "GOTOOLCHAIN": release}
    command = [os.environ.get("GO", "go"), "build", f"-modfile={RELEASES[release]}", "-o", built, "."]
    subprocess.run(command, cwd=_SOURCE, check=True, env=environment)
    return built


class Tracer:
    """`flags` are those with which it is watched, `without` those that are left off."""

    def __init__(self, path: Path, kernel: Kernel, without: EventFlag = EventFlag(0)) -> None:  # noqa: B008
        self.kernel = kernel
        self.process = subprocess.Popen([path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.do("end of file")  # it runs: the probe that forgets a process that becomes another program is through
        with proc.open_executable(self.process.pid) as executable:
            program = _inspected(executable)
            attached = kernel.probes.attach(executable.fd, program.targets)
        assert not attached.refused
        assert program.layout
        self.places = attached.places
        self.lacks = program.lacks
        self.flags = (EventFlag.PROCESS_HAS_GOROUTINES | attached.flags) & ~without
        kernel.probes.watch(self.process.pid, replace(program.layout, flags=self.flags))
        kernel.probes.mark_threads()

    def do(self, action: str) -> Done:
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.write(action + "\n")
        self.process.stdin.flush()
        return Done.of(self.process.stdout.readline())

    def ends(self, spans: tuple[Span, ...]) -> dict[str, Event]:
        """The events of their ends, by span id, once all are there."""
        ids = {span.span_id for span in spans}

        def found() -> dict[str, Event]:
            ends = {event.span.span_id.hex(): event for event in self._events(EventKind.SPAN_END)}
            return {span_id: ends[span_id] for span_id in ids} if ids <= ends.keys() else {}

        return wait_until(found, f"the end of {len(ids)} spans")

    def end(self, span: Span) -> Event:
        return self.ends((span,))[span.span_id]

    def wait(self, wait: Wait) -> Event:
        """The event of the wait."""
        return self.waits((wait,))[0]

    def waits(self, waits: tuple[Wait, ...]) -> list[Event]:
        """The events of the waits, in their order."""

        def found() -> list[Event]:
            events = self._events(EventKind.WAIT)
            told = [event for wait in waits for event in events if _is(event, wait)]
            return told if len(told) >= len(waits) else []

        return wait_until(found, f"the waits {[wait.name for wait in waits]}")

    def calls(self) -> list[Event]:
        """The events of calls up to now."""
        done = self.do("ended_twice")
        self.end(done.span())
        return self._events(EventKind.CALL)

    def _events(self, kind: EventKind) -> list[Event]:
        return [event for event in self.kernel.drain() if event.kind is kind and event.tgid == self.process.pid]

    def close(self) -> None:
        self.process.communicate()
        self.kernel.probes.unwatch(self.process.pid)
        self.kernel.probes.release(self.places)


def _is(event: Event, wait: Wait) -> bool:
    inside = wait.read[0] <= event.start_ns < event.end_ns <= wait.read[1]
    return inside and (event.goid, event.fd) == (wait.goid, wait.fd)


def _inspected(executable: proc.Executable) -> GoProgram:
    inspector = Inspector()
    inspector.submit(executable.identity, executable.fd)
    ((_, program),) = wait_until(lambda: list(inspector.results()), "the inspection", 3 * DEADLINE_S)
    inspector.close()
    assert isinstance(program, GoProgram), program
    return program
