"""What the kernel tests share: compiling small probes and programs, and reading what the probes put into the ring.

The reader of the ring is a second one, in plain Python, so that these tests are about the probes alone.
"""

import ctypes
import functools
import mmap
import os
import shutil
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import pytest

from enricher.board import Board
from enricher.evidence.records import RECORD_SIZE, Event
from enricher.observer.libbpf import Map
from enricher.observer.probe_set import OBJECTS, Probe, ProbeSet
from enricher.workers import SLOTS

SOURCES = Path(__file__).parents[2] / "probes"
DEADLINE_S = 10.0

T = TypeVar("T")

CompileProbe = Callable[[str], Path]
CompileC = Callable[[str], Path]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if os.geteuid() == 0 and Path("/sys/kernel/btf/vmlinux").exists():
        return
    why = pytest.mark.skip(reason="kernel tests load probes: they need root and a kernel with BTF")
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(why)


@functools.cache
def board_fd() -> int:
    """Of a board on which nothing stands: an observer wants one, for the level of its log."""
    return Board.make(SLOTS)[1]


def observing(log_fd: int) -> tuple[list[str], list[int]]:
    """The command that starts an observer, and the descriptors it wants."""
    fds = [log_fd, board_fd()]
    return [sys.executable, "-m", "enricher.observer", "--log-fd", str(fds[0]), "--board-fd", str(fds[1])], fds


def wait_until(condition: Callable[[], T], what: str, deadline_s: float = DEADLINE_S) -> T:
    """What `condition` returns, as soon as that is true."""
    end_s = time.monotonic() + deadline_s
    while True:
        if found := condition():
            return found
        assert time.monotonic() < end_s, f"{what} did not come about within {deadline_s} s"
        time.sleep(0.002)


class RingReader:
    """A BPF ring buffer as the kernel documents it (Documentation/bpf/ringbuf.rst): one page with the consumer's
    position, one with the producer's, then the data, mapped twice."""

    def __init__(self, ring: Map) -> None:
        page = mmap.PAGESIZE
        self._size = ring.max_entries
        self._page = mmap.mmap(ring.fd, page)
        # The kernel reads this at any moment: it has to be written in one store, as struct.pack_into does not.
        self._consumed = ctypes.c_uint64.from_buffer(self._page)
        self._produced = mmap.mmap(ring.fd, page + 2 * self._size, prot=mmap.PROT_READ, offset=page)

    def read(self) -> list[bytes]:
        """Everything committed since the last call."""
        at, end = self._consumed.value, struct.unpack_from("@Q", self._produced)[0]
        records = []
        while at < end:
            start = mmap.PAGESIZE + at % self._size
            (header,) = struct.unpack_from("@I", self._produced, start)
            length = header & 0x3FFFFFFF
            if header & 0x80000000:  # still being written
                break
            if not header & 0x40000000:  # not discarded
                records.append(self._produced[start + 8 : start + 8 + length])
            at += (length + 8 + 7) & ~7
        self._consumed.value = at
        return records

    def close(self) -> None:
        del self._consumed
        self._page.close()
        self._produced.close()


class Kernel:
    """The loaded probes and every event that they have sent so far."""

    def __init__(self, probes: ProbeSet) -> None:
        self.probes = probes
        self.events: list[Event] = []
        self._ring = RingReader(probes.ring)

    def drain(self) -> list[Event]:
        """Every event so far, with those that have come since the last call."""
        records = self._ring.read()
        assert all(len(record) == RECORD_SIZE for record in records)
        self.events += map(Event.unpack, records)
        return self.events

    def wait_for(
        self, chosen: Callable[[Event], bool], what: str, count: int = 1, deadline_s: float = DEADLINE_S
    ) -> list[Event]:
        """The events that `chosen` chooses, once there are `count` of them."""
        return wait_until(
            lambda: found if len(found := list(filter(chosen, self.drain()))) >= count else [],
            f"{count} times {what}",
            deadline_s,
        )

    def close(self) -> None:
        self._ring.close()
        self.probes.close()


@pytest.fixture
def load_probes() -> Iterator[Callable[..., Kernel]]:
    """Loads the probes of this package. Arguments: those of ProbeSet, with the switches as `only`."""
    loaded: list[Kernel] = []

    def load(
        *only: Probe, blocked_threshold_ns: int = 1_000_000, ring_bytes: int = 1 << 20, directory: Path = OBJECTS
    ) -> Kernel:
        wanted = {probe: "on" if probe in only or not only else "off" for probe in Probe}
        probes = ProbeSet(wanted, blocked_threshold_ns=blocked_threshold_ns, ring_bytes=ring_bytes, directory=directory)
        loaded.append(Kernel(probes))
        return loaded[-1]

    yield load
    for kernel in loaded:
        kernel.close()


def _tool(name: str) -> str:
    found = shutil.which(name)
    assert found, f"{name} is needed by the kernel tests: make test installs it"
    return found


@pytest.fixture
def compile_probe(tmp_path: Path) -> CompileProbe:
    """Compiles the source of a probe; `bpf/bpf_helpers.h` and the headers in probes/ are there."""

    def compile_source(source: str) -> Path:
        count = len(list(tmp_path.glob("*.bpf.c")))
        written = tmp_path / f"probe{count}.bpf.c"
        written.write_text(source)
        compiled = written.with_suffix(".o")
        include = [f"-I{SOURCES}", f"-I/usr/include/{os.uname().machine}-linux-gnu"]
        command = [_tool("clang"), "-target", "bpf", "-D__TARGET_ARCH_x86", "-g", "-O2", *include]
        subprocess.run([*command, "-c", str(written), "-o", str(compiled)], check=True)
        return compiled

    return compile_source


@pytest.fixture
def compile_c(tmp_path: Path) -> CompileC:
    """Compiles a C program for this machine."""

    def compile_source(source: str) -> Path:
        count = len(list(tmp_path.glob("*.program.c")))
        written = tmp_path / f"{count}.program.c"
        written.write_text(source)
        compiled = written.with_suffix("")
        subprocess.run([_tool("clang"), "-g", "-O1", "-pthread", str(written), "-o", str(compiled)], check=True)
        return compiled

    return compile_source
