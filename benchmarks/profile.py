"""Where the CPU time of a subject goes: `python -m benchmarks.profile [SUBJECT] [--spans N]`.

The subject is sent spans flat out, once while perf looks at it, and once while py-spy does. perf tells the kernel,
the C libraries, the native module and the interpreter apart, and the symbols within; py-spy, which of the Python
functions hold the interpreter. Sampled by a clock, as virtual machines often have no hardware counters: what runs
with interrupts off shows up where they are let in again.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

from benchmarks.pipeline.load import Load, collect, generate, generator, sink
from benchmarks.pipeline.subjects import ENRICHERS, SUBJECTS, Bench, Cores, subject
from tests.e2e.testbed import build

HZ = 499  # no divisor of anything that ticks
WARM_UP_S = 1.0
AROUND_S = 3.0  # warming up before, and a profiler's own start: the load outlasts it

# `pid` is what perf calls a thread with its name.
PERF_SECTIONS = (("by library", "dso"), ("by thread", "pid"), ("by symbol", "dso,sym"))


def native_profile(pid: int, seconds: float, directory: Path, top: int) -> str:
    """What perf saw."""
    data = directory / "perf.data"
    record = ["perf", "record", "--event", "cpu-clock", "--freq", str(HZ), "--pid", str(pid), "--output", str(data)]
    _run([*record, "--", "sleep", str(seconds)])
    sections = []
    for title, keys in PERF_SECTIONS:
        report = ["perf", "report", "--stdio", "--quiet", "--no-children", "--input", str(data)]
        told = _run([*report, "--fields", f"overhead,{keys}"])
        lines = [line.rstrip() for line in told.splitlines() if line.strip()]
        sections.append("\n".join([f"perf, {title}", *lines[:top]]))
    return "\n\n".join(sections)


def python_profile(pid: int, seconds: float, directory: Path, top: int) -> str:
    """What py-spy saw: the Python functions that held the interpreter, by themselves and with all they called.

    It does not stop the process for a look: at this many threads that would leave next to nothing to look at. So a
    few looks fail, or see a stack that was changing.
    """
    data = directory / "py-spy.raw"
    py_spy = str(Path(sys.executable).with_name("py-spy"))
    record = [py_spy, "record", "--pid", str(pid), "--duration", str(round(seconds)), "--rate", str(HZ)]
    record += ["--gil", "--nonblocking"]
    _run([*record, "--format", "raw", "--output", str(data)])
    alone: Counter[str] = Counter()
    within: Counter[str] = Counter()
    for line in data.read_text().splitlines():
        stack, _, count = line.rpartition(" ")
        frames = [frame for frame in stack.split(";") if frame]
        if not frames:
            continue
        alone[_function(frames[-1])] += int(count)
        within.update(dict.fromkeys({_function(frame) for frame in frames}, int(count)))
    total = max(1, alone.total())
    sections = []
    for title, counted in (("by function", alone), ("by function, with what it calls", within)):
        lines = [f"{count / total:8.2%}  {name}" for name, count in counted.most_common(top)]
        sections.append("\n".join([f"py-spy, {title}", *lines]))
    return "\n\n".join(sections)


def _function(frame: str) -> str:
    """`function (path:line)` without its line."""
    return frame.rpartition(":")[0] + ")" if frame.endswith(")") and ":" in frame else frame


def _run(command: list[str]) -> str:
    result = subprocess.run(command, check=False, capture_output=True, text=True)
    if result.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{result.stdout}{result.stderr}")
    return result.stdout


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("subject", nargs="?", choices=SUBJECTS, default="native-evidence")
    parser.add_argument("--spans", type=int, default=512, help="in a request")
    parser.add_argument("--compression", choices=("none", "gzip"), default="none", help="on both sides of the subject")
    parser.add_argument("--rate", type=float, default=0.0, help="spans a second; 0: flat out")
    parser.add_argument("--seconds", type=float, default=5.0, help="that each profiler looks")
    parser.add_argument("--top", type=int, default=25, help="lines of each table")
    arguments = parser.parse_args()
    build.programs()
    build.collector()
    looks = [native_profile, *([python_profile] if arguments.subject in {"bare", *ENRICHERS} else [])]
    load = Load(
        spans=arguments.spans,
        seconds=arguments.seconds + AROUND_S,
        rate=arguments.rate,
        compression=arguments.compression,
    )
    with tempfile.TemporaryDirectory() as directory:
        bench = Bench(Path(directory), Cores.halves())
        with (
            sink(bench) as receiver,
            subject(bench, arguments.subject, receiver.port, arguments.compression) as found,
        ):
            collect(receiver, generate(bench, found, replace(load, seconds=WARM_UP_S))["acked_spans"])
            for look in looks:
                with generator(bench, found, load) as program:
                    time.sleep(WARM_UP_S)
                    print(look(found.pid, arguments.seconds, bench.directory, arguments.top), end="\n\n")
                    sent = program.answer()
                print(f"{sent['acked_spans'] / sent['seconds']:,.0f} spans/s meanwhile", end="\n\n", flush=True)
                collect(receiver, sent["acked_spans"])


if __name__ == "__main__":
    main()
