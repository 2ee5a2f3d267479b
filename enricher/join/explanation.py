"""Why a span left as it did: what each match method found out, which waits it looked at, what was claimed.

Plain values only: `dataclasses.asdict` of any of these is JSON as it stands. Ids are lower-case hex digits. Times are
CLOCK_MONOTONIC in ns, but for `_unix_ns`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from enricher._native import Wait
from enricher.causes.cause import Value
from enricher.evidence.records import EventFlag, WaitKind
from enricher.evidence.syscalls import syscall_name

BlockedIn = Literal["kernel", "parked"]


@dataclass(frozen=True, slots=True)
class ConsideredWait:
    """A blocked system call that a method looked at for a span, and what became of it."""

    claimed: bool
    why: str  # one clause: why it is the span's, or why it was left off
    start_ns: int
    end_ns: int
    going_on: bool  # not over when it was looked at: `end_ns` is only when it was last seen
    syscall: str
    blocked_in: BlockedIn
    for_write: bool
    fd: int  # -1: the call has none
    peer: str  # address:port or type of descriptor, "" if not known
    goid: int  # 0: not known
    tid: int
    error: int  # errno, 0: the call succeeded


@dataclass(frozen=True, slots=True)
class Trial:
    """What one method made of a span."""

    method: str  # as in ebpf.match.method
    matched: bool
    why: str  # one sentence
    identity: Mapping[str, int | str] = field(default_factory=dict)  # tgid, goid, tid, fd, peer, start_ns, end_ns, ...
    considered: tuple[ConsideredWait, ...] = ()  # by start
    incomplete_because: tuple[str, ...] = ()  # sentences; none: the evidence is whole


@dataclass(frozen=True, slots=True)
class SpanExplanation:
    """One span, from what came to what left."""

    trace_id: str
    span_id: str
    parent_span_id: str  # "": none
    kind: int  # SpanKind of OTLP
    start_unix_ns: int
    end_unix_ns: int
    method: str  # value of ebpf.match.method of the identity found; "": no method found one
    process: int | None  # which watched process the span is taken to come from, if that is known
    process_why: str  # one sentence
    trials: tuple[Trial, ...]  # best method first, up to the one that matched
    claims: Mapping[str, Value]  # the attributes that were added, {} if none
    left_off: tuple[str, ...]  # sentences: what was not claimed though something was seen, and why


def considered(wait: Wait, why: str, *, claimed: bool) -> ConsideredWait:
    """A wait as it is told to people."""
    return ConsideredWait(
        claimed=claimed,
        why=why,
        start_ns=wait.start_ns,
        end_ns=wait.end_ns,
        going_on=wait.going_on,
        syscall=syscall_name(wait.syscall),
        blocked_in="kernel" if wait.wait_kind == WaitKind.KERNEL else "parked",
        for_write=bool(wait.flags & EventFlag.WAIT_FOR_WRITE),
        fd=wait.fd,
        peer=wait.peer(),
        goid=wait.goid,
        tid=wait.tid,
        error=wait.error,
    )
