"""Each need of the host is answered by what was read, and unknown where nothing could be."""

import errno
import resource
from collections.abc import Callable

import pytest

from enricher.observer import host
from enricher.observer.host import Answer, Check, Reading
from enricher.observer.libbpf import LibbpfMissing

YES, NO, UNKNOWN = Answer.YES, Answer.NO, Answer.UNKNOWN
DENIED = PermissionError(errno.EACCES, "Permission denied")
ABSENT = FileNotFoundError(errno.ENOENT, "No such file or directory")

INITIAL = "         0          0 4294967295\n"
NESTED = "         0     100000      65536\n"


def status(*capabilities: int) -> str:
    mask = sum(1 << capability for capability in capabilities)
    return f"Name:\tpython\nCapPrm:\tffffffffffffffff\nCapEff:\t{mask:016x}\nSeccomp:\t0\n"


@pytest.mark.parametrize(
    ("check", "reading", "answer", "detail"),
    [
        (host.kernel, "6.18.44-fc", YES, "Linux 6.18.44-fc"),
        (host.kernel, "5.15.0-1-amd64", YES, "Linux 5.15.0-1-amd64"),
        (host.kernel, "5.4.0", UNKNOWN, "Linux 5.4.0, the probes are made for 5.15 and later"),
        (host.kernel, "4.18.0-553.el8", UNKNOWN, "Linux 4.18.0-553.el8, the probes are made for 5.15 and later"),
        (host.kernel, "next", UNKNOWN, "Linux next, the probes are made for 5.15 and later"),
        (host.btf, 5 << 20, YES, "/sys/kernel/btf/vmlinux, 5120 KiB"),
        (host.btf, ABSENT, NO, "there is no /sys/kernel/btf/vmlinux"),
        (host.btf, DENIED, UNKNOWN, "/sys/kernel/btf/vmlinux cannot be read: Permission denied"),
        (host.libbpf, (1, 1), YES, "libbpf 1.1"),
        (host.libbpf, LibbpfMissing("libbpf is 0.8, older than 1.0", fix="x"), NO, "libbpf is 0.8, older than 1.0"),
        (host.pid_namespace, "pid:[4026531836]", YES, "the host's own"),
        (host.pid_namespace, "pid:[4026532201]", NO, "pid:[4026532201], not the host's"),
        (host.pid_namespace, DENIED, UNKNOWN, "/proc/self/ns/pid cannot be read: Permission denied"),
        (host.lockdown, "[none] integrity confidentiality\n", YES, "lockdown: none"),
        (host.lockdown, "none [integrity] confidentiality\n", YES, "lockdown: integrity"),
        (host.lockdown, "none integrity [confidentiality]\n", NO, "lockdown: confidentiality"),
        (host.lockdown, "", UNKNOWN, "/sys/kernel/security/lockdown is in no known form"),
        (host.lockdown, ABSENT, UNKNOWN, "/sys/kernel/security/lockdown cannot be read: No such file or directory"),
        (host.uprobes, "8\n", YES, "event source type 8"),
        (host.uprobes, ABSENT, NO, "the kernel has no uprobe event source"),
        (host.uprobes, DENIED, UNKNOWN,
         "/sys/bus/event_source/devices/uprobe/type cannot be read: Permission denied"),
        (host.clock, "tsc\n", YES, "clock source tsc"),
        (host.clock, "kvm-clock\n", YES, "clock source kvm-clock"),
        (host.clock, "hpet\n", NO, "clock source hpet"),
        (host.clock, "acpi_pm\n", NO, "clock source acpi_pm"),
        (host.clock, ABSENT, UNKNOWN, "the kernel's clock source cannot be read: No such file or directory"),
    ],
)  # fmt: skip
def test_a_reading_is_answered(check: Callable[[object], Check], reading: object, answer: Answer, detail: str) -> None:
    found = check(reading)
    assert (found.answer, found.detail) == (answer, detail)
    assert found.cost
    assert found.fix


PROBES, PROCESSES, UPROBES = range(3)
BPF, PERFMON, PTRACE, ADMIN = host.CAP_BPF, host.CAP_PERFMON, host.CAP_SYS_PTRACE, host.CAP_SYS_ADMIN


@pytest.mark.parametrize(
    ("text", "uid_map", "answers"),
    [
        (status(BPF, PERFMON, PTRACE, ADMIN), INITIAL, (YES, YES, YES)),
        (status(BPF, PERFMON, PTRACE), INITIAL, (YES, YES, NO)),
        (status(ADMIN), INITIAL, (YES, NO, YES)),
        (status(BPF), INITIAL, (NO, NO, NO)),
        (status(PTRACE), INITIAL, (NO, YES, NO)),
        (status(), INITIAL, (NO, NO, NO)),
        (status(BPF, PERFMON, PTRACE, ADMIN), NESTED, (NO, NO, NO)),
        (status(BPF, PERFMON, PTRACE, ADMIN), DENIED, (UNKNOWN, UNKNOWN, UNKNOWN)),
        (DENIED, INITIAL, (UNKNOWN, UNKNOWN, UNKNOWN)),
        ("Name:\tpython\n", INITIAL, (UNKNOWN, UNKNOWN, UNKNOWN)),
    ],
)
def test_privileges_count_only_outside_user_namespaces(
    text: Reading, uid_map: Reading, answers: tuple[Answer, ...]
) -> None:
    assert tuple(check.answer for check in host.privileges(text, uid_map)) == answers


def test_a_lack_of_privilege_names_the_capability() -> None:
    checks = host.privileges(status(), INITIAL)
    assert checks[PROBES].detail == "this process lacks CAP_BPF and CAP_PERFMON"
    assert checks[PROCESSES].detail == "this process lacks CAP_SYS_PTRACE"
    assert checks[UPROBES].detail == "this process lacks CAP_SYS_ADMIN"
    inside = host.privileges(status(BPF, PERFMON, PTRACE, ADMIN), NESTED)
    assert inside[UPROBES].detail == "has CAP_SYS_ADMIN only inside a user namespace, where it does not count"


def test_probes_that_loaded_settle_what_the_kernel_does_not_tell() -> None:
    assert host.lockdown(ABSENT, probes_loaded=True).answer is YES
    assert host.lockdown(ABSENT, probes_loaded=False).answer is UNKNOWN
    assert host.lockdown("none integrity [confidentiality]", probes_loaded=True).answer is NO


@pytest.mark.parametrize(
    ("release", "limit", "answer"),
    [
        ("5.15.0", 65536, YES),
        ("5.11.0", 65536, YES),
        ("5.10.0", 65536, UNKNOWN),
        ("5.10.0", resource.RLIM_INFINITY, YES),
        ("next", 65536, UNKNOWN),
    ],
)
def test_locked_memory_limits_only_older_kernels(release: str, limit: int, answer: Answer) -> None:
    assert host.locked_memory(release, limit).answer is answer


@pytest.mark.parametrize(
    ("answers", "answer"),
    [((), YES), ((YES, YES), YES), ((YES, UNKNOWN), UNKNOWN), ((UNKNOWN, NO, YES), NO)],
)
def test_the_worst_answer_counts(answers: tuple[Answer, ...], answer: Answer) -> None:
    assert host.worst(Check("", one, "", "", "") for one in answers) is answer


def test_this_host_is_examined_without_an_error() -> None:
    checks = host.examine()
    assert len({check.name for check in checks}) == len(checks)
    by_name = {check.name: check for check in checks}
    assert by_name["kernel"].detail.startswith("Linux ")
