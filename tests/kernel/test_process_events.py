"""The events of processes that begin and end, and what is counted when the ring has no room for them."""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from enricher.evidence.records import RECORD_SIZE, Event, EventKind, ProbeCounter, ProbeProgram, ProcessLayout
from enricher.observer.probe_set import Probe

from .conftest import Kernel, wait_until

LoadProbes = Callable[..., Kernel]


def of(kind: EventKind, tgid: int) -> Callable[[Event], bool]:
    return lambda event: event.kind is kind and event.tgid == tgid


def test_each_program_that_starts_is_told_with_its_pid_and_time(load_probes: LoadProbes) -> None:
    kernel = load_probes(Probe.PROCESSES)
    before_ns = time.monotonic_ns()
    started = [subprocess.Popen(["/bin/true"]) for _ in range(20)]
    for process in started:
        process.wait()
    after_ns = time.monotonic_ns()
    for process in started:
        (event,) = kernel.wait_for(of(EventKind.PROCESS_EXEC, process.pid), "its exec")
        assert before_ns <= event.start_ns == event.end_ns <= after_ns
        assert event.tid == process.pid


def test_a_fork_alone_is_no_start(load_probes: LoadProbes) -> None:
    kernel = load_probes(Probe.PROCESSES)
    shell = subprocess.Popen(["/bin/sh", "-c", "(:)& echo $!; wait"], stdout=subprocess.PIPE, text=True)
    forked = int(shell.communicate()[0])
    kernel.wait_for(of(EventKind.PROCESS_EXEC, shell.pid), "the shell's exec")
    assert not [event for event in kernel.drain() if event.tgid == forked]


def test_the_end_of_a_watched_process_is_told_once(load_probes: LoadProbes) -> None:
    kernel = load_probes(Probe.PROCESSES)
    watched, other = (subprocess.Popen(["/bin/cat"], stdin=subprocess.PIPE) for _ in range(2))
    kernel.probes.watch(watched.pid, ProcessLayout())
    before_ns = time.monotonic_ns()
    for process in (other, watched):
        process.communicate()
    (event,) = kernel.wait_for(of(EventKind.PROCESS_EXIT, watched.pid), "its end")
    assert before_ns <= event.end_ns <= time.monotonic_ns()
    assert not [event for event in kernel.drain() if of(EventKind.PROCESS_EXIT, other.pid)(event)]


def test_the_end_of_one_of_its_threads_is_not_the_end_of_a_process(load_probes: LoadProbes) -> None:
    kernel = load_probes(Probe.PROCESSES)
    script = "import threading; t = threading.Thread(target=int); t.start(); t.join(); print('joined'); input()"
    child = subprocess.Popen(
        [sys.executable, "-c", f"input(); {script}"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert child.stdin
    assert child.stdout
    kernel.probes.watch(child.pid, ProcessLayout())
    child.stdin.write(b"\n")
    child.stdin.flush()
    assert child.stdout.readline() == b"joined\n"
    assert not [event for event in kernel.drain() if of(EventKind.PROCESS_EXIT, child.pid)(event)]
    child.communicate(b"\n")
    kernel.wait_for(of(EventKind.PROCESS_EXIT, child.pid), "its end")


def test_events_that_a_full_ring_has_no_room_for_are_counted(load_probes: LoadProbes) -> None:
    kernel = load_probes(Probe.PROCESSES, ring_bytes=4096)
    room = 4096 // (RECORD_SIZE + 8)
    for _ in range(room + 10):
        subprocess.run(["/bin/true"], check=True)
    before = kernel.probes.slots.newly_lost()[0]
    readings = kernel.probes.counters.readings()
    after = before + kernel.probes.slots.newly_lost().get(0, 0)
    lost = readings[ProbeProgram.PROCESS_EXEC, ProbeCounter.RING_FULL]
    sent = readings[ProbeProgram.PROCESS_EXEC, ProbeCounter.EVENTS]
    # Other programs may start on this machine meanwhile: at least ours were sent or lost, and none was both.
    assert len(kernel.drain()) == sent <= room
    assert lost >= 10
    assert before <= lost <= after


def test_events_of_many_processors_at_once_all_arrive(load_probes: LoadProbes) -> None:
    kernel = load_probes(Probe.PROCESSES)
    pids: list[int] = []

    def start_some() -> None:
        for _ in range(50):
            pid = os.posix_spawn("/bin/true", ["true"], {})
            pids.append(pid)
            os.waitpid(pid, 0)

    threads = [threading.Thread(target=start_some) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    wait_until(
        lambda: {event.tgid for event in kernel.drain() if event.kind is EventKind.PROCESS_EXEC} >= set(pids),
        "an exec event of each process",
    )


@pytest.mark.parametrize("probe", list(Probe))
def test_nothing_is_sent_of_processes_that_are_not_watched(load_probes: LoadProbes, probe: Probe) -> None:
    kernel = load_probes(probe)
    with Path("/dev/urandom").open("rb") as source:
        source.read(4096)
    subprocess.run(["/bin/sleep", "0.02"], check=True)
    assert {event.kind for event in kernel.drain()} <= {EventKind.PROCESS_EXEC}
