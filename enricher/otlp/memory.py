"""Gives freed memory back to the kernel after a burst; by itself glibc keeps most of what large requests took.

They are allocated by one thread and freed by another, and the heap is left in pieces that nobody needs.
"""

import ctypes
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

_STATM: Final = Path("/proc/self/statm")
_PAGE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")
# It takes some milliseconds, and the kernel must hand out again what is needed again.
_WORTH_BYTES: Final = 32 << 20
_INTERVAL_S: Final = 5.0


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
        self._trim(0)
        self._least_bytes = self._resident_bytes()
        return True
