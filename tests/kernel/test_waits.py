"""Blocked system calls, as the probes tell them, against what a Go program did and saw itself."""

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from enricher.evidence.records import (
    OFFSET_NONE,
    Event,
    EventFlag,
    EventKind,
    FdType,
    Peer,
    ProbeCounter,
    ProbeProgram,
    ProcessLayout,
    WaitKind,
)
from enricher.evidence.syscalls import syscall_name
from enricher.golang.binary import inspect
from enricher.observer.probe_set import Probe

from .conftest import Kernel, wait_until

LoadProbes = Callable[..., Kernel]
MS = 1_000_000
# The program's own clock readings lie around the call: they may be this far from the probe's.
NEAR_NS = 2 * MS


@dataclass(frozen=True)
class Done:
    """What the program says of an action."""

    action: str
    goid: int
    parent_goid: int
    start_ns: int
    end_ns: int
    fd: int
    peer: str
    error: str


class Blocker:
    """The running program, watched."""

    def __init__(self, program: Path, lock: Path, kernel: Kernel, flags: EventFlag) -> None:
        self.process = subprocess.Popen([program, lock], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.kernel = kernel
        self.say("pipe_read")  # now it runs: the probe that forgets a process that becomes another program is through
        kernel.probes.watch(self.process.pid, layout_of(program, flags))
        kernel.probes.mark_threads()

    def say(self, line: str) -> Done:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        return Done(**json.loads(self.process.stdout.readline()))

    def waits_of(self, done: Done) -> list[Event]:
        """Its waits that are over, once the one of a later call has come: then there are no more to come."""
        marker = self.say("pipe_read")
        self.kernel.wait_for(lambda event: is_wait(event, marker), "the marker's wait")
        return [event for event in self.kernel.events if is_wait(event, done)]

    def close(self) -> None:
        self.process.communicate()


def is_wait(event: Event, done: Done) -> bool:
    return event.kind is EventKind.WAIT and event.goid == done.goid and event.fd == done.fd


def layout_of(program: Path, flags: EventFlag) -> ProcessLayout:
    binary = inspect(program)
    assert binary is not None
    assert binary.runtime is not None, binary.reasons
    parent = binary.runtime.g_parent_goid
    return ProcessLayout(
        flags=flags,
        g_m=binary.runtime.g_m,
        g_goid=binary.runtime.g_goid,
        g_parent_goid=OFFSET_NONE if parent is None else parent,
        m_curg=binary.runtime.m_curg,
        g_tracking_seq=binary.runtime.g_tracking_seq,
        wait_steps=binary.runtime.wait_steps,
        g_waitreason=binary.runtime.g_waitreason,
    )


@pytest.fixture(scope="session")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    built = tmp_path_factory.mktemp("blocker") / "blocker"
    source = Path(__file__).parent / "programs" / "blocker"
    go = os.environ.get("GO", "go")
    subprocess.run([go, "build", "-o", built, "."], cwd=source, check=True, env=os.environ | {"CGO_ENABLED": "0"})
    return built


@pytest.fixture
def blocker(program: Path, tmp_path: Path, load_probes: LoadProbes) -> Iterator[Blocker]:
    running = Blocker(program, tmp_path / "lock", load_probes(Probe.SYSCALLS), EventFlag.PROCESS_HAS_GOROUTINES)
    yield running
    running.close()


@pytest.mark.parametrize(
    ("action", "call", "kind", "fd_type"),
    [
        ("socket_read", "read", WaitKind.PARKED, FdType.SOCKET),
        ("socket_write", "write", WaitKind.PARKED, FdType.SOCKET),
        ("pipe_read", "read", WaitKind.PARKED, FdType.PIPE),
        ("kernel_pipe_read", "read", WaitKind.KERNEL, FdType.PIPE),
        ("flock", "flock", WaitKind.KERNEL, FdType.FILE),
        ("deadline", "read", WaitKind.PARKED, FdType.SOCKET),
        ("signalled", "flock", WaitKind.KERNEL, FdType.FILE),
    ],
)
def test_a_blocked_call_is_told_with_goroutine_call_kind_descriptor_peer_and_times(
    blocker: Blocker, action: str, call: str, kind: WaitKind, fd_type: FdType
) -> None:
    done = blocker.say(action)
    assert not done.error
    waits = blocker.waits_of(done)
    last = waits[-1]
    assert {event.start_ns for event in waits} == {last.start_ns}  # one wait, however many calls it was made of
    assert syscall_name(last.syscall) == call
    assert (last.wait_kind, last.fd_type, last.error) == (kind, fd_type, 0)
    assert last.parent_goid == done.parent_goid
    assert bool(last.flags & EventFlag.WAIT_FOR_WRITE) == (call == "write")
    assert done.start_ns <= last.start_ns <= done.start_ns + NEAR_NS
    assert done.end_ns - NEAR_NS <= last.end_ns <= done.end_ns
    peer = Peer.unpack(last.detail)
    port = int(done.peer.rpartition(":")[2]) if done.peer else 0
    assert peer.port == port
    assert peer.address[:4] == (bytes([127, 0, 0, 1]) if done.peer else bytes(4))


def test_reads_in_a_loop_with_short_deadlines_are_told_and_never_longer_than_they_were(blocker: Blocker) -> None:
    """As one wait, or as some where the goroutine was preempted between two of them."""
    done = blocker.say("polling")
    assert not done.error
    waits = {event.start_ns: event.end_ns for event in blocker.waits_of(done)}
    assert waits
    assert all(done.start_ns <= start < end <= done.end_ns for start, end in waits.items())


@pytest.mark.parametrize("action", ["sleep", "select_sleep"])
def test_a_sleep_is_no_blocked_call(blocker: Blocker, action: str) -> None:
    done = blocker.say(action)
    assert blocker.waits_of(done) == []
    assert not [event for event in blocker.kernel.events if event.goid == done.goid]


@pytest.mark.parametrize("action", ["abandoned", "late_retry", "late_close"])
def test_a_wait_whose_end_nobody_can_know_is_not_told_but_counted(blocker: Blocker, action: str) -> None:
    done = blocker.say(action)
    assert not done.error
    assert blocker.waits_of(done) == []
    readings = blocker.kernel.probes.counters.readings()
    assert readings[ProbeProgram.SYS_EXIT, ProbeCounter.UNKNOWN_END] == 1


def test_many_short_waits_with_work_between_them_are_not_one_long_wait(blocker: Blocker) -> None:
    done = blocker.say("small_reads")
    told_ns = sum(event.end_ns - event.start_ns for event in blocker.waits_of(done))
    assert told_ns < (done.end_ns - done.start_ns) // 3


def test_a_wait_that_goes_on_is_told_once_while_it_does_and_again_when_it_is_over(blocker: Blocker) -> None:
    fd = blocker.say("going_on").fd

    def going_on(event: Event) -> bool:
        return event.kind is EventKind.WAIT_GOING_ON and event.fd == fd

    def scanned() -> list[Event]:
        blocker.kernel.probes.scan()
        return list(filter(going_on, blocker.kernel.drain()))

    wait_until(scanned, "a wait that goes on")
    told = scanned()
    assert len(told) == 1
    done = blocker.say("go on")
    over = blocker.kernel.wait_for(lambda event: is_wait(event, done), "its end")
    assert [event.start_ns for event in over] == [told[0].start_ns]
    assert done.start_ns <= told[0].start_ns <= done.start_ns + NEAR_NS
    assert told[0].end_ns < over[0].end_ns <= done.end_ns


def test_a_process_that_is_not_watched_tells_nothing(program: Path, tmp_path: Path, load_probes: LoadProbes) -> None:
    kernel = load_probes(Probe.SYSCALLS)
    running = Blocker(program, tmp_path / "lock", kernel, EventFlag.PROCESS_HAS_GOROUTINES)
    kernel.probes.unwatch(running.process.pid)
    kernel.probes.mark_threads()
    running.say("socket_read")
    other = Blocker(program, tmp_path / "other", kernel, EventFlag.PROCESS_HAS_GOROUTINES)
    assert other.waits_of(other.say("socket_read"))
    running.close()
    other.close()
    assert {event.tgid for event in kernel.drain()} == {other.process.pid}


def test_without_a_known_runtime_threads_that_sleep_are_told_without_goroutines(
    program: Path, tmp_path: Path, load_probes: LoadProbes
) -> None:
    kernel = load_probes(Probe.SYSCALLS)
    running = Blocker(program, tmp_path / "lock", kernel, EventFlag(0))
    done = running.say("flock")
    (wait,) = kernel.wait_for(lambda event: syscall_name(event.syscall) == "flock", "the lock's wait")
    assert (wait.goid, wait.wait_kind, wait.fd) == (0, WaitKind.KERNEL, done.fd)
    assert done.start_ns <= wait.start_ns < wait.end_ns <= done.end_ns
    running.close()


def test_waits_shorter_than_the_threshold_never_leave_the_kernel(
    program: Path, tmp_path: Path, load_probes: LoadProbes
) -> None:
    kernel = load_probes(Probe.SYSCALLS, blocked_threshold_ns=60_000 * MS)
    running = Blocker(program, tmp_path / "lock", kernel, EventFlag.PROCESS_HAS_GOROUTINES)
    for action in ("socket_read", "flock", "pipe_read"):
        running.say(action)
    running.close()
    assert kernel.drain() == []
