"""The requests of the last minute, for whoever asks why a span left as it did."""

from collections import deque
from dataclasses import dataclass
from typing import Final

from enricher.join.methods.method import Request
from enricher.recording.entries import Decision, Verdict

KEPT_NS: Final = 60_000_000_000
KEPT_BYTES: Final = 8 << 20
# What is kept beside the bodies.
_OF_A_REQUEST: Final = 1024
_OF_A_SPAN: Final = 128


@dataclass(frozen=True, slots=True)
class Decided:
    """A request that has left, and how that was decided."""

    request: Request
    decision: Decision

    @property
    def body(self) -> bytes:
        """As it came."""
        return self.request.scanned.body

    @property
    def left_as(self) -> bytes:
        return self.decision.body if self.decision.verdict is Verdict.CHANGED else self.body

    @property
    def size(self) -> int:
        """About what it takes in memory, in bytes."""
        spans = self.request.scanned.span_count * _OF_A_SPAN
        return _OF_A_REQUEST + spans + self.request.scanned.size + len(self.decision.body)


class Recent:
    """Not thread-safe: the policy thread owns it."""

    def __init__(self, most_bytes: int = KEPT_BYTES, most_ns: int = KEPT_NS) -> None:
        self._most_bytes = most_bytes
        self._most_ns = most_ns
        self._kept: deque[tuple[int, Decided]] = deque()  # each with its size
        self._bytes = 0

    def add(self, decided: Decided) -> None:
        size = decided.size
        self._kept.append((size, decided))
        self._bytes += size
        self.forget(decided.decision.at_ns)

    def forget(self, now_ns: int) -> None:
        """What is too old, and the oldest of what is too much."""
        before_ns = now_ns - self._most_ns
        while self._kept and (self._bytes > self._most_bytes or self._kept[0][1].decision.at_ns < before_ns):
            self._bytes -= self._kept.popleft()[0]

    def all(self) -> list[Decided]:
        """The oldest first."""
        return [decided for _, decided in self._kept]
