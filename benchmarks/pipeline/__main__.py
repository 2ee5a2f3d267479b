"""The pipeline beside a bare forwarder and a real collector: `python -m benchmarks.pipeline [--quick]`.

In each round every subject is measured in its turn: flat out, for throughput per CPU-second; some then at half of
what they took, for the age of spans on arrival; and the pipeline for its memory, and for two workers against one. Once
it is overloaded with its backend away. At the end stands what is to be reached beside what was; if a median is not
there, the exit status is 1.
"""

import argparse
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

from benchmarks.kit import Row, progress, table, write_json
from benchmarks.pipeline import flow, memory, scaling
from benchmarks.pipeline.flow import Case
from benchmarks.pipeline.goals import verdict
from benchmarks.pipeline.subjects import ENRICHERS, SUBJECTS, Bench, Cores
from tests.e2e.testbed import build

SIZES = (8, 64, 512)
SIZE_IN_DEPTH = 512  # what an SDK's batches have at most
COMPRESSED = ("collector", "attributes", "native-evidence", "native-stamp")
# Those in which nothing is held back for a tail: the age is the hop's alone.
AGED = ("bare", "collector", "native", "grpcio")
RESIDENT = ("native", "native-evidence")
OVERLOADED = "native"
PARTS = ("flow", "memory", "scaling", "overload")

# Of the cores of a measurement, what others may use of them before it is done again.
MOST_FOREIGN = 0.15

Rows = dict[str, list[Row]]


def cases(subjects: Sequence[str], sizes: Sequence[int]) -> Iterator[Case]:
    for spans in sizes:
        in_depth = spans == SIZE_IN_DEPTH
        for name in subjects:
            yield Case(name, spans, aged=in_depth and name in AGED)
        for name in COMPRESSED if in_depth else ():
            if name in subjects:
                yield Case(name, spans, "gzip")


def undisturbed(measure: Callable[[], Row], tries: int) -> Row:
    """Measures again while others use the cores, and keeps the least disturbed: the result has no say in that."""
    rows = [measure()]
    while rows[-1]["foreign"] > MOST_FOREIGN and len(rows) < tries:
        rows.append(measure())
    return min(rows, key=lambda row: row["foreign"])


def main() -> int:
    arguments = _arguments()
    rows: Rows = {}
    build.programs()
    build.collector()

    def note(name: str, row: Row) -> None:
        rows.setdefault(name, []).append(row)
        write_json(arguments.json, rows)

    wanted = list(cases(arguments.subjects, arguments.spans))
    enrichers = [name for name in RESIDENT if name in arguments.subjects]
    with tempfile.TemporaryDirectory() as directory:
        bench = Bench(Path(directory), Cores(arguments.subject_cores, arguments.load_cores))
        for number in range(arguments.rounds):
            # Forth and back, so that no subject always follows the same one.
            turns = wanted if number % 2 == 0 else wanted[::-1]
            for case in turns if "flow" in arguments.parts else ():
                row = undisturbed(partial(flow.measure, bench, case, arguments.seconds), arguments.tries)
                progress(f"round {number} {case.name}: {row['spans_per_cpu_s']:,.0f} spans/CPU-s")
                note(case.name, row)
            for name in enrichers if "memory" in arguments.parts else ():
                row = memory.resident(bench, name, arguments.memory_seconds)
                progress(f"round {number} {name}: {row['idle_mib']:.1f} MiB idle, {row['resident_mib']:.1f} MiB")
                note(name, row)
            for workers in (1, 2) if "scaling" in arguments.parts else ():
                row = undisturbed(partial(scaling.measure, bench, workers, arguments.seconds), arguments.tries)
                progress(f"round {number} workers {workers}: {row['spans_per_s']:,.0f} spans/s")
                note(f"{workers} worker" + "s" * (workers > 1), row)
        if "overload" in arguments.parts and arguments.overload_minutes:
            row = memory.overload(bench, OVERLOADED, arguments.overload_minutes * 60)
            progress(f"overloaded: {row['highest_mib']:.0f} MiB")
            note(f"{OVERLOADED} overloaded", row)
    return _report(arguments, rows, wanted)


def _report(arguments: argparse.Namespace, rows: Rows, wanted: Sequence[Case]) -> int:
    def part(names: Sequence[str]) -> Rows:
        return {name: rows[name] for name in names if name in rows}

    for title, columns, names in (
        ("flat out, spans/request", flow.THROUGHPUT, [case.name for case in wanted]),
        ("at half of that", flow.AGES, [case.name for case in wanted if case.aged]),
        ("resident", memory.RESIDENT, list(ENRICHERS)),
        ("workers, a core each", scaling.COLUMNS, ["1 worker", "2 workers"]),
        ("backend away", memory.OVERLOAD, [f"{OVERLOADED} overloaded"]),
    ):
        if found := part(names):
            print(table(title, found, columns), end="\n\n")
    told, met = verdict(rows)
    print(told)
    return 0 if met or arguments.no_verdict else 1


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one short round at one size: does it run at all")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--subjects", nargs="+", choices=SUBJECTS, default=SUBJECTS)
    parser.add_argument("--spans", nargs="+", type=int, default=SIZES, help="spans in a request")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=3.0, help="of each flat-out and half-load run")
    parser.add_argument("--tries", type=int, default=2, help="at most, where others use the cores meanwhile")
    parser.add_argument("--memory-seconds", type=float, default=40.0, help="at 10,000 spans/s")
    parser.add_argument("--overload-minutes", type=float, default=1.0, help="with the backend away; 0: not at all")
    cores = Cores.halves()
    parser.add_argument(
        "--subject-cores", nargs="+", type=int, default=cores.subject, help="all but scaling: the first"
    )
    parser.add_argument("--load-cores", nargs="+", type=int, default=cores.load)
    parser.add_argument("--no-verdict", action="store_true", help="status 0 whatever was reached")
    parser.add_argument("--json", type=Path, help="write every measurement here")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.rounds, arguments.tries, arguments.seconds, arguments.spans = 1, 1, 1.0, arguments.spans[-1:]
        arguments.memory_seconds, arguments.overload_minutes, arguments.no_verdict = 3.0, 0.1, True
    return arguments


if __name__ == "__main__":
    sys.exit(main())
