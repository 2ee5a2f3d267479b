"""What the enricher holds of the memory when nothing happens.

`python -m benchmarks.idle_memory [--quick]`: `enricher run` on its defaults, but with ports of its own and a backend,
left alone for a while; then the resident memory of each of its processes. RSS counts a page that two processes
share twice, PSS once.
"""

import argparse
import tempfile
import time
from pathlib import Path

from benchmarks.kit import Column, progress, table, write_json
from tests.e2e.testbed.enricher import Enricher
from tests.e2e.testbed.processes import children, command_line, wait_until
from tests.e2e.testbed.workload import Sink

COLUMNS = (
    Column("RSS MiB", "rss_mib", "{:.1f}".format),
    Column("PSS MiB", "pss_mib", "{:.1f}".format),
    Column("private MiB", "private_mib", "{:.1f}".format),
)


def memory(pid: int) -> dict[str, float]:
    """Of one process, in MiB."""
    lines = (line.split() for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:])
    kib = {words[0].rstrip(":"): int(words[1]) for words in lines}
    return {
        "rss_mib": kib["Rss"] / 1024,
        "pss_mib": kib["Pss"] / 1024,
        "private_mib": (kib["Private_Clean"] + kib["Private_Dirty"]) / 1024,
    }


def measure(seconds: float) -> dict[str, dict[str, float]]:
    with (
        tempfile.TemporaryDirectory() as directory,
        Sink(Path(directory), "sink", keep=False) as sink,
        Enricher(Path(directory), sink.port) as enricher,
    ):
        wait_until(lambda: len(children(enricher.pid)) == 2, "both processes are there", 30.0)
        time.sleep(seconds)
        found = {"supervisor": memory(enricher.pid)}
        for pid in children(enricher.pid):
            found["observer" if "enricher.observer" in command_line(pid) else "pipeline"] = memory(pid)
    assert set(found) == {"supervisor", "observer", "pipeline"}, found
    for name, members in (
        ("observer + pipeline", ("observer", "pipeline")),
        ("all three", ("supervisor", "observer", "pipeline")),
    ):
        found[name] = {column.key: sum(found[m][column.key] for m in members) for column in COLUMNS}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one short round: does it run at all")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=10.0, help="how long it is left alone")
    parser.add_argument("--json", type=Path, help="write every measurement here")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.rounds, arguments.seconds = 1, 3.0
    rows: dict[str, list[dict[str, float]]] = {}
    for number in range(arguments.rounds):
        for name, row in measure(arguments.seconds).items():
            rows.setdefault(name, []).append(row)
        progress(f"round {number}: {rows['all three'][-1]['rss_mib']:.1f} MiB resident")
        write_json(arguments.json, rows)
    print(table(f"idle for {arguments.seconds:g} s", rows, COLUMNS))


if __name__ == "__main__":
    main()
