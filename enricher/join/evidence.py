"""What a match method hands to the causes: a span in kernel time, and the waits that are its own.

The native index has objects of these shapes; tests and slower methods build their own.
"""

from collections.abc import Sequence
from typing import Protocol


class Wait(Protocol):
    """One blocked system call. Times are CLOCK_MONOTONIC in ns; fields as `struct event` in probes/events.h."""

    @property
    def start_ns(self) -> int: ...
    @property
    def end_ns(self) -> int: ...
    @property
    def syscall(self) -> int: ...
    @property
    def error(self) -> int: ...
    @property
    def fd(self) -> int: ...
    @property
    def wait_kind(self) -> int: ...
    @property
    def flags(self) -> int: ...
    @property
    def going_on(self) -> bool:
        """It was not over when the evidence was read: `end_ns` is only when it was last seen."""

    def peer(self) -> str:
        """`address:port` of an internet socket, otherwise the type of the descriptor, "" if neither is known."""


class SpanEvidence(Protocol):
    """A span and its waits. `blocked_*` are of the waits clipped to [start_ns, tail_end_ns]."""

    @property
    def ordinal(self) -> int:
        """Place of the span in its request, from 0."""

    @property
    def start_ns(self) -> int: ...
    @property
    def end_ns(self) -> int: ...
    @property
    def tail_end_ns(self) -> int:
        """`end_ns` where the span has no tail."""

    @property
    def complete(self) -> bool:
        """False: evidence for this span was lost, or was not whole when it was decided."""

    @property
    def waits(self) -> Sequence[Wait]:
        """By start."""

    @property
    def longest(self) -> Wait: ...
    @property
    def blocked_ns(self) -> int:
        """Union of the waits: time in which two overlap counts once."""

    @property
    def blocked_after_end_ns(self) -> int: ...
    @property
    def direct_ns(self) -> int:
        """The part of `blocked_ns` that lies in no child span of the same process."""

    @property
    def blocked_count(self) -> int: ...
    @property
    def kinds(self) -> int:
        """`WaitKind` values of the waits, or-ed."""

    @property
    def via(self) -> str:
        """`connection` if all of the waits were those of connections it used as a client, otherwise `goroutine`."""
