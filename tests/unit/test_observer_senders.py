"""Whose the connections to the receiver are."""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Self

import pytest

from enricher.evidence.records import Event, EventKind
from enricher.observer.senders import Senders
from enricher.processes import proc

CLIENT = """
import socket, sys
made = socket.create_connection((sys.argv[1], int(sys.argv[2])))
print(made.getsockname()[1], flush=True)
for line in sys.stdin:
    made.close()
    print("closed", flush=True)
"""


class Client:
    """Another process with a connection to `address`."""

    def __init__(self, host: str, port: int, *launcher: str) -> None:
        command = [*launcher, sys.executable, "-c", CLIENT, host, str(port)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.pid = self.process.pid
        self.port = int(self._line())

    def _line(self) -> str:
        assert self.process.stdout
        return self.process.stdout.readline()

    def disconnect(self) -> None:
        assert self.process.stdin
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        assert self._line() == "closed\n"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.communicate()


@pytest.fixture
def server() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as made:
        yield made


def told(events: list[Event]) -> list[tuple[int, str, int]]:
    assert all(event.kind is EventKind.SENDER for event in events)
    return [
        (event.tgid, socket.inet_ntop(event.peer.family, event.peer.address[: 4 if event.peer.family == 2 else 16]),
         event.peer.port)
        for event in events
    ]  # fmt: skip


def test_a_connection_is_told_once_and_again_when_it_is_over(server: socket.socket) -> None:
    host, port = server.getsockname()
    senders = Senders([(host, port)])
    with Client(host, port) as client, Client(host, port) as other:
        assert told(senders.poll([client.pid], 1)) == [(client.pid, host, client.port)]
        assert senders.poll([client.pid], 2) == []
        # Another process comes to be watched, whose connection was nobody's until now.
        assert told(senders.poll([client.pid, other.pid], 3)) == [(other.pid, host, other.port)]
        assert set(told(senders.known(3))) == {(client.pid, host, client.port), (other.pid, host, other.port)}
        client.disconnect()
        assert told(senders.poll([client.pid, other.pid], 4)) == [(0, host, client.port)]
        assert senders.poll([client.pid, other.pid], 5) == []


def test_the_end_of_a_connection_comes_before_the_new_one_on_its_port(server: socket.socket) -> None:
    host, port = server.getsockname()
    senders = Senders([(host, port)])
    with Client(host, port) as first, Client(host, port) as second:
        senders.poll([first.pid], 1)
        first.disconnect()
        assert told(senders.poll([first.pid, second.pid], 2)) == [
            (0, host, first.port),
            (second.pid, host, second.port),
        ]


def test_a_connection_to_another_address_than_the_receivers_is_none_of_its(server: socket.socket) -> None:
    host, port = server.getsockname()
    with Client(host, port) as client:
        assert Senders([("127.0.0.2", port)]).poll([client.pid], 1) == []
        for same in (host, "localhost", "0.0.0.0", "[::]"):
            assert told(Senders([(same, port)]).poll([client.pid], 1)) == [(client.pid, host, client.port)]


def test_a_process_that_is_gone_has_no_connections(server: socket.socket) -> None:
    host, port = server.getsockname()
    with Client(host, port) as client:
        pass
    assert Senders([(host, port)]).poll([client.pid], 1) == []


ELSEWHERE = """
import fcntl, socket, struct, sys
with socket.socket() as made:
    fcntl.ioctl(made, 0x8914, struct.pack("16sH14x", b"lo", 1))  # SIOCSIFFLAGS: up
    address = socket.inet_aton(sys.argv[1])
    fcntl.ioctl(made, 0x8916, struct.pack("16sHH4s8x", b"lo", socket.AF_INET, 0, address))  # SIOCSIFADDR
server = socket.create_server((sys.argv[1], 0))
client = socket.create_connection(server.getsockname())
print(server.getsockname()[1], client.getsockname()[1], flush=True)
sys.stdin.read()
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="a network namespace of its own takes root")
@pytest.mark.parametrize(("address", "is_found"), [("127.0.0.1", False), ("10.9.8.7", True)])
def test_connections_in_other_network_namespaces_are_found_but_for_loopback(address: str, is_found: bool) -> None:
    command = ["unshare", "--net", sys.executable, "-c", ELSEWHERE, address]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as elsewhere:
        assert elsewhere.stdout
        port, client_port = map(int, elsewhere.stdout.readline().split())
        own = proc.network_namespace(os.getpid())
        assert proc.network_namespace(elsewhere.pid) != own
        # 127.0.0.1 there is another machine than 127.0.0.1 here.
        expected = [(elsewhere.pid, address, client_port)] if is_found else []
        assert told(Senders([("0.0.0.0", port)]).poll([elsewhere.pid], 1)) == expected
        assert proc.network_namespace(os.getpid()) == own
        elsewhere.communicate()


@pytest.mark.skipif(os.geteuid() != 0, reason="a pid namespace of its own takes root")
def test_processes_in_other_pid_namespaces_are_known_by_our_pid_of_them(server: socket.socket) -> None:
    host, port = server.getsockname()
    with Client(host, port, "unshare", "--pid", "--fork") as client:
        children = Path(f"/proc/{client.pid}/task/{client.pid}/children").read_text().split()
        assert told(Senders([(host, port)]).poll([int(pid) for pid in children], 1)) == [
            (int(children[0]), host, client.port)
        ]
