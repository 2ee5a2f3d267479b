"""Holds requests until what the kernel knows of their spans is known here.

Nothing sleeps: a request is due once the watermark (every event up to it has been read) has passed the end of
its last span, and, where a span's tail is open, once the waits going on at the end of that tail are known. A
request is due at once when nobody watches, and at the latest `longest_ns` after it came: evidence may be late,
spans may not.
"""

import itertools
from dataclasses import dataclass
from heapq import heappop, heappush
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
    open_until_ns: int = 0  # end of a tail that is known to matter; 0: none


class Hold(Generic[T]):
    """The requests that wait. Not thread-safe: the policy thread owns it."""

    def __init__(self, tail_ns: int, patience_ns: int) -> None:
        """`patience_ns` is how late evidence may be."""
        self._tail_ns = tail_ns
        self._patience_ns = patience_ns
        # Heaps by the time that must be known, as hundreds wait and this is looked at every few milliseconds.
        self._ending: list[tuple[int, int, Held[T]]] = []
        self._open: list[tuple[int, int, Held[T]]] = []
        self._numbers = itertools.count()

    @property
    def longest_ns(self) -> int:
        return self._tail_ns + self._patience_ns

    def __len__(self) -> int:
        return len(self._ending) + len(self._open)

    def add(self, held: Held[T]) -> None:
        # What has come has ended, whatever its clock says: nothing is waited for that lies further ahead.
        if held.open_until_ns:
            until_ns = min(held.open_until_ns, held.arrived_ns + self._tail_ns)
            heappush(self._open, (until_ns, next(self._numbers), held))
        else:
            until_ns = min(held.ends_ns + CLOCK_SLACK_NS, held.arrived_ns)
            heappush(self._ending, (until_ns, next(self._numbers), held))

    def due(self, known: Known, now_ns: int) -> list[Held[T]]:
        """Takes out what need not wait any longer. The caller may put one back with `open_until_ns` set."""
        late_ns = now_ns - self._patience_ns if known.live else now_ns + self.longest_ns
        ended = _take(self._ending, max(known.watermark_ns, late_ns))
        return ended + _take(self._open, max(known.going_on_ns, late_ns))


def _take(heap: list[tuple[int, int, Held[T]]], known_ns: int) -> list[Held[T]]:
    taken = []
    while heap and heap[0][0] <= known_ns:
        taken.append(heappop(heap)[2])
    return taken
