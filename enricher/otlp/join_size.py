"""How large requests are joined: less for a backend that takes less, and more again after a while.

What a backend takes cannot be asked for, and a refusal that looks like one of size may have been a quota. So the
size never falls below a floor, and grows back as long as nothing is refused.
"""

from threading import Lock
from typing import Final

# Measured at 64 spans a request: joined to 64 KiB, one costs a fifth more than joined to 1 MiB.
FLOOR_BYTES: Final = 64 << 10
# A backend that does take less is asked in vain once in so many.
GROW_AFTER: Final = 256


class JoinSize:
    """Thread-safe."""

    def __init__(self, most_bytes: int) -> None:
        self._most = most_bytes
        self._least = min(FLOOR_BYTES, most_bytes)
        self._bytes = most_bytes
        self._taken = 0
        self._lock = Lock()

    @property
    def bytes(self) -> int:
        return self._bytes

    def taken(self) -> None:
        """The backend took a request."""
        if self._bytes == self._most:
            return
        with self._lock:
            self._taken += 1
            if self._taken >= GROW_AFTER:
                self._taken = 0
                self._bytes = min(self._most, self._bytes * 2)

    def too_large(self, size: int) -> None:
        """The backend refused a joined request of `size` bytes, and took all of its parts."""
        with self._lock:
            self._taken = 0
            self._bytes = max(self._least, min(self._bytes, size // 2))
