"""Calls of clients, as the probe tells them, against the connections that the clients were given."""

import ipaddress
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from enricher.evidence.records import EventFlag, FdType, Peer, ProbeCounter, ProbeProgram
from enricher.observer.probe_set import Probe

from .conftest import Kernel
from .tracer import RELEASES, Call, Tracer, build

LoadProbes = Callable[..., Kernel]
PROBES = (Probe.SYSCALLS, Probe.GO_SDK, Probe.GO_RUNTIME, Probe.GO_NET)


@pytest.fixture(scope="module", params=list(RELEASES))
def program(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(str(request.param), tmp_path_factory.mktemp("tracer"))


@pytest.fixture
def tracer(program: Path, load_probes: LoadProbes) -> Iterator[Tracer]:
    running = Tracer(program, load_probes(*PROBES))
    assert running.flags & EventFlag.PROCESS_HAS_CALLS, running.lacks
    yield running
    running.close()


def text_of(peer: Peer) -> str:
    """As Go writes it."""
    if peer.family == socket.AF_INET:
        return f"{ipaddress.IPv4Address(peer.address[:4])}:{peer.port}"
    return f"[{ipaddress.IPv6Address(peer.address)}]:{peer.port}"


def on_socket(call: Call) -> tuple[int, int, str]:
    return call.goid, call.fd, call.peer


@pytest.mark.parametrize(
    ("action", "multiplexed"),
    [
        ("http1", False),
        ("http1_ipv6", False),
        ("http1_tls", False),
        ("http1_wrapped", False),
        ("http2_tls", True),
        ("grpc", True),
        ("grpc_tls", True),
    ],
)
def test_a_call_is_told_with_goroutine_time_descriptor_and_peer(tracer: Tracer, action: str, multiplexed: bool) -> None:
    done = tracer.do(action)
    told = [event for event in tracer.calls() if not event.flags & EventFlag.CALL_OVER]
    assert done.calls
    for call in done.calls:
        (event,) = [
            event for event in told if call.made[0] <= event.start_ns <= call.made[1] and event.goid == call.goid
        ]
        assert on_socket(call) == (event.goid, event.fd, text_of(Peer.unpack(event.detail)))
        assert event.end_ns == event.start_ns
        assert event.fd_type == FdType.SOCKET
        assert bool(event.flags & EventFlag.CALL_MULTIPLEXED) == multiplexed
    readings = tracer.kernel.probes.counters.readings()
    assert readings[ProbeProgram.CALL, ProbeCounter.READ_FAILED] == 0


def test_a_call_over_a_unix_socket_is_told_with_its_descriptor(tracer: Tracer) -> None:
    (call,) = tracer.do("http1_unix").calls
    (event,) = [event for event in tracer.calls() if event.goid == call.goid and not event.flags & EventFlag.CALL_OVER]
    assert (event.fd, Peer.unpack(event.detail).family) == (call.fd, socket.AF_UNIX)


def test_a_connection_that_cannot_be_followed_is_counted_and_not_guessed(tracer: Tracer) -> None:
    done = tracer.do("http1_hidden")
    assert len(done.calls) == 4
    assert tracer.calls() == []
    readings = tracer.kernel.probes.counters.readings()
    assert readings[ProbeProgram.CALL, ProbeCounter.READ_FAILED] >= 4
    assert tracer.kernel.probes.slots.newly_lost() == {}, tracer.kernel.probes.counters.readings()
