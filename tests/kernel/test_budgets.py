"""What all processes share, each has a share of: who takes more loses it, and nobody else loses anything."""

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from enricher.evidence.records import RECORD_SIZE, Event, EventKind, ProbeCounter, ProbeProgram, ProcessLayout
from enricher.observer import probe_set
from enricher.observer.probe_set import Probe

from .conftest import CompileC, Kernel, wait_until
from .header_traffic import Watched
from .hostile import Obeying, Used, build, goroutine_entries, watch

LoadProbes = Callable[..., Kernel]
PROBES = (Probe.SYSCALLS, Probe.GO_SDK, Probe.GO_RUNTIME)
RING_BYTES = 65_536
ROOM = RING_BYTES // (RECORD_SIZE + 8)  # records that the ring holds
NEVER_PAID_NS = 1_000_000_000_000


@pytest.fixture(scope="session")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build("hostile", tmp_path_factory.mktemp("hostile"))


@pytest.fixture
def start(path: Path) -> Iterator[Callable[[Kernel], Obeying]]:
    """A program that runs and is watched."""
    running: list[tuple[Kernel, Obeying]] = []

    def one(kernel: Kernel) -> Obeying:
        program = Obeying(path)
        running.append((kernel, program))
        program.do("end")  # it runs: the probe that forgets a process that becomes another program is through
        watch(kernel, program)
        return program

    yield one
    for kernel, program in running:
        program.end()
        kernel.probes.unwatch(program.pid)


def of(kind: EventKind, program: Obeying) -> Callable[[Event], bool]:
    return lambda event: event.kind is kind and event.tgid == program.pid


def count(kernel: Kernel, kind: EventKind, program: Obeying) -> int:
    return sum(map(of(kind, program), kernel.drain()))


def test_goroutines_beyond_the_share_are_the_losses_of_their_process(
    load_probes: LoadProbes, start: Callable[[Kernel], Obeying], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probe_set, "_MOST_GOROUTINES", 50)
    kernel = load_probes(*PROBES)
    greedy, modest = start(kernel), start(kernel)
    greedy.do("park", 200)
    assert goroutine_entries(kernel, greedy.pid) == Used.by(kernel, greedy.pid).goroutines == 50
    lost = kernel.probes.slots.newly_lost()
    assert lost.keys() == {greedy.pid}
    assert lost[greedy.pid] >= 150
    assert kernel.probes.counters.readings()[ProbeProgram.SYS_EXIT, ProbeCounter.OVER_BUDGET] == lost[greedy.pid]
    modest.do("park", 40)
    assert 40 <= goroutine_entries(kernel, modest.pid) == Used.by(kernel, modest.pid).goroutines <= 50
    assert modest.pid not in kernel.probes.slots.newly_lost()


def test_what_a_process_had_is_free_again_when_it_is_gone(
    load_probes: LoadProbes, start: Callable[[Kernel], Obeying]
) -> None:
    kernel = load_probes(*PROBES)
    program = start(kernel)
    program.do("park", 500)
    program.do("open", 300)
    slot = kernel.probes.slots.take(program.pid)
    used = Used.of_slot(kernel, slot)
    assert used.goroutines >= 500
    assert used.spans == 300
    program.end()
    kernel.probes.unwatch(program.pid)
    kernel.probes.scan()
    assert goroutine_entries(kernel, program.pid) == 0
    assert Used.of_slot(kernel, slot) == Used(0, 0, 0, 0)


def test_spans_beyond_the_share_are_told_without_their_start_and_said_to_be_lost(
    load_probes: LoadProbes, start: Callable[[Kernel], Obeying], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probe_set, "_MOST_SPANS", 10)
    kernel = load_probes(*PROBES)
    greedy, modest = start(kernel), start(kernel)
    greedy.do("open", 100)
    assert Used.by(kernel, greedy.pid).spans == 10
    assert kernel.probes.slots.newly_lost() == {greedy.pid: 90}
    modest.do("open", 10)
    greedy.do("end")
    modest.do("end")
    ends = kernel.wait_for(of(EventKind.SPAN_END, greedy), "span end", 100)
    assert sum(bool(event.start_ns) for event in ends) == 10
    assert all(event.start_ns for event in kernel.wait_for(of(EventKind.SPAN_END, modest), "span end", 10))
    assert Used.by(kernel, greedy.pid).spans == Used.by(kernel, modest.pid).spans == 0
    assert greedy.do("open", 10)
    assert kernel.probes.slots.newly_lost() == {}


def test_one_process_gets_half_of_the_ring_at_once_and_leaves_the_rest(
    load_probes: LoadProbes, start: Callable[[Kernel], Obeying], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probe_set, "_EVENT_APART_NS", NEVER_PAID_NS)
    kernel = load_probes(*PROBES, ring_bytes=RING_BYTES)
    greedy, modest = start(kernel), start(kernel)
    for program, spans in ((greedy, 1000), (modest, 100)):
        program.do("open", spans)
        program.do("end")
    lost = kernel.probes.slots.newly_lost()
    assert lost.keys() == {greedy.pid}
    assert count(kernel, EventKind.SPAN_END, modest) == 100
    sent = count(kernel, EventKind.SPAN_END, greedy)
    assert sent + lost[greedy.pid] == 1000
    assert ROOM // 2 - 2 <= sent <= ROOM // 2 + 2


def test_many_greedy_processes_together_leave_room_for_a_modest_one(
    load_probes: LoadProbes, start: Callable[[Kernel], Obeying], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probe_set, "_EVENT_APART_NS", NEVER_PAID_NS)
    kernel = load_probes(*PROBES, ring_bytes=RING_BYTES)
    greedy, modest = [start(kernel) for _ in range(6)], start(kernel)
    for program in (*greedy, *greedy):
        program.do("open", 200)
        program.do("end")
    modest.do("open", 3)
    modest.do("end")
    assert kernel.probes.slots.newly_lost().keys() == {program.pid for program in greedy}
    assert count(kernel, EventKind.SPAN_END, modest) == 3


def test_waits_leave_room_for_the_ends_of_spans(
    load_probes: LoadProbes, start: Callable[[Kernel], Obeying], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probe_set, "_EVENT_APART_NS", NEVER_PAID_NS)
    kernel = load_probes(*PROBES, ring_bytes=RING_BYTES, blocked_threshold_ns=1)
    program = start(kernel)
    program.do("park", 1000)
    kernel.probes.scan()
    lost = kernel.probes.slots.newly_lost()
    assert lost.keys() == {program.pid}
    assert count(kernel, EventKind.WAIT_GOING_ON, program) > ROOM // 3
    program.do("open", 20)
    program.do("end")
    assert count(kernel, EventKind.SPAN_END, program) == 20


def test_waits_that_go_on_and_could_not_be_told_are_told_later(
    load_probes: LoadProbes, start: Callable[[Kernel], Obeying]
) -> None:
    kernel = load_probes(*PROBES, ring_bytes=RING_BYTES, blocked_threshold_ns=1)
    program = start(kernel)
    program.do("park", 1000)

    def told() -> bool:
        kernel.probes.scan()
        return len({event.goid for event in filter(of(EventKind.WAIT_GOING_ON, program), kernel.drain())}) >= 1000

    assert not told()
    assert kernel.probes.slots.newly_lost().keys() == {program.pid}
    wait_until(told, "the report of every goroutine")
    kernel.probes.slots.newly_lost()
    assert told()
    assert kernel.probes.slots.newly_lost() == {}


def test_threads_asleep_beyond_the_share_are_the_losses_of_their_process(
    load_probes: LoadProbes, compile_c: CompileC, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probe_set, "_MOST_SLEEPERS", 10)
    program = compile_c(
        """
        #include <pthread.h>
        #include <stdio.h>
        #include <unistd.h>
        #define THREADS 50
        static int ends[2];
        static void *sleep_in_read(void *unused) { char c; return (void *)read(ends[0], &c, 1); }
        int main(void) {
            pthread_t threads[THREADS];
            char bytes[THREADS];
            if (pipe(ends)) return 1;
            puts("ready");
            fflush(stdout);
            while (read(0, bytes, 1) == 1) {
                for (int i = 0; i < THREADS; i++) pthread_create(&threads[i], NULL, sleep_in_read, NULL);
                if (read(0, bytes, 1) != 1 || write(ends[1], bytes, THREADS) != THREADS) return 1;
                for (int i = 0; i < THREADS; i++) pthread_join(threads[i], NULL);
                puts("over");
                fflush(stdout);
            }
            return 0;
        }
        """
    )
    kernel = load_probes(Probe.SYSCALLS)
    with subprocess.Popen([program], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin
        assert process.stdout
        assert process.stdout.readline() == b"ready\n"
        kernel.probes.watch(process.pid, ProcessLayout())
        kernel.probes.mark_threads()
        lost = 0

        def beyond() -> bool:
            nonlocal lost
            newly = kernel.probes.slots.newly_lost()
            assert newly.keys() <= {process.pid}
            lost += newly.get(process.pid, 0)
            return lost >= 40

        for _ in range(3):
            lost = 0
            process.stdin.write(b"x")
            process.stdin.flush()
            wait_until(beyond, "the loss of 40 sleeping threads")
            assert Used.by(kernel, process.pid).sleepers == 10
            process.stdin.write(b"x")
            process.stdin.flush()
            assert process.stdout.readline() == b"over\n"
            # Only the main thread may be asleep now.
            assert 0 <= Used.by(kernel, process.pid).sleepers <= 1
        process.stdin.close()


def test_connections_beyond_the_share_are_the_losses_of_their_process(
    load_probes: LoadProbes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probe_set, "_MOST_CONNECTIONS", 10)
    kernel = load_probes(Probe.HEADERS)
    watched = Watched(kernel)
    body = b"POST / HTTP/1.1\r\nContent-Length: 5\r\n\r\n"
    connections = [watched.connect() for _ in range(8)]  # each has two ends
    for connection in connections:
        connection.carry(body)
    assert watched.kept() == Used.by(kernel, os.getpid()).connections == 10
    assert kernel.probes.slots.newly_lost() == {os.getpid(): 6}
    for connection in connections:
        connection.carry(b"12345")
    assert watched.kept() == Used.by(kernel, os.getpid()).connections == 0
    connections[-1].carry(body)
    assert watched.kept() == Used.by(kernel, os.getpid()).connections == 2
    connections[-1].close()
    assert watched.kept() == Used.by(kernel, os.getpid()).connections == 0
    assert kernel.probes.slots.newly_lost() == {}
    watched.close()
