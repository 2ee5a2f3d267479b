"""A system call that kept the span's goroutine from running: the slow peer, the full pipe, the lock.

A Go socket or pipe call hardly ever sleeps in the kernel; it is told EAGAIN and the goroutine parks. Both kinds
count, `ebpf.syscall.blocked.kind` tells which. A sleep that was asked for is not a blocked call.
"""

from enricher.causes.cause import Attribute, Cause, Value
from enricher.evidence.records import WaitKind
from enricher.evidence.syscalls import syscall_name
from enricher.join.evidence import SpanEvidence

BLOCKED = "ebpf.system_call_blocked"
NAME = "ebpf.syscall.name"
DURATION = "ebpf.syscall.blocked.duration"
COUNT = "ebpf.syscall.blocked.count"
KIND = "ebpf.syscall.blocked.kind"
AFTER_END = "ebpf.syscall.blocked.after_end"
DIRECT = "ebpf.syscall.blocked.direct"
PEER = "ebpf.syscall.peer"

KINDS = {
    WaitKind.KERNEL.value: "kernel",
    WaitKind.PARKED.value: "parked",
    WaitKind.KERNEL.value | WaitKind.PARKED.value: "mixed",
}


def claims(evidence: SpanEvidence) -> dict[str, Value]:
    longest = evidence.longest
    found: dict[str, Value] = {
        BLOCKED: True,
        NAME: syscall_name(longest.syscall),
        DURATION: evidence.blocked_ns / 1e9,
        COUNT: evidence.blocked_count,
        KIND: KINDS[evidence.kinds],
    }
    if evidence.blocked_after_end_ns:
        found[AFTER_END] = evidence.blocked_after_end_ns / 1e9
    if evidence.direct_ns < evidence.blocked_ns:
        found[DIRECT] = evidence.direct_ns / 1e9
    if peer := longest.peer():
        found[PEER] = peer
    return found


CAUSE = Cause(
    name="blocked_syscall",
    summary="a system call that the span waited for was blocked for at least processors.ebpf.blocked_threshold",
    needs=("syscalls",),
    attributes=(
        Attribute(BLOCKED, "bool", "", "set only when true"),
        Attribute(NAME, "string", "", "the call that waited longest"),
        Attribute(
            DURATION, "double", "s", "time blocked inside the span, its child spans and its tail; overlaps count once"
        ),
        Attribute(COUNT, "int", "{wait}", "waits inside the span and its tail"),
        Attribute(KIND, "string", "", "kernel: the thread slept; parked: the goroutine did; mixed: both"),
        Attribute(AFTER_END, "double", "s", "the part of the duration that lies after the span's own end"),
        Attribute(DIRECT, "double", "s", "the part in no child span of the process; left off where that is all of it"),
        Attribute(PEER, "string", "", "address:port or type of descriptor that the longest wait was for"),
    ),
    claims=claims,
)
