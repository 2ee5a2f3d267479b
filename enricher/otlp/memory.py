"""What the process takes of memory: given back after a burst, and held under a limit.

By itself glibc keeps most of what large requests took: they are allocated by one thread and freed by another, and the
heap is left in pieces that nobody needs.
"""

import ctypes
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from enricher.telemetry.logs import get_logger
from enricher.telemetry.metrics import Series

_STATM: Final = Path("/proc/self/statm")
_PAGE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")
# It takes some milliseconds, and the kernel must hand out again what is needed again.
_WORTH_BYTES: Final = 32 << 20
_INTERVAL_S: Final = 5.0


# Between two looks at the limit. At 1 GB/s from all senders together, 100 MB may come meanwhile.
_LIMIT_INTERVAL_S: Final = 0.1
# Evidence this young is kept whatever happens: what is exported now ended a moment ago.
_LEAST_KEPT_NS: Final = 1_000_000_000


def resident_bytes() -> int:
    return int(_STATM.read_text().split()[1]) * _PAGE_BYTES


class MemoryReturn:
    """Call `look` often; it acts where the process has grown, and seldom."""

    def __init__(
        self,
        *,
        resident_bytes: Callable[[], int] = resident_bytes,
        clock_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._resident_bytes = resident_bytes
        self._clock_s = clock_s
        self._trim: Callable[[int], int] | None = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's alone
        self._looked_s = clock_s()
        self._least_bytes = resident_bytes()

    def look(self) -> bool:
        """True if memory was given back."""
        now_s = self._clock_s()
        if self._trim is None or now_s - self._looked_s < _INTERVAL_S:
            return False
        self._looked_s = now_s
        resident = self._resident_bytes()
        if resident < self._least_bytes + _WORTH_BYTES:
            self._least_bytes = min(self._least_bytes, resident)
            return False
        self.give_back()
        return True

    def give_back(self) -> int:
        """At once. Returns the bytes that are resident then."""
        if self._trim is not None:
            self._trim(0)
        self._least_bytes = self._resident_bytes()
        return self._least_bytes


class Refusing(Protocol):
    """The queue."""

    def refuse_new(self, refusing: bool) -> None: ...


class Shedding(Protocol):
    """The evidence index."""

    def shed(self, keep_ns: int) -> None: ...


@dataclass(frozen=True, slots=True)
class MemoryBounds:
    """In bytes of resident memory. Beyond `soft` what senders offer is refused for now, beyond `hard` evidence goes."""

    soft: int
    hard: int


class MemoryLimit:
    """Call `look` often. Not thread-safe: the policy thread owns it.

    It never refuses while nothing waits to be sent: then it is not the spans that take the memory, and to refuse them
    would help nobody.
    """

    def __init__(
        self,
        bounds: MemoryBounds,
        queue: Refusing,
        evidence: Shedding,
        retention_ns: int,
        waiting: Callable[[], int],
        *,
        memory: MemoryReturn | None = None,
        resident_bytes: Callable[[], int] = resident_bytes,
        clock_s: Callable[[], float] = time.monotonic,
    ) -> None:
        """`waiting`: requests in the queue."""
        self._bounds = bounds
        self._queue = queue
        self._evidence = evidence
        self._retention_ns = retention_ns
        self._waiting = waiting
        self._memory = memory or MemoryReturn()
        self._resident_bytes = resident_bytes
        self._clock_s = clock_s
        self._next_s = 0.0
        self._refusing = False
        self._keep_ns = retention_ns
        self._resident = 0
        self._log = get_logger()

    def look(self) -> None:
        """Refuses or takes again what is offered, and lets evidence go, as the memory of the process wants it."""
        now_s = self._clock_s()
        if now_s < self._next_s:
            return
        self._next_s = now_s + _LIMIT_INTERVAL_S
        self._memory.look()
        self._resident = self._resident_bytes()
        if self._resident > self._bounds.soft and not self._refusing:
            self._resident = self._memory.give_back()  # most of it may be free
        if self._resident > self._bounds.hard:
            self._shed()
        elif self._resident <= self._bounds.soft:
            self._keep_ns = self._retention_ns
        self._refuse(self._resident > self._bounds.soft and self._waiting() > 0)

    def series(self) -> Iterator[Series]:
        """For the metrics."""
        yield Series.gauge("process_memory_limit_bytes", "beyond it, the oldest evidence goes", self._bounds.hard)
        yield Series.gauge("receiver_refusing", "1 while spans are refused as memory is short", float(self._refusing))

    def _shed(self) -> None:
        """Half of what was kept; at the next look half of that."""
        self._keep_ns = max(self._keep_ns // 2, _LEAST_KEPT_NS)
        self._evidence.shed(self._keep_ns)
        before, self._resident = self._resident, self._memory.give_back()
        self._log.warning(
            "memory is short, the oldest evidence was dropped",
            kept_s=self._keep_ns / 1e9,
            resident_mib=before >> 20,
            then_mib=self._resident >> 20,
            limit_mib=self._bounds.hard >> 20,
        )

    def _refuse(self, refusing: bool) -> None:
        if refusing is self._refusing:
            return
        self._refusing = refusing
        self._queue.refuse_new(refusing)
        if refusing:
            fix = "see what keeps the backend, or set service.memory.limit_mib higher"
            resident, soft = self._resident >> 20, self._bounds.soft >> 20
            self._log.warning("memory is short, spans are refused", resident_mib=resident, soft_mib=soft, fix=fix)
        else:
            self._log.info("spans are taken again", resident_mib=self._resident >> 20)
