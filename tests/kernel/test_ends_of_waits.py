"""How the call ended that a goroutine waited in: with something to read, or with nothing more to come."""

from collections.abc import Callable
from pathlib import Path

import pytest

from enricher.evidence.records import EventFlag
from enricher.observer.probe_set import Probe

from .conftest import Kernel
from .tracer import RELEASES, Tracer, build


@pytest.mark.parametrize("release", list(RELEASES))
def test_a_wait_that_the_other_end_ended_by_closing_says_so(
    release: str, tmp_path: Path, load_probes: Callable[..., Kernel]
) -> None:
    tracer = Tracer(build(release, tmp_path), load_probes(Probe.SYSCALLS))
    told = {}
    for action in ("end of file", "more to come"):
        done = tracer.do(action)
        for wait, event in zip(done.waits, tracer.waits(done.waits), strict=True):
            told[action, wait.name] = bool(event.flags & EventFlag.WAIT_END_OF_FILE)
    tracer.close()
    assert told == {
        ("end of file", "socket"): True,
        ("end of file", "pipe"): True,
        ("more to come", "socket"): False,
        ("more to come", "datagram"): False,
    }
