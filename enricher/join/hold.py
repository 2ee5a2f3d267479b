"""Holds requests until what the kernel knows of their spans is known here.

Nothing sleeps: a request is due once the watermark (every event up to it has been read) has passed the end of
its last span, and, where a span's tail is open, once the waits going on at the end of that tail are known. A
request is due at once when nobody watches, and at the latest `longest_ns` after it came: evidence may be late,
spans may not.
"""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")

# A span's end in its own clock and in the kernel's differ by the rounding of the clocks' offset.
CLOCK_SLACK_NS = 2_000_000


@dataclass(frozen=True, slots=True)
class Known:
    """How far the evidence reaches. Times are CLOCK_MONOTONIC in ns."""

    watermark_ns: int
    going_on_ns: int
    live: bool  # someone watches, and writes to the log


@dataclass(slots=True)
class Held(Generic[T]):
    item: T
    arrived_ns: int
    ends_ns: int  # end of the last span
    open_until_ns: int = 0  # end of the last tail that is known to matter; 0: none


class Hold(Generic[T]):
    """The requests that wait, first come first looked at. Not thread-safe: the policy thread owns it."""

    def __init__(self, longest_ns: int) -> None:
        self.longest_ns = longest_ns
        self._held: deque[Held[T]] = deque()

    def __len__(self) -> int:
        return len(self._held)

    def add(self, held: Held[T]) -> None:
        self._held.append(held)

    def due(self, known: Known, now_ns: int) -> Iterator[Held[T]]:
        """Takes out what need not wait any longer. The caller may put one back with `open_until_ns` set."""
        for _ in range(len(self._held)):
            held = self._held.popleft()
            if self._waits(held, known, now_ns):
                self._held.append(held)
            else:
                yield held

    def _waits(self, held: Held[T], known: Known, now_ns: int) -> bool:
        if not known.live or now_ns - held.arrived_ns >= self.longest_ns:
            return False
        return known.watermark_ns < held.ends_ns + CLOCK_SLACK_NS or known.going_on_ns < held.open_until_ns
