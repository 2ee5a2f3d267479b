"""The observer as the process it is: its statuses, its log, its end."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from enricher._native import EvidenceIndex, LogWriter
from enricher.config.model import Ebpf, Probes, Processors, Select, Settings
from enricher.exits import CANNOT_OBSERVE, CANNOT_START

from .conftest import DEADLINE_S, observing, wait_until

LOG_RECORDS = 4096
NO_PRIVILEGE = ("setpriv", "--inh-caps=-all", "--bounding-set=-all")
OTHER_PIDS = ("unshare", "--pid", "--fork", "--mount-proc")


def settings(**ebpf: object) -> Settings:
    return Settings(processors=Processors(ebpf=Ebpf(**ebpf)))  # type: ignore[arg-type]


class Running:
    """One observer and the log it writes."""

    def __init__(self, log_fd: int, configured: Settings, launcher: tuple[str, ...] = ()) -> None:
        command, fds = observing(log_fd)
        self.process = subprocess.Popen(
            [*launcher, *command],
            stdin=subprocess.PIPE,
            stderr=subprocess.PIPE,
            pass_fds=fds,
            text=True,
        )
        assert self.process.stdin
        self.process.stdin.write(configured.to_json())
        self.process.stdin.close()
        self.process.stdin = None

    def end(self, by: signal.Signals = signal.SIGTERM) -> tuple[int, str]:
        self.process.send_signal(by)
        return self.wait()

    def wait(self) -> tuple[int, str]:
        """Its exit status and what it logged."""
        _, logged = self.process.communicate(timeout=DEADLINE_S)
        return self.process.returncode, logged


@pytest.fixture
def log_fd() -> Iterator[int]:
    fd = os.memfd_create("evidence", os.MFD_CLOEXEC)
    LogWriter(fd, LOG_RECORDS)
    yield fd
    os.close(fd)


@pytest.fixture
def index(log_fd: int) -> EvidenceIndex:
    """Forgets processes as soon as they have ended."""
    return EvidenceIndex(log_fd, 1, 1000, 1000)


class Program:
    """A program that nobody else on this machine runs, so that it can be selected alone."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.select = Select(executables=(str(path),))

    @contextmanager
    def run(self) -> Iterator[subprocess.Popen[bytes]]:
        with subprocess.Popen([str(self.path)], stdin=subprocess.PIPE) as process:
            try:
                yield process
            finally:
                process.communicate()


@pytest.fixture
def program(tmp_path: Path) -> Program:
    path = tmp_path / "cat"
    path.write_bytes(Path("/bin/cat").read_bytes())
    path.chmod(0o755)
    return Program(path)


def until_watched(index: EvidenceIndex, process: subprocess.Popen[bytes], after_ns: int = 0) -> None:
    def is_watched() -> bool:
        index.poll()
        found = index.process(process.pid)
        return found is not None and found[0] > after_ns

    wait_until(is_watched, "its being watched")


def until_ended(index: EvidenceIndex, process: subprocess.Popen[bytes]) -> None:
    def is_ended() -> bool:
        index.poll()
        return index.process(process.pid) is None

    wait_until(is_ended, "its end")


@pytest.fixture
def run(log_fd: int) -> Iterator[Callable[..., Running]]:
    started: list[Running] = []

    def one(configured: Settings, launcher: tuple[str, ...] = ()) -> Running:
        started.append(Running(log_fd, configured, launcher))
        return started[-1]

    yield one
    for observer in started:
        if observer.process.poll() is None:
            observer.process.kill()
            observer.process.communicate()


def next_watermark(index: EvidenceIndex) -> int:
    before_ns = index.watermark_ns
    wait_until(lambda: index.poll() >= 0 and index.watermark_ns > before_ns, "a later watermark")
    return index.watermark_ns


def test_the_watermark_goes_on_until_it_is_told_to_end(run: Callable[..., Running], index: EvidenceIndex) -> None:
    observer = run(settings())
    for _ in range(20):
        next_watermark(index)
    assert index.going_on_ns <= index.watermark_ns
    status, logged = observer.end()
    assert status == 0
    assert '"event": "observed"' in logged
    assert "Traceback" not in logged


@pytest.mark.parametrize("by", [signal.SIGINT, signal.SIGHUP])
def test_only_its_parent_ends_it(run: Callable[..., Running], index: EvidenceIndex, by: signal.Signals) -> None:
    observer = run(settings())
    next_watermark(index)
    observer.process.send_signal(by)
    for _ in range(3):
        next_watermark(index)
    assert observer.end()[0] == 0


def test_a_selected_program_is_watched_from_its_start_to_its_end(
    run: Callable[..., Running], index: EvidenceIndex, program: Program
) -> None:
    observer = run(settings(select=program.select))
    next_watermark(index)
    with program.run() as process:
        until_watched(index, process)
    until_ended(index, process)
    status, logged = observer.end()
    assert status == 0
    assert '"event": "watching a program"' in logged
    assert str(program.path) in logged


def test_a_killed_observer_leaves_a_log_that_the_next_one_takes_up(
    run: Callable[..., Running], log_fd: int, program: Program
) -> None:
    index = EvidenceIndex(log_fd, 60_000_000_000, 1000, 1000)
    first = run(settings(select=program.select))
    with program.run() as process:
        until_watched(index, process)
        next_watermark(index)
        first.end(signal.SIGKILL)
        index.poll()
        killed_ns = index.watermark_ns
        second = run(settings(select=program.select))
        resumed_ns = next_watermark(index)
        # What happened in between is said to be lost, and the process to be watched again.
        assert index.lost(killed_ns, killed_ns, process.pid)
        assert index.lost(killed_ns + 1, resumed_ns - 1, process.pid)
        until_watched(index, process, after_ns=killed_ns)
        later_ns = next_watermark(index)
        assert not index.lost(later_ns, later_ns, process.pid)
        assert second.end()[0] == 0


def test_without_privilege_it_ends_with_the_status_that_asks_for_no_restart(run: Callable[..., Running]) -> None:
    status, logged = run(settings(), NO_PRIVILEGE).wait()
    assert status == CANNOT_OBSERVE
    assert "not_permitted" in logged
    assert "Run as root" in logged


def test_without_privilege_what_must_be_on_is_an_error(run: Callable[..., Running]) -> None:
    status, _ = run(settings(probes=Probes(go_sdk="on")), NO_PRIVILEGE).wait()
    assert status == CANNOT_START


def test_in_another_pid_namespace_it_observes_nothing_rather_than_the_wrong(run: Callable[..., Running]) -> None:
    status, logged = run(settings(), OTHER_PIDS).wait()
    assert status == CANNOT_OBSERVE
    assert "hostPID" in logged


def test_with_everything_off_there_is_nothing_to_observe(run: Callable[..., Running]) -> None:
    status, _ = run(settings(probes=Probes(syscalls="off", go_sdk="off", processes="off"))).wait()
    assert status == CANNOT_OBSERVE


def test_without_the_probe_on_system_calls_nobody_counts_as_watched(run: Callable[..., Running]) -> None:
    status, logged = run(settings(probes=Probes(syscalls="off"))).wait()
    assert status == CANNOT_OBSERVE
    assert "without the probe on system calls" in logged


def test_without_the_probe_on_starts_programs_are_found_by_looking(
    run: Callable[..., Running], index: EvidenceIndex, program: Program
) -> None:
    observer = run(settings(probes=Probes(processes="off"), select=program.select))
    next_watermark(index)
    with program.run() as process:
        until_watched(index, process)
    until_ended(index, process)
    assert observer.end()[0] == 0


def test_it_ends_with_its_parent(log_fd: int, index: EvidenceIndex) -> None:
    command, fds = observing(log_fd)
    script = f"""
import os, signal, subprocess, sys
from enricher.privileges import die_with_parent
child = subprocess.Popen({command}, stdin=subprocess.PIPE, pass_fds={fds}, preexec_fn=die_with_parent)
child.stdin.write({settings().to_json().encode()!r})
child.stdin.close()
print(child.pid, flush=True)
sys.stdin.read()
os.kill(os.getpid(), signal.SIGKILL)
"""
    parent = subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, pass_fds=fds, text=True
    )
    assert parent.stdout
    observer = int(parent.stdout.readline())
    next_watermark(index)
    parent.communicate()

    def is_gone() -> bool:
        try:
            os.kill(observer, 0)
        except ProcessLookupError:
            return True
        return False

    wait_until(is_gone, "the observer's end")
