"""What this process takes of the machine, for its metrics. Names as Prometheus' clients have them."""

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from enricher.telemetry.metrics import Series

_PAGE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")
_STARTED_UNIX_S: Final = time.time()


def series() -> Iterator[Series]:
    used = os.times()
    yield Series.counter("process_cpu_seconds", "processor time", round(used.user + used.system, 2), "s")
    resident = resident_bytes()
    if resident is not None:
        yield Series.gauge("process_resident_memory_bytes", "memory that is resident", resident, "By")
    yield Series.gauge("process_start_time_seconds", "when it began, since 1970", round(_STARTED_UNIX_S, 3), "s")


def resident_bytes() -> int | None:
    """None where /proc is not to be had."""
    try:
        return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * _PAGE_BYTES
    except OSError:
        return None
