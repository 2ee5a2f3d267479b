"""The sockets of a pipeline: nobody else's, one for each worker, and those that are there stay."""

import os
import socket
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from enricher.listening import Kind, Listener, open_all
from enricher.otlp.transport import CannotListenError

SETTING = "receivers.otlp.protocols.grpc.endpoint"


def listener(endpoint: str = "127.0.0.1:0", kind: Kind = "grpc", *, shared: bool = False) -> Listener:
    return Listener(kind, endpoint, SETTING, shared=shared)


@pytest.fixture
def opened() -> Iterator[list[Listener]]:
    """Closed at the end."""
    made: list[Listener] = []
    yield made
    for each in made:
        each.close()


def accepted(fd: int) -> int:
    """How many connections wait there."""
    with socket.socket(fileno=os.dup(fd)) as listening:
        count = 0
        while True:
            try:
                listening.accept()[0].close()
            except BlockingIOError:
                return count
            count += 1


def test_each_worker_gets_a_socket_and_its_share_of_connections(opened: list[Listener]) -> None:
    opened.append(made := listener())
    made.open(3)
    descriptors = [made.descriptors(worker, 3) for worker in range(3)]
    assert [len(each) for each in descriptors] == [1, 1, 1]
    with ExitStack() as stack:
        for _ in range(120):
            stack.enter_context(socket.create_connection(("127.0.0.1", made.port)))
        shares = [accepted(fd) for (fd,) in descriptors]
    assert sum(shares) == 120
    assert min(shares) > 10


def test_with_fewer_workers_than_before_no_socket_is_without_one(opened: list[Listener]) -> None:
    opened.append(made := listener())
    made.open(4)
    four = {fd for worker in range(4) for fd in made.descriptors(worker, 4)}
    made.open(2)
    assert {fd for worker in range(2) for fd in made.descriptors(worker, 2)} == four
    made.open(5)
    five = [fd for worker in range(5) for fd in made.descriptors(worker, 5)]
    assert four < set(five)
    assert Counter(five) == Counter(set(five)), "each is one worker's"


def test_what_is_shared_is_one_socket_that_all_have(opened: list[Listener]) -> None:
    opened.append(made := listener(kind="pages", shared=True))
    made.open(3)
    assert len({tuple(made.descriptors(worker, 3)) for worker in range(3)}) == 1


def test_localhost_is_both_loopbacks_on_one_port(opened: list[Listener]) -> None:
    opened.append(made := listener("localhost:0"))
    made.open(1)
    families = set()
    for fd in made.descriptors(0, 1):
        with socket.socket(fileno=os.dup(fd)) as one:
            assert one.getsockname()[1] == made.port
            families.add(one.family)
    assert socket.AF_INET in families
    socket.create_connection(("127.0.0.1", made.port)).close()


@pytest.mark.parametrize("share", [False, True])
def test_a_port_that_another_listens_on_cannot_be_had_even_if_that_would_share(share: bool) -> None:
    with socket.socket() as other:
        if share:
            other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        other.bind(("127.0.0.1", 0))
        other.listen()
        made = listener(f"127.0.0.1:{other.getsockname()[1]}")
        with pytest.raises(CannotListenError, match="is taken by another program") as refusal:
            made.open(2)
    assert SETTING in refusal.value.fix
    assert made.descriptors(0, 1) == []


def test_two_that_would_both_share_do_not(opened: list[Listener]) -> None:
    opened.append(first := listener())
    first.open(2)
    second = listener(f"127.0.0.1:{first.port}")
    with pytest.raises(CannotListenError, match="is taken by another program"):
        second.open(2)


@pytest.mark.parametrize(
    ("endpoint", "reason"),
    [
        ("nobody.invalid:4317", "no host"),
        ("a..b:4317", "no host"),
        ("192.0.2.1:4317", "Cannot assign requested address"),
        ("unix:///nowhere/at/all.sock", "No such file or directory"),
    ],
)
def test_what_cannot_be_had_says_why_and_what_to_do(endpoint: str, reason: str) -> None:
    with pytest.raises(CannotListenError, match=reason) as refusal:
        listener(endpoint).open(1)
    assert SETTING in refusal.value.fix


def test_a_path_is_shared_and_gone_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "spans.sock"
    made = listener(f"unix://{path}")
    made.open(3)
    assert len({tuple(made.descriptors(worker, 3)) for worker in range(3)}) == 1
    assert path.stat().st_mode & 0o777 == 0o660
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
    assert [entry.name for entry in tmp_path.iterdir()] == ["spans.sock"]
    made.close()
    assert not path.exists()


def test_a_path_left_by_one_that_died_is_taken_over_and_one_in_use_is_not(tmp_path: Path) -> None:
    path = tmp_path / "spans.sock"
    dead = socket.socket(socket.AF_UNIX)
    dead.bind(str(path))
    dead.close()
    made, other = listener(f"unix://{path}"), listener(f"unix://{path}")
    made.open(1)
    with pytest.raises(CannotListenError, match="another program listens there"):
        other.open(1)
    other.close()
    assert path.exists(), "it was none of the other's"
    made.close()


def test_a_file_that_is_no_socket_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "precious"
    path.write_text("content")
    with pytest.raises(CannotListenError, match="no socket"):
        listener(f"unix://{path}").open(1)
    assert path.read_text() == "content"


def test_what_another_has_put_in_its_place_is_not_removed(tmp_path: Path) -> None:
    path = tmp_path / "spans.sock"
    made = listener(f"unix://{path}")
    made.open(1)
    path.unlink()
    path.write_text("content")
    made.close()
    assert path.read_text() == "content"


def test_all_or_none_are_opened_but_optional_ones(opened: list[Listener]) -> None:
    opened.append(there := listener())
    there.open(1)
    taken = f"127.0.0.1:{there.port}"
    optional = Listener("pages", taken, "service.telemetry.metrics.address", shared=True, optional=True)
    first, second = listener(), listener(taken)
    with pytest.raises(CannotListenError):
        open_all([there, first, second], 1)
    assert first.descriptors(0, 1) == []
    assert there.descriptors(0, 1) != [], "it was there before"
    opened.append(first)
    (failed,) = open_all([there, optional, first], 1)
    assert failed.endpoint == taken
    assert first.descriptors(0, 1) != []
