"""Plays the observer: records from a pipe into the evidence log, with heartbeats, and no kernel anywhere.

`python -m benchmarks.pipeline.evidence_writer LOG_FD FIFO`. The records are what spangen says the probes saw
of its spans. It prints one line of JSON when it reads, and ends by SIGTERM.
"""

import fcntl
import json
import os
import sys
import time

from enricher._native import LogWriter
from enricher.evidence.records import RECORD_SIZE, Event, EventFlag, EventKind

WATCHED_PID = 4242  # of the process that spangen says its spans are of
# Drained by the clock, like a ring of the probes, and a quarter of it at 50 MB/s of records.
TICK_S = 0.005
PIPE_BYTES = 1 << 20

# A record is written to the pipe this long, at the most, after the time it tells of: the generator is one process
# among others. What comes later still, comes late, and its span leaves unmarked.
LAG_NS = 10_000_000


def watched() -> bytes:
    """The record that says that the process is watched, and has been since it began."""
    known = (
        EventFlag.PROCESS_HAS_GOROUTINES
        | EventFlag.PROCESS_HAS_SPAN_ENDS
        | EventFlag.PROCESS_HAS_SPAN_STARTS
        | EventFlag.PROCESS_HAS_LINEAGE
    )
    return Event(start_ns=1, tgid=WATCHED_PID, kind=EventKind.PROCESS, flags=known).pack()


def main() -> None:
    log = LogWriter(int(sys.argv[1]))
    log.append(watched())
    # For reading and writing: then there is no end of file when a generator ends.
    pipe = os.open(sys.argv[2], os.O_RDWR | os.O_NONBLOCK)
    fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
    print(json.dumps({"pid": os.getpid()}), flush=True)
    rest = b""
    while True:
        began_ns = time.monotonic_ns()
        while chunk := _read(pipe):
            records = rest + chunk
            whole = len(records) - len(records) % RECORD_SIZE
            log.append(records[:whole])
            rest = records[whole:]
        log.heartbeat(began_ns - LAG_NS, began_ns - LAG_NS)
        time.sleep(TICK_S)


def _read(pipe: int) -> bytes:
    try:
        return os.read(pipe, PIPE_BYTES)
    except BlockingIOError:
        return b""


if __name__ == "__main__":
    main()
