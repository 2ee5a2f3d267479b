"""One process, read from /proc. Processes come and go: whatever is read here may be gone the next moment."""

# ruff: noqa: PTH115, PTH116, PTH208 - this runs for each process that starts on the host, where Path takes as long as
# the system call itself

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import ClassVar, Self

from enricher.errors import EnricherError

_LONGEST_FILE = 65536  # of those read here; a page, and long cgroup paths
_LONGEST_TABLE = 1 << 20

# Docker, containerd, CRI-O and Podman name the cgroup of a container by its id, be it alone or in the name of a systemd
# scope: docker-ID.scope, cri-containerd-ID.scope, crio-ID.scope, libpod-ID.scope. The scope crio-conmon-ID is of the
# program that looks after the container.
_CONTAINER_CGROUP = re.compile(rb"/(?!(?:crio|libpod)-conmon-)(?:[a-z-]+-)?([0-9a-f]{64})(?:\.scope)?(?=[/\n]|$)")
# Where the cgroup namespace hides that: what is mounted as /etc/hostname lies in a directory of the container.
_CONTAINER_MOUNT = re.compile(
    rb"^(?:\S+ ){3}\S*/(?:overlay-)?containers/([0-9a-f]{64})/\S* /etc/hostname ", re.MULTILINE
)


class ProcessUnreadable(EnricherError):
    """What was asked of the process cannot be told, for the reason that the subclass gives."""

    def __init__(self, message: str, pid: int, *, fix: str = "") -> None:
        super().__init__(message, fix=fix)
        self.pid = pid


class ProcessGone(ProcessUnreadable):
    """There is no such process any more, or it has no executable: it is a zombie or of the kernel."""

    code: ClassVar[str] = "process_gone"


class ProcessHidden(ProcessUnreadable):
    """The kernel does not show this process to us: we may not ptrace it."""

    code: ClassVar[str] = "process_hidden"


@dataclass(frozen=True, slots=True)
class Status:
    """Of /proc/PID/stat. A pid and `start_ticks` together name a process for as long as the machine runs."""

    pid: int
    parent: int
    start_ticks: int  # since boot, in clock ticks


@dataclass(frozen=True, slots=True)
class FileIdentity:
    """Which content a file is, as far as the file system tells."""

    device: int
    inode: int
    modified_ns: int
    size: int


class Executable:
    """The open executable of a process; a context manager that closes it.

    `path` is as the process sees it, in its own mount namespace.
    """

    __slots__ = ("fd", "identity", "path")

    def __init__(self, fd: int, path: str, identity: FileIdentity) -> None:
        self.fd = fd
        self.path = path
        self.identity = identity

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self.fd)


def pids() -> Iterator[int]:
    """All processes that there are now."""
    for name in os.listdir("/proc"):
        if name.isdecimal():
            yield int(name)


def status(pid: int) -> Status:
    """Raises ProcessUnreadable."""
    # The name of the program stands in parentheses and may hold any character, also ")".
    fields = _read(pid, "stat").rpartition(b")")[2].split()
    try:
        return Status(pid, int(fields[1]), int(fields[19]))
    except (IndexError, ValueError) as error:
        raise ProcessGone(f"process {pid} is gone", pid) from error


def open_executable(pid: int) -> Executable:
    """Also from other mount namespaces, and where the file was deleted or replaced. Raises ProcessUnreadable."""
    link = f"/proc/{pid}/exe"
    try:
        path = os.readlink(link)
        fd = os.open(link, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise _unreadable(pid, error) from error
    return Executable(fd, path.removesuffix(" (deleted)"), _identity(os.fstat(fd)))


def executable_identity(pid: int) -> FileIdentity:
    """Without opening it. Raises ProcessUnreadable."""
    try:
        return _identity(os.stat(f"/proc/{pid}/exe"))
    except OSError as error:
        raise _unreadable(pid, error) from error


def cgroup(pid: int) -> str:
    """The path in the unified hierarchy; where that says nothing, in systemd's, else in any.

    Raises ProcessUnreadable.
    """
    paths: dict[str, str] = {}
    for line in _read(pid, "cgroup").decode(errors="surrogateescape").splitlines():
        controllers, _, path = line.partition(":")[2].partition(":")
        if path != "/":
            paths[controllers] = path
    return paths.get("") or paths.get("name=systemd") or next(iter(paths.values()), "/")


def inner_pid(pid: int) -> int:
    """What the process itself takes for its pid: that in the innermost of its pid namespaces.

    Raises ProcessUnreadable.
    """
    found = re.search(rb"^NSpid:.*\s(\d+)$", _read(pid, "status"), re.MULTILINE)
    return int(found[1]) if found else pid


def container_id(pid: int) -> bytes:
    """The 32 bytes that are written as 64 hexadecimal digits; none if it is in no container.

    Docker, containerd, CRI-O and Podman are known. Of containers in a container it is the innermost. Raises
    ProcessUnreadable.
    """
    ids = _CONTAINER_CGROUP.findall(_read(pid, "cgroup")) or _CONTAINER_MOUNT.findall(_read_whole(pid, "mountinfo"))
    return bytes.fromhex(ids[-1].decode()) if ids else b""


def network_namespace(pid: int) -> int:
    """The inode of the namespace. Raises ProcessUnreadable."""
    try:
        return os.stat(f"/proc/{pid}/ns/net").st_ino
    except OSError as error:
        raise _unreadable(pid, error) from error


def socket_inodes(pid: int, *, at_most: int) -> Iterator[int]:
    """Of the sockets that the process has open, among its first `at_most` descriptors. Ends early if it is gone."""
    directory = f"/proc/{pid}/fd"
    try:
        with os.scandir(directory) as entries:
            for _, entry in zip(range(at_most), entries, strict=False):
                try:
                    target = os.readlink(f"{directory}/{entry.name}")
                except OSError:  # closed meanwhile
                    continue
                if target.startswith("socket:["):
                    yield int(target[8:-1])
    except OSError:
        return


def _identity(found: os.stat_result) -> FileIdentity:
    return FileIdentity(found.st_dev, found.st_ino, found.st_mtime_ns, found.st_size)


def _unreadable(pid: int, error: OSError) -> ProcessUnreadable:
    if isinstance(error, PermissionError):
        return ProcessHidden(
            f"process {pid} cannot be looked at: {error.strerror}",
            pid,
            fix="Give the observer CAP_SYS_PTRACE and every capability that the process has",
        )
    return ProcessGone(f"process {pid} is gone", pid)


def _read_whole(pid: int, name: str) -> bytes:
    """For files of several records, of which the kernel gives a page at a time."""
    try:
        with open(f"/proc/{pid}/{name}", "rb") as file:  # noqa: PTH123 - as above
            return file.read(_LONGEST_TABLE)
    except OSError as error:
        raise _unreadable(pid, error) from error


def _read(pid: int, name: str) -> bytes:
    try:
        fd = os.open(f"/proc/{pid}/{name}", os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise _unreadable(pid, error) from error
    try:
        return os.read(fd, _LONGEST_FILE)
    except OSError as error:
        raise _unreadable(pid, error) from error
    finally:
        os.close(fd)
