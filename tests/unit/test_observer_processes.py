"""Processes and their connections, read from /proc and the kernel."""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from enricher.processes import proc
from enricher.processes.proc import ProcessGone, ProcessHidden
from enricher.processes.sockets import connections_to


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(["/bin/sleep", "60"]) as process:
        yield process
        process.kill()


@pytest.fixture
def ended() -> int:
    with subprocess.Popen(["/bin/true"]) as process:
        pass
    return process.pid


def test_status_names_parent_and_start(sleeper: subprocess.Popen[bytes]) -> None:
    first, own = proc.status(sleeper.pid), proc.status(os.getpid())
    assert (first.pid, first.parent) == (sleeper.pid, os.getpid())
    assert first.start_ticks >= own.start_ticks > 0
    assert proc.status(sleeper.pid) == first


def test_a_program_may_have_any_name(tmp_path: Path) -> None:
    program = tmp_path / ") R 1 (x"
    program.symlink_to("/bin/sleep")
    with subprocess.Popen([str(program), "60"]) as process:
        try:
            assert proc.status(process.pid).parent == os.getpid()
        finally:
            process.kill()


def test_an_executable_is_found_by_its_content(sleeper: subprocess.Popen[bytes]) -> None:
    with proc.open_executable(sleeper.pid) as executable:
        assert executable.path == str(Path("/bin/sleep").resolve())
        assert executable.identity == proc.executable_identity(sleeper.pid)
        assert os.pread(executable.fd, 4, 0) == b"\x7fELF"
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(executable.fd)


def test_a_deleted_executable_is_still_found(tmp_path: Path) -> None:
    program = tmp_path / "program"
    program.write_bytes(Path("/bin/sleep").read_bytes())
    program.chmod(0o755)
    with subprocess.Popen([str(program), "60"]) as process:
        try:
            program.unlink()
            with proc.open_executable(process.pid) as executable:
                assert executable.path == str(program)
        finally:
            process.kill()


def test_a_process_that_ended_is_gone(ended: int) -> None:
    for read in (proc.status, proc.open_executable, proc.executable_identity, proc.cgroup, proc.network_namespace):
        with pytest.raises(ProcessGone) as gone:
            read(ended)
        assert gone.value.pid == ended
    assert list(proc.socket_inodes(ended, at_most=10)) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="a process that may not be looked at takes another user: needs root")
def test_a_process_of_another_user_is_hidden_from_an_ordinary_one(sleeper: subprocess.Popen[bytes]) -> None:
    script = f"""
import os
from enricher.processes import proc
os.setuid(65534)
try:
    proc.open_executable({sleeper.pid})
except proc.ProcessHidden as error:
    print(error.pid, error.fix)
"""
    # The imports come before the change of user, who may not be let into the directory of this package.
    script = script.replace("from enricher", "import enricher.processes.proc\nfrom enricher", 1)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.startswith(f"{sleeper.pid} Give the observer CAP_SYS_PTRACE")
    assert ProcessHidden.code == "process_hidden"


@pytest.mark.parametrize(
    ("content", "path"),
    [
        ("0::/system.slice/app.service\n", "/system.slice/app.service"),
        ("4:memory:/m\n1:name=systemd:/user.slice\n0::/\n", "/user.slice"),
        ("4:memory:/m\n1:name=systemd:/\n0::/\n", "/m"),
        ("9:cpu:/\n0::/\n", "/"),
        ("0::/a:b\n", "/a:b"),
        ("", "/"),
    ],
)
def test_the_cgroup_of_any_kind_of_host(content: str, path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proc, "_read", lambda _pid, _name: content.encode())
    assert proc.cgroup(1) == path


def test_all_processes_are_listed(sleeper: subprocess.Popen[bytes]) -> None:
    assert {os.getpid(), sleeper.pid} <= set(proc.pids())


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_the_connections_to_a_port(host: str) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((host, 0), family=family) as server:
        port = server.getsockname()[1]
        assert list(connections_to(port)) == []
        with socket.create_connection((host, port)) as client:
            (found,) = connections_to(port)
            assert found.local_port == client.getsockname()[1]
            assert found.local_address == found.remote_address == socket.inet_pton(family, host)
            assert found.inode in proc.socket_inodes(os.getpid(), at_most=10_000)
            assert found.is_loopback
            assert list(connections_to(port, namespace_of=os.getpid())) == [found] if os.geteuid() == 0 else True


def test_an_ipv4_address_in_an_ipv6_socket_is_an_ipv4_address() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, socket.socket(socket.AF_INET6) as client:
        client.connect(("::ffff:127.0.0.1", server.getsockname()[1]))
        (found,) = connections_to(server.getsockname()[1])
        assert found.local_address == socket.inet_aton("127.0.0.1")


def test_more_connections_than_fit_into_one_reply() -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=1024) as server:
        clients = [socket.create_connection(server.getsockname()) for _ in range(500)]
        try:
            found = {connection.local_port for connection in connections_to(server.getsockname()[1])}
            assert found == {client.getsockname()[1] for client in clients}
        finally:
            for client in clients:
                client.close()


def test_no_more_descriptors_are_looked_at_than_allowed() -> None:
    with socket.socket() as one, socket.socket() as two:
        inodes = {os.fstat(made.fileno()).st_ino for made in (one, two)}
        assert inodes <= set(proc.socket_inodes(os.getpid(), at_most=10_000))
        assert list(proc.socket_inodes(os.getpid(), at_most=0)) == []
