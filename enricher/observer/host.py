"""What the probes need of this host: one question a function, each answered yes, no or unknown.

The functions that answer are pure: they are handed what was read, or the error that reading ended with.
Nothing is remembered: an unknown may be a yes a second later (securityfs gets mounted, a container is
given a capability). The last word has the kernel, when the probes are loaded.
"""

import platform
import re
import resource
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Final

from enricher.observer.libbpf import LibbpfMissing, version


class Answer(Enum):
    YES = "yes"
    NO = "no"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Check:
    """One need. `cost` is what is lost without it, `fix` one line; both are told unless the answer is yes."""

    name: str
    answer: Answer
    detail: str
    cost: str
    fix: str


Reading = str | OSError  # the text of a file, or why it could not be read

# linux/capability.h
CAP_SYS_PTRACE: Final = 19
CAP_SYS_ADMIN: Final = 21
CAP_PERFMON: Final = 38
CAP_BPF: Final = 39

# linux/proc_ns.h: PROC_PID_INIT_INO
INITIAL_PID_NAMESPACE: Final = 0xEFFFFFFC

OLDEST_KERNEL: Final = (5, 15)  # the first long-term one with task storage (5.11) and syscall programs (5.14)

NOTHING_SEEN: Final = "no kernel evidence: spans pass through untouched"
AS_ROOT: Final = "run as root (in a container: privileged, with the host's pid namespace)"


def worst(checks: Iterable[Check]) -> Answer:
    """NO if any is, else UNKNOWN if any is, else YES."""
    answers = {check.answer for check in checks}
    return next((answer for answer in (Answer.NO, Answer.UNKNOWN) if answer in answers), Answer.YES)


def kernel(release: str) -> Check:
    """`release` as of uname(2). Distributions port features back, so an old number is no proof of a lack."""
    oldest = "{}.{}".format(*OLDEST_KERNEL)
    if _version(release) >= OLDEST_KERNEL:
        answer, detail = Answer.YES, f"Linux {release}"
    else:
        answer, detail = Answer.UNKNOWN, f"Linux {release}, the probes are made for {oldest} and later"
    return Check(
        name="kernel",
        answer=answer,
        detail=detail,
        cost=NOTHING_SEEN,
        fix=f"use Linux {oldest} or later, unless the probes load all the same",
    )


def btf(size: int | OSError) -> Check:
    """`size` of /sys/kernel/btf/vmlinux, bytes: the kernel's own types, which the probes are fitted to."""
    if isinstance(size, PermissionError):
        answer, detail = Answer.UNKNOWN, _why("/sys/kernel/btf/vmlinux", size)
    elif isinstance(size, OSError):
        answer, detail = Answer.NO, "there is no /sys/kernel/btf/vmlinux"
    else:
        answer, detail = Answer.YES, f"/sys/kernel/btf/vmlinux, {size >> 10} KiB"
    return Check(
        name="kernel types (BTF)",
        answer=answer,
        detail=detail,
        cost=NOTHING_SEEN,
        fix="use a kernel built with CONFIG_DEBUG_INFO_BTF=y, and mount sysfs on /sys",
    )


def libbpf(found: tuple[int, int] | LibbpfMissing) -> Check:
    if isinstance(found, LibbpfMissing):
        answer, detail = Answer.NO, str(found.args[0])
    else:
        answer, detail = Answer.YES, "libbpf {}.{}".format(*found)
    return Check(
        name="libbpf",
        answer=answer,
        detail=detail,
        cost=NOTHING_SEEN,
        fix="install libbpf 1.0 or later: apt-get install libbpf1, dnf install libbpf",
    )


def privileges(status: Reading, uid_map: Reading) -> tuple[Check, Check, Check]:
    """Whether this process may load probes, read other processes, and set uprobes.

    `status` and `uid_map` as of /proc/self. Capabilities of a user namespace other than the first do not
    count for any of this.
    """
    held = _capabilities(status)
    rooted = not isinstance(uid_map, OSError) and uid_map.split() == ["0", "0", str(2**32 - 1)]

    def check(name: str, wanted: str, granted: bool, cost: str) -> Check:
        if held is None:
            answer, detail = Answer.UNKNOWN, _why("/proc/self/status", status)
        elif not granted:
            answer, detail = Answer.NO, f"this process lacks {wanted}"
        elif isinstance(uid_map, OSError):
            answer, detail = Answer.UNKNOWN, _why("/proc/self/uid_map", uid_map)
        elif not rooted:
            answer, detail = Answer.NO, f"has {wanted} only inside a user namespace, where it does not count"
        else:
            answer, detail = Answer.YES, f"has {wanted}"
        return Check(name, answer, detail, cost, fix=f"{AS_ROOT}, or grant {wanted}")

    def has(*capabilities: int) -> bool:
        return held is not None and all(held >> capability & 1 for capability in capabilities)

    return (
        check(
            "privilege: probes",
            "CAP_BPF and CAP_PERFMON",
            has(CAP_BPF, CAP_PERFMON) or has(CAP_SYS_ADMIN),
            NOTHING_SEEN,
        ),
        check(
            "privilege: processes",
            "CAP_SYS_PTRACE",
            has(CAP_SYS_PTRACE),
            "processes of other users are not found, their spans pass through untouched",
        ),
        check(
            "privilege: uprobes",
            # Since the fix of CVE-2025-38466 perf uprobes ask for it; CAP_PERFMON is no longer enough.
            "CAP_SYS_ADMIN",
            has(CAP_SYS_ADMIN),
            "no span ends are seen: no exact match, only by process and time",
        ),
    )


def _capabilities(status: Reading) -> int | None:
    if isinstance(status, OSError):
        return None
    for line in status.splitlines():
        name, _, value = line.partition(":")
        if name == "CapEff":
            return int(value, 16)
    return None


def pid_namespace(link: Reading) -> Check:
    """`link` as of /proc/self/ns/pid. The probes speak of processes by their numbers in the first one."""
    if isinstance(link, OSError):
        answer, detail = Answer.UNKNOWN, _why("/proc/self/ns/pid", link)
    elif link == f"pid:[{INITIAL_PID_NAMESPACE}]":
        answer, detail = Answer.YES, "the host's own"
    else:
        answer, detail = Answer.NO, f"{link}, not the host's"
    return Check(
        name="pid namespace",
        answer=answer,
        detail=detail,
        cost="processes outside this container are not found, their spans pass through untouched",
        fix="give the container the host's: docker run --pid=host, hostPID: true in Kubernetes",
    )


def lockdown(text: Reading, probes_loaded: bool | None = None) -> Check:
    """`text` of /sys/kernel/security/lockdown, such as "none [integrity] confidentiality".

    Confidentiality refuses programs that read memory; the probes do, so if they loaded it is not in force.
    """
    mode = None if isinstance(text, OSError) else text.partition("[")[2].partition("]")[0]
    if mode:
        answer, detail = (Answer.NO if mode == "confidentiality" else Answer.YES), f"lockdown: {mode}"
    elif probes_loaded:
        answer, detail = Answer.YES, "not told by the kernel, but the probes loaded"
    elif isinstance(text, OSError):
        answer, detail = Answer.UNKNOWN, _why("/sys/kernel/security/lockdown", text)
    else:
        answer, detail = Answer.UNKNOWN, "/sys/kernel/security/lockdown is in no known form"
    return Check(
        name="kernel lets probes read",
        answer=answer,
        detail=detail,
        cost=NOTHING_SEEN,
        fix="boot with lockdown=integrity at most; to see it: mount -t securityfs none /sys/kernel/security",
    )


def uprobes(pmu_type: Reading) -> Check:
    """`pmu_type` of /sys/bus/event_source/devices/uprobe/type."""
    if isinstance(pmu_type, FileNotFoundError):
        answer, detail = Answer.NO, "the kernel has no uprobe event source"
    elif isinstance(pmu_type, OSError):
        answer, detail = Answer.UNKNOWN, _why("/sys/bus/event_source/devices/uprobe/type", pmu_type)
    else:
        answer, detail = Answer.YES, f"event source type {pmu_type.strip()}"
    return Check(
        name="uprobes",
        answer=answer,
        detail=detail,
        cost="no span ends are seen: no exact match, only by process and time",
        fix="use a kernel built with CONFIG_UPROBE_EVENTS=y, and mount sysfs on /sys",
    )


def locked_memory(release: str, limit: int) -> Check:
    """`limit`: RLIMIT_MEMLOCK, bytes or RLIM_INFINITY. Since Linux 5.11 maps count for the memory cgroup."""
    if _version(release) >= (5, 11):
        answer, detail = Answer.YES, "not limited by RLIMIT_MEMLOCK on this kernel"
    elif limit == resource.RLIM_INFINITY:
        answer, detail = Answer.YES, "RLIMIT_MEMLOCK is unlimited"
    else:
        answer, detail = Answer.UNKNOWN, f"RLIMIT_MEMLOCK is {limit >> 10} KiB, maybe too little"
    return Check(
        name="locked memory",
        answer=answer,
        detail=detail,
        cost=NOTHING_SEEN,
        fix="set LimitMEMLOCK=infinity in the service's unit, or ulimit -l unlimited",
    )


def clock(source: Reading) -> Check:
    """`source`: current_clocksource of sysfs. Every event reads the clock, on the watched service's time."""
    if isinstance(source, OSError):
        answer, detail = Answer.UNKNOWN, _why("the kernel's clock source", source)
    else:
        slow = source.strip() in {"hpet", "acpi_pm", "jiffies", "refined-jiffies"}
        answer, detail = (Answer.NO if slow else Answer.YES), f"clock source {source.strip()}"
    return Check(
        name="quick clock",
        answer=answer,
        detail=detail,
        cost="each event takes about a microsecond more of the watched services",
        fix="choose a quick one: see /sys/devices/system/clocksource/clocksource0/available_clocksource",
    )


def examine(probes_loaded: bool | None = None) -> tuple[Check, ...]:
    """Every need of the probes, as this process finds the host now.

    `probes_loaded`: whether all of them have been loaded, None if that was not tried; it settles what the
    kernel may not tell.
    """
    release = platform.release()
    return (
        kernel(release),
        btf(_size(Path("/sys/kernel/btf/vmlinux"))),
        libbpf(_libbpf_version()),
        *privileges(_text(Path("/proc/self/status")), _text(Path("/proc/self/uid_map"))),
        pid_namespace(_link(Path("/proc/self/ns/pid"))),
        lockdown(_text(Path("/sys/kernel/security/lockdown")), probes_loaded),
        uprobes(_text(Path("/sys/bus/event_source/devices/uprobe/type"))),
        locked_memory(release, resource.getrlimit(resource.RLIMIT_MEMLOCK)[0]),
        clock(_text(Path("/sys/devices/system/clocksource/clocksource0/current_clocksource"))),
    )


def _version(release: str) -> tuple[int, int]:
    parts = re.match(r"(\d{1,6})\.(\d{1,6})", release)
    return (int(parts[1]), int(parts[2])) if parts else (0, 0)


def _libbpf_version() -> tuple[int, int] | LibbpfMissing:
    try:
        return version()
    except LibbpfMissing as error:
        return error


def _text(path: Path) -> Reading:
    try:
        return path.read_text(errors="replace")
    except OSError as error:
        return error


def _size(path: Path) -> int | OSError:
    try:
        return path.stat().st_size
    except OSError as error:
        return error


def _link(path: Path) -> Reading:
    try:
        return str(path.readlink())
    except OSError as error:
        return error


def _why(what: str, error: Reading) -> str:
    reason = error.strerror if isinstance(error, OSError) else "its form is not known"
    return f"{what} cannot be read: {reason}"
