"""What it costs a service to be watched: net/http and otelhttp, every request sampled, a handler that does nothing.

`python -m benchmarks.service_overhead [--quick]`. Service, load and observer share two cores; spans go to a receiver
that discards them, on the other cores if there are any, watched or not. In each round the service is watched and not
watched in turns, first as fast as it can answer `wrk`, then at a fixed rate. What each program of the probes costs by
itself is counted by the kernel in a run of its own, as the counting is not free.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.bpf_stats import ProgramCost, costs, counting
from benchmarks.kit import Column, Foreign, cpu_seconds, median, progress, table, write_json
from tests.e2e.testbed import build
from tests.e2e.testbed.processes import Program, wait_until
from tests.e2e.testbed.workload import Sink

LOG_RECORDS = 131_072  # as the supervisor makes it
RETENTION_NS = 30_000_000_000

SATURATED = (
    Column("requests/s", "requests_per_s", "{:,.0f}".format),
    Column("latency p99 ms", "p99_ms", "{:.1f}".format),
    Column("service CPU %", "service_percent", "{:.1f}".format),
    Column("observer CPU %", "observer_percent", "{:.1f}".format),
    Column("spans/s exported", "spans_per_s", "{:,.0f}".format),
    Column("cores used by others", "foreign"),
)
FIXED = (
    Column("requests/s", "requests_per_s", "{:,.0f}".format),
    Column("latency p50 ms", "p50_ms"),
    Column("latency p99 ms", "p99_ms"),
    Column("service CPU %", "service_percent", "{:.1f}".format),
    Column("observer CPU %", "observer_percent", "{:.1f}".format),
    Column("cores used by others", "foreign"),
)
PROGRAMS = (
    Column("ns a run", "ns_per_run", "{:.0f}".format),
    Column("runs a request", "runs_per_request"),
    Column("% of one core", "percent"),
)


@dataclass(frozen=True, slots=True)
class Bench:
    """Where a measurement runs."""

    directory: Path
    cores: tuple[int, int]
    seconds: float
    rate: float


@dataclass(frozen=True, slots=True)
class Service:
    port: int
    pid: int


@contextmanager
def service(bench: Bench, sink: Sink) -> Iterator[Service]:
    command = [str(build.programs() / "plainservice"), "-to", f"127.0.0.1:{sink.port}"]
    log = bench.directory / "service.log"
    with Program("service", command, log, cores=bench.cores) as program:
        ready = program.answer()
        yield Service(ready["port"], ready["pid"])


@contextmanager
def observer(bench: Bench, watched: Service) -> Iterator[int]:
    """The observer alone, with a log that nobody reads but this; its pid, once the service is watched."""
    from enricher._native import EvidenceIndex, LogWriter
    from enricher.config.load import load

    fd = os.memfd_create("evidence", os.MFD_CLOEXEC)
    try:
        LogWriter(fd, LOG_RECORDS)
        index = EvidenceIndex(fd, RETENTION_NS, 1 << 10, 1 << 10)
        command = [sys.executable, "-m", "enricher.observer", "--log-fd", str(fd)]
        log = bench.directory / "observer.log"
        with Program("observer", command, log, cores=bench.cores, pass_fds=[fd]) as program:
            program.feed(load(None, {}).to_json())

            def watching() -> bool:
                assert program.status is None, program.complaint("has ended")
                index.poll()
                return index.process(watched.pid) is not None

            wait_until(watching, "the service is watched", 30.0)
            yield program.pid
    finally:
        os.close(fd)


def wrk(bench: Bench, to: Service, seconds: float) -> dict[str, float]:
    command = [
        *("taskset", "-c", ",".join(map(str, bench.cores))),
        *("wrk", "--latency", "-t2", "-c64", f"-d{seconds:g}s", f"http://127.0.0.1:{to.port}/"),
    ]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    failed = re.search(r"Socket errors: (.*)|Non-2xx.*", output)
    assert not failed, output
    return {"requests_per_s": _number(r"Requests/sec:\s+([\d.]+)", output), "p99_ms": _p99_ms(output)}


def _number(pattern: str, text: str) -> float:
    found = re.search(pattern, text)
    assert found, text
    return float(found[1])


def _p99_ms(output: str) -> float:
    found = re.search(r"99%\s+([\d.]+)(us|ms|s)", output)
    assert found, output
    return float(found[1]) * {"us": 1e-3, "ms": 1.0, "s": 1e3}[found[2]]


def fixed_rate(bench: Bench, to: Service, seconds: float) -> dict[str, float]:
    command = [
        str(build.programs() / "httpload"),
        *("-address", f"127.0.0.1:{to.port}", "-rate", str(bench.rate), "-duration", f"{seconds}s"),
    ]
    with Program("load", command, bench.directory / "load.log", cores=bench.cores) as program:
        answer = program.answer()
    return {
        "requests_per_s": answer["requests"] / answer["seconds"],
        "p50_ms": answer["p50_ms"],
        "p99_ms": answer["p99_ms"],
    }


def measure(bench: Bench, load: str, to: Service, sink: Sink, watcher: int | None) -> dict[str, float]:
    """One run of `saturated` or `fixed` load; CPU in percent of one core."""
    sink.ask("reset")
    foreign = Foreign(bench.cores)
    pids = [to.pid] if watcher is None else [to.pid, watcher]
    before = [cpu_seconds(pid) for pid in pids]
    began = time.monotonic()
    row = (wrk if load == "saturated" else fixed_rate)(bench, to, bench.seconds)
    wall = time.monotonic() - began
    used = [100 * (cpu_seconds(pid) - then) / wall for pid, then in zip(pids, before, strict=True)]
    row |= {
        "service_percent": used[0],
        "foreign": foreign.cores_used(),
        "spans_per_s": sink.ask("peek")["spans"] / wall,
    }
    return row | ({"observer_percent": used[1]} if watcher is not None else {})


def program_costs(bench: Bench, to: Service) -> list[tuple[ProgramCost, float, float]]:
    """Of each program of the probes at saturation: its counts, runs a request, and percent of one core."""
    with observer(bench, to) as watcher, counting():
        before = {cost.id: cost for cost in costs(watcher)}
        answered = wrk(bench, to, bench.seconds)["requests_per_s"] * bench.seconds
        found = []
        for cost in costs(watcher):
            spent = cost.since(before.get(cost.id))
            found.append((spent, spent.runs / answered, 100 * spent.ns / 1e9 / bench.seconds))
        return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one short round: does it run at all")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--rate", type=float, default=10_000.0, help="requests a second of the fixed load")
    parser.add_argument("--cores", type=int, nargs=2, default=(0, 1), help="of service, load and observer")
    parser.add_argument("--json", type=Path, help="write every measurement here")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.rounds, arguments.seconds = 1, 2.0
    if not shutil.which("wrk"):
        sys.exit("wrk is missing: apt-get install wrk")

    first, second = arguments.cores
    rows: dict[str, list[dict[str, float]]] = {}
    with tempfile.TemporaryDirectory() as directory:
        bench = Bench(Path(directory), (first, second), arguments.seconds, arguments.rate)
        others = sorted(os.sched_getaffinity(0) - set(bench.cores)) or sorted(bench.cores)
        with Sink(bench.directory, "sink", keep=False, cores=others) as sink, service(bench, sink) as to:
            wrk(bench, to, min(2.0, bench.seconds))  # warm
            for number in range(arguments.rounds):
                for load in ("saturated", "fixed"):
                    # Which is first changes from round to round: neither always follows the other's heat.
                    for watched in (False, True) if number % 2 == 0 else (True, False):
                        name = f"{load}, {'' if watched else 'not '}watched"
                        rows.setdefault(name, []).append(_turn(bench, load, to, sink, watched=watched))
                        progress(f"round {number} {name}: {json.dumps(rows[name][-1])}")
                        write_json(arguments.json, rows)
            programs = program_costs(bench, to)
    report(rows, programs)


def _turn(bench: Bench, load: str, to: Service, sink: Sink, *, watched: bool) -> dict[str, float]:
    if not watched:
        return measure(bench, load, to, sink, None)
    with observer(bench, to) as watcher:
        return measure(bench, load, to, sink, watcher)


def report(rows: dict[str, list[dict[str, float]]], programs: list[tuple[ProgramCost, float, float]]) -> None:
    for load, columns in (("saturated", SATURATED), ("fixed", FIXED)):
        print(table(f"{load} load", {n: rows[n] for n in rows if n.startswith(load)}, columns), end="\n\n")
    measured = {
        cost.name: [{"ns_per_run": cost.ns_per_run, "runs_per_request": runs, "percent": percent}]
        for cost, runs, percent in programs
    }
    print(table("program, at saturation", measured, PROGRAMS), end="\n\n")
    lost = [
        100 * (1 - on["requests_per_s"] / off["requests_per_s"])
        for on, off in zip(rows["saturated, watched"], rows["saturated, not watched"], strict=True)
    ]
    added = [
        on["service_percent"] + on["observer_percent"] - off["service_percent"]
        for on, off in zip(rows["fixed, watched"], rows["fixed, not watched"], strict=True)
    ]
    pairs = {
        "requests/s lost, %": [{"of": of} for of in lost],
        "CPU added, % of one core": [{"of": of} for of in added],
    }
    print(table("by being watched, round by round", pairs, (Column("min / median / max", "of", "{:.1f}".format),)))
    without, with_ = (median(rows[f"saturated, {which}"], "requests_per_s") for which in ("not watched", "watched"))
    print(f"medians: {without:,.0f} requests/s without, {with_:,.0f} with: {100 * (1 - with_ / without):.1f} % lost")


if __name__ == "__main__":
    main()
