"""What the durable queue costs: the way from a request that has come to its release, with a file and without.

`python -m benchmarks.durable [--quick] [--rounds N] [--directory DIR] [--json FILE]`: on one thread, with no transport
and no join. 16 requests have come each time one looks, as of so many senders; they are joined as the policy joins them,
stored, put, taken as for one send, noted as being sent, and released. CPU time is that of the whole process; *spans/s*
is by the clock, so it is what the disk lets through.
"""

import argparse
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

from benchmarks.kit import Column, Row, progress, table, thousands, write_json
from benchmarks.wire import body
from enricher._native import Queue
from enricher.otlp.delivery import MAX_BATCH_BYTES
from enricher.otlp.durable import DurableQueue
from enricher.otlp.queue import JOIN_BYTES

SIZES = (512, 64, 8)
AT_ONCE = 16
SECONDS = 2.0
PEER = "ipv4:127.0.0.1:5555"
Kind = Literal["none", "never", "always"]
KINDS: dict[Kind, str] = {"none": "in memory alone", "never": "fsync: never", "always": "fsync: always"}
COLUMNS = (
    Column("us CPU a span", "cpu_us", "{:.2f}".format),
    Column("spans/s", "spans_per_s", thousands),
    Column("ms a turn", "turn_ms", "{:.2f}".format),
)


def measure(kind: Kind, bodies: list[bytes], size: int, directory: Path, seconds: float) -> Row:
    queue = Queue(100_000, 1 << 30, 4 << 20)
    store = None if kind == "none" else DurableQueue(directory, fsync=kind, max_bytes=1 << 30)
    turns = 0
    began_s, began_cpu_s = time.perf_counter(), time.process_time()
    while (took_s := time.perf_counter() - began_s) < seconds:
        turn(queue, store, bodies)
        turns += 1
    cpu_s = time.process_time() - began_cpu_s
    if store:
        store.close()
    spans = turns * AT_ONCE * size
    return {"cpu_us": cpu_s / spans * 1e6, "spans_per_s": spans / took_s, "turn_ms": took_s / turns * 1e3}


def turn(queue: Queue, store: DurableQueue | None, bodies: list[bytes]) -> None:
    for number in range(AT_ONCE):
        code, message, _ = queue.offer(bodies[number % len(bodies)], PEER)
        assert code == 0, message
    entries = queue.take_new(0, JOIN_BYTES)
    if store:
        assert not store.admitted(entries)
        store.decided(entries)
    queue.put(entries)
    while batch := queue.take(MAX_BATCH_BYTES, 0):
        if store:
            store.sending(batch)
        queue.release(batch)
        if store:
            store.released(batch)
    if store:
        store.turn()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--directory", type=Path, default=Path("build"), help="on the disk that is to be measured")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    rounds, seconds = (1, 0.2) if arguments.quick else (arguments.rounds, SECONDS)
    rows: dict[str, list[Row]] = {}
    for size in SIZES:
        bodies = [body(list(range(first, first + size))) for first in range(0, AT_ONCE * size, size)]
        for round_ in range(rounds):
            progress(f"{size} spans a request, round {round_ + 1}")
            for kind, name in KINDS.items():
                with TemporaryDirectory(dir=arguments.directory) as directory:
                    row = measure(kind, bodies, size, Path(directory), seconds)
                rows.setdefault(f"{size} spans a request, {name}", []).append(row)
    print(table("", rows, COLUMNS))
    write_json(arguments.json, rows)


if __name__ == "__main__":
    main()
