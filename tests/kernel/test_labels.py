"""The span that a goroutine's labels name, read when a wait is told."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from enricher.evidence.records import Peer
from enricher.observer.probe_set import Probe

from .conftest import Kernel
from .tracer import RELEASES, Tracer, build

LoadProbes = Callable[..., Kernel]
ID = bytes.fromhex("00f067aa0ba902b7")
NONE = bytes(8)


@pytest.fixture(scope="module", params=list(RELEASES))
def program(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(str(request.param), tmp_path_factory.mktemp("tracer"))


@pytest.fixture
def tracer(program: Path, load_probes: LoadProbes) -> Iterator[Tracer]:
    running = Tracer(program, load_probes(Probe.SYSCALLS))
    yield running
    running.close()


@pytest.mark.parametrize(
    ("labels", "named"),
    [
        ("own", ID),
        ("pyroscope", ID),
        ("datadog", (67667974448284343).to_bytes(8, "big")),
        ("datadog largest", b"\xff" * 8),
        ("all of them", ID),
        ("many", ID),
        ("others", NONE),
        ("too long", NONE),
        ("too large", NONE),
        ("no number", NONE),
        ("empty", NONE),
    ],
)
def test_a_wait_carries_the_span_id_that_the_labels_name(tracer: Tracer, labels: str, named: bytes) -> None:
    done = tracer.do(f"label {labels}")
    events = zip(done.waits, tracer.waits(done.waits), strict=True)
    told = {wait.name: Peer.unpack(event.detail).label for wait, event in events}
    assert told == {"own": named, "own, in the kernel": named, "inherited": named, "none": NONE}


def test_labels_that_lead_nowhere_name_no_span_and_cost_no_wait(tracer: Tracer) -> None:
    done = tracer.do("label garbage")
    assert len(done.waits) == 11
    assert {Peer.unpack(event.detail).label for event in tracer.waits(done.waits)} == {NONE}
    assert tracer.kernel.probes.slots.newly_lost() == {}
