"""Processes and their connections, read from /proc and the kernel."""

import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
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


@pytest.mark.skipif(os.geteuid() != 0, reason="a pid namespace takes root")
def test_the_inner_pid_is_that_of_the_innermost_namespace(sleeper: subprocess.Popen[bytes]) -> None:
    assert proc.inner_pid(sleeper.pid) == sleeper.pid
    # Two namespaces, one in the other; the program tells its own pid, and what is seen from outside is its parent's.
    script = ["sh", "-c", "echo $$; exec sleep 60"]
    command = ["unshare", "--pid", "--fork", "--kill-child", *("unshare", "--pid", "--fork", "--kill-child"), *script]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout
        assert process.stdout.readline() == b"1\n"
        outer = child_of(child_of(process.pid))
        assert outer != 1
        assert proc.inner_pid(outer) == 1
        assert proc.inner_pid(child_of(process.pid)) == 1
        process.kill()


def child_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/task/{pid}/children").read_text())


ID = "0123456789abcdef" * 4
OTHER = "f" * 64


@pytest.mark.parametrize(
    ("cgroup", "found"),
    [
        (f"0::/system.slice/docker-{ID}.scope\n", ID),
        (f"12:cpu,cpuacct:/docker/{ID}\n11:memory:/docker/{ID}\n0::/\n", ID),
        (f"0::/kubepods.slice/kubepods-pod1.slice/cri-containerd-{ID}.scope\n", ID),
        (f"0::/kubepods/burstable/pod2f1/{ID}\n", ID),
        (f"0::/kubepods.slice/crio-{ID}.scope/container\n", ID),
        (f"0::/machine.slice/libpod-{ID}.scope/container\n", ID),
        (f"0::/docker/{OTHER}/docker/{ID}/init.scope\n", ID),
        (f"0::/machine.slice/libpod-conmon-{ID}.scope\n", ""),
        (f"0::/app-{ID}0.scope\n", ""),
        (f"0::/user.slice/{ID[:63]}\n", ""),
        ("0::/user.slice/user-1000.slice/session-2.scope\n", ""),
    ],
)
def test_a_container_is_known_by_its_cgroup(files_of: Callable[..., int], cgroup: str, found: str) -> None:
    assert proc.container_id(files_of(cgroup=cgroup)).hex() == found


@pytest.fixture
def files_of(monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """Has the process of the pid returned have this content in /proc."""

    def make(*, cgroup: str) -> int:
        content = {"cgroup": cgroup.encode(), "mountinfo": b""}
        for read in ("_read", "_read_whole"):
            monkeypatch.setattr(proc, read, lambda _, name: content[name])
        return 1

    return make


@pytest.mark.skipif(os.geteuid() != 0, reason="a mount namespace takes root")
@pytest.mark.parametrize(
    ("directory", "mount_point", "found"),
    [
        (f"docker/containers/{ID}", "/etc/hostname", ID),
        (f"storage/overlay-containers/{ID}/userdata", "/etc/hostname", ID),
        (f"sandboxes/{ID}", "/etc/hostname", ""),
        (f"docker/containers/{ID}", "/etc/hosts", ""),
    ],
)
def test_where_the_cgroup_is_hidden_a_container_is_known_by_its_mounts(
    tmp_path: Path, directory: str, mount_point: str, found: str
) -> None:
    file = tmp_path / directory / "hostname"
    file.parent.mkdir(parents=True)
    file.touch()
    # So many that the kernel tells of them in several pieces.
    others = f"for i in $(seq 60); do mkdir {tmp_path}/$i; mount --bind {tmp_path}/$i {tmp_path}/$i; done"
    script = f"{others}; mount --bind {file} {mount_point}; echo; exec sleep 60"
    with subprocess.Popen(["unshare", "--mount", "sh", "-ec", script], stdout=subprocess.PIPE) as process:
        assert process.stdout
        assert process.stdout.readline()
        assert proc.container_id(process.pid).hex() == found
        process.kill()


def test_a_process_in_no_container_has_no_id_of_one(sleeper: subprocess.Popen[bytes]) -> None:
    found = proc.container_id(sleeper.pid)
    assert found == proc.container_id(os.getpid())
    assert len(found) in {0, 32}


def test_a_process_that_ended_is_gone(ended: int) -> None:
    reads: tuple[Callable[[int], object], ...] = (
        *(proc.status, proc.open_executable, proc.executable_identity, proc.cgroup, proc.network_namespace),
        *(proc.inner_pid, proc.container_id),
    )
    for read in reads:
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
