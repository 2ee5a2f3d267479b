"""What a child process gives up, and how it is tied to its parent. Linux only."""

import ctypes
import os
import pwd
import signal
import struct
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from enricher.errors import EnricherError

PR_SET_PDEATHSIG = 1
PR_SET_NO_NEW_PRIVS = 38
CAP_SETGID = 6
CAP_SETUID = 7
LINUX_CAPABILITY_VERSION_3 = 0x20080522

# A user that exists on no ordinary system: the range systemd takes its dynamic users from is 61184 to 65519.
UNNAMED_UID = 61417
USER = "enricher"

_libc = ctypes.CDLL(None, use_errno=True)


class PrivilegesKept(EnricherError):
    """The process still holds capabilities after it gave them up."""

    code = "privileges_kept"


def die_with_parent() -> None:
    """Asks the kernel for SIGTERM when the parent dies, however it dies. A change of uid undoes it."""
    parent = os.getppid()
    _prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:  # it died in between
        os.kill(os.getpid(), signal.SIGTERM)


def drop() -> None:
    """Becomes an unprivileged user of its own for good: no capability, no way back, no new ones by exec.

    The user is `enricher` where there is one, otherwise a bare uid. A root that may not change its user (in a
    container, say) keeps the uid, and loses the capabilities all the same. To be called before the first thread and
    the first byte from the network.
    """
    if _can_change_user():
        uid, gid = _ids()
        os.setgroups([])
        os.setresgid(gid, gid, gid)
        os.setresuid(uid, uid, uid)
    _clear_capabilities()
    if capabilities := effective_capabilities():
        raise PrivilegesKept(f"capabilities {capabilities:#x} are left, uid {os.getuid()}")
    _prctl(PR_SET_NO_NEW_PRIVS, 1)


def pipeline_ids() -> tuple[int, int] | None:
    """The user and group that `drop` would change to; None where it would keep those of this process."""
    return _ids() if _can_change_user() else None


def can_read_as_dropped(paths: Iterable[str]) -> bool:
    """Whether all of these could surely be read after `drop`. Before the first thread: it changes the user twice."""
    if not _can_change_user() and effective_capabilities():
        return False
    with as_dropped():
        return all(os.access(path, os.R_OK, effective_ids=True) for path in paths)


@contextmanager
def as_dropped() -> Iterator[None]:
    """Inside, this process is the user that `drop` makes of it, if it makes another one. Before the first thread."""
    if not _can_change_user():
        yield
        return
    uid, gid = _ids()
    groups = os.getgroups()
    os.setgroups([])
    os.setegid(gid)
    os.seteuid(uid)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)
        os.setgroups(groups)


def dropped_user() -> str:
    """Whom `drop` makes of this process, as chown(1) takes it."""
    if not _can_change_user():
        return str(os.geteuid())
    uid, _ = _ids()
    return str(uid) if uid == UNNAMED_UID else USER


def effective_capabilities() -> int:
    """Bits as in linux/capability.h."""
    status = Path("/proc/self/status").read_text(encoding="utf-8", errors="replace")
    return next(int(line.split()[1], 16) for line in status.splitlines() if line.startswith("CapEff:"))


def _can_change_user() -> bool:
    needed = 1 << CAP_SETGID | 1 << CAP_SETUID
    return effective_capabilities() & needed == needed


def _clear_capabilities() -> None:
    header = struct.pack("=Ii", LINUX_CAPABILITY_VERSION_3, 0)  # 0: this thread
    none = bytes(24)  # effective, permitted and inheritable, in two halves of 32 bits each
    if _libc.capset(header, none) != 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error), "capset")


def _ids() -> tuple[int, int]:
    try:
        user = pwd.getpwnam(USER)
    except KeyError:
        return UNNAMED_UID, UNNAMED_UID
    return user.pw_uid, user.pw_gid


def _prctl(option: int, value: int) -> None:
    if _libc.prctl(option, value, 0, 0, 0) != 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error), f"prctl({option})")
