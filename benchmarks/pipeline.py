"""What it costs to pass spans on: the enricher's pipeline beside a bare forwarder and a real collector.

`python -m benchmarks.pipeline [--quick]`. The subject runs on one core, generator and receiver on another. In each
round every subject is sent spans flat out, for throughput per CPU-second, and then at half of what it took, for the
age of spans on arrival; the same rate straight to the receiver says what of that age is the subject's own.

bare        grpcio, bytes in and the same bytes out: benchmarks/grpcio_forwarder.py
collector   a real OpenTelemetry Collector, OTLP in and OTLP out
enricher    the pipeline with nobody watching
evidence    the pipeline with a log in which every span has its end, and one in twenty a wait
"""

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.kit import Column, Foreign, cpu_seconds, median, memory_mib, progress, table, thousands, write_json
from tests.e2e.testbed import build
from tests.e2e.testbed.processes import Program, free_port, wait_until
from tests.e2e.testbed.workload import Collector, Sink

LOG_RECORDS = 1 << 18
EVERY = 20  # one span in so many has evidence

SUBJECTS = ("bare", "collector", "enricher", "evidence")
THROUGHPUT = (
    Column("spans/s", "spans_per_s", thousands),
    Column("spans/CPU-s", "spans_per_cpu_s", thousands),
    Column("of its core", "cpu_share", "{:.0%}".format),
    Column("RSS idle MiB", "idle_mib", "{:.0f}".format),
    Column("RSS peak MiB", "peak_mib", "{:.0f}".format),
    Column("spans marked", "marked", "{:.1%}".format),
    Column("cores used by others", "foreign"),
)
AGES = (
    Column("p50 ms", "p50_ms", "{:.1f}".format),
    Column("p99 ms", "p99_ms", "{:.1f}".format),
    Column("added p50 ms", "added_p50_ms", "{:.1f}".format),
    Column("added p99 ms", "added_p99_ms", "{:.1f}".format),
    Column("spans/CPU-s", "spans_per_cpu_s_at_half", thousands),
    Column("spans marked", "marked_at_half", "{:.1%}".format),
    Column("lost", "lost", "{:.0f}".format),
    Column("refused", "refused", "{:.0f}".format),
    Column("sent again", "retries", "{:.0f}".format),
)


@dataclass(frozen=True, slots=True)
class Bench:
    """Where a measurement runs."""

    directory: Path
    subject_core: int
    load_core: int
    seconds: float

    @property
    def other_cores(self) -> list[int]:
        return sorted(os.sched_getaffinity(0) - {self.subject_core})


@dataclass(frozen=True, slots=True)
class Subject:
    """Something that takes spans on a port and sends them on."""

    port: int
    program: Program | None  # None: the receiver itself
    evidence: Path | None = None  # where the generator puts what the kernel would have seen

    @property
    def pid(self) -> int:
        assert self.program is not None
        return self.program.pid


@contextmanager
def subject(bench: Bench, name: str, to_port: int) -> Iterator[Subject]:
    cores = [bench.subject_core]
    port = free_port()
    log = bench.directory / f"{name}.log"
    if name == "bare":
        command = [sys.executable, "-m", "benchmarks.grpcio_forwarder", str(port), str(to_port)]
        with Program(name, command, log, cores=cores) as program:
            program.wait_listening(port)
            yield Subject(port, program)
    elif name == "collector":
        with Collector(bench.directory, to_port, port, cores=cores) as collector:
            yield Subject(port, collector)
    else:
        with pipeline(bench, name, port, to_port) as found:
            yield found


@contextmanager
def pipeline(bench: Bench, name: str, port: int, to_port: int) -> Iterator[Subject]:
    """The unprivileged half alone, with a log that nobody or the stand-in of the observer writes to."""
    from enricher._native import LogWriter
    from enricher.config.load import load

    config = bench.directory / "enricher.yaml"
    config.write_text(json.dumps(_config(port, to_port)))  # which is YAML, too
    with ExitStack() as stack:
        writable = os.memfd_create("evidence", os.MFD_CLOEXEC)
        stack.callback(os.close, writable)
        LogWriter(writable, LOG_RECORDS)
        readable = os.open(f"/proc/self/fd/{writable}", os.O_RDONLY | os.O_CLOEXEC)
        stack.callback(os.close, readable)
        program = stack.enter_context(
            Program(
                name,
                [sys.executable, "-m", "enricher.pipeline", "--log-fd", str(readable)],
                bench.directory / f"{name}.log",
                # As the supervisor starts it.
                environment=os.environ | {"MALLOC_ARENA_MAX": "2"},
                cores=[bench.subject_core],
                pass_fds=[readable],
            )
        )
        program.feed(load(config, {}).to_json())
        program.wait_listening(port)
        evidence = None
        if name == "evidence":
            evidence = bench.directory / "records"
            evidence.unlink(missing_ok=True)
            os.mkfifo(evidence)
            command = [sys.executable, "-m", "benchmarks.evidence_writer", str(writable), str(evidence)]
            writer = stack.enter_context(
                Program("writer", command, bench.directory / "writer.log", cores=bench.other_cores, pass_fds=[writable])
            )
            writer.answer()
        yield Subject(port, program, evidence)


def _config(port: int, to_port: int) -> dict[str, object]:
    return {
        "receivers": {"otlp": {"protocols": {"grpc": {"endpoint": f"127.0.0.1:{port}"}}}},
        "exporters": {"otlp_grpc": {"endpoint": f"127.0.0.1:{to_port}"}},
        "service": {
            "pipelines": {"traces": {"receivers": ["otlp"], "processors": ["ebpf"], "exporters": ["otlp_grpc"]}},
            "telemetry": {"metrics": {"address": f"127.0.0.1:{free_port()}"}},
        },
    }


def generate(bench: Bench, to: Subject, spans: int, seconds: float, rate: float = 0.0) -> dict[str, float]:
    command = [
        str(build.programs() / "spangen"),
        *("-to", f"127.0.0.1:{to.port}", "-spans", str(spans), "-duration", f"{seconds}s", "-rate", str(rate)),
        *(("-evidence", str(to.evidence), "-every", str(EVERY)) if to.evidence else ()),
    ]
    with Program("generator", command, bench.directory / "generator.log", cores=[bench.load_core]) as generator:
        return generator.answer()


def collect(sink: Sink, acknowledged: float) -> dict[str, float]:
    """The receiver's counts once all that was acknowledged is there, or nothing has come for a while; then anew."""
    seen = -1.0
    still = 0

    def arrived() -> bool:
        nonlocal seen, still
        spans = sink.ask("peek")["spans"]
        still = still + 1 if spans == seen else 0
        seen = spans
        return spans >= acknowledged or still > 150

    wait_until(arrived, "the receiver comes to rest", 120.0)
    return sink.ask("reset")


def measure(bench: Bench, name: str, spans: int) -> dict[str, float]:
    with (
        Sink(bench.directory, "sink", keep=False, cores=[bench.load_core]) as sink,
        subject(bench, name, sink.port) as found,
    ):
        row = {"idle_mib": memory_mib(found.pid, "VmRSS")}
        collect(sink, generate(bench, found, spans, 0.5)["acked_spans"])
        row |= throughput(bench, found, sink, spans)
        aged = at_rate(bench, found, sink, spans, row["spans_per_s"] / 2)
        return row | aged | {key: row[key] + aged[key] for key in ("lost", "refused", "retries")}


def throughput(bench: Bench, to: Subject, sink: Sink, spans: int) -> dict[str, float]:
    """Flat out."""
    foreign = Foreign([bench.subject_core, bench.load_core])
    used = cpu_seconds(to.pid)
    sent = generate(bench, to, spans, bench.seconds)
    got = collect(sink, sent["acked_spans"])
    used = cpu_seconds(to.pid) - used
    return {
        "spans_per_s": got["spans"] / got["seconds"],
        "spans_per_cpu_s": got["spans"] / used,
        "cpu_share": used / max(sent["seconds"], got["seconds"]),
        "peak_mib": memory_mib(to.pid, "VmHWM"),
        "marked": got["prefix_spans"] / max(1, got["sampled_spans"]),
        "foreign": foreign.cores_used(),
        "lost": sent["acked_spans"] - got["spans"],
        "refused": sent["refused_spans"],
        "retries": sent["retries"],
    }


def at_rate(bench: Bench, to: Subject, sink: Sink, spans: int, rate: float) -> dict[str, float]:
    """With room to spare: the age of spans on arrival, and what of it is there without the subject, too."""
    used = cpu_seconds(to.pid)
    sent = generate(bench, to, spans, bench.seconds, rate)
    got = collect(sink, sent["acked_spans"])
    used = cpu_seconds(to.pid) - used
    direct = generate(bench, Subject(sink.port, None), spans, bench.seconds / 2, rate)
    straight = collect(sink, direct["acked_spans"])
    return {
        "p50_ms": got["latency_p50_ms"],
        "p99_ms": got["latency_p99_ms"],
        "added_p50_ms": got["latency_p50_ms"] - straight["latency_p50_ms"],
        "added_p99_ms": got["latency_p99_ms"] - straight["latency_p99_ms"],
        "spans_per_cpu_s_at_half": got["spans"] / used,
        "marked_at_half": got["prefix_spans"] / max(1, got["sampled_spans"]),
        "lost": sent["acked_spans"] - got["spans"],
        "refused": sent["refused_spans"],
        "retries": sent["retries"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one short round at one size: does it run at all")
    parser.add_argument("--subjects", nargs="+", choices=SUBJECTS, default=SUBJECTS)
    parser.add_argument("--spans", nargs="+", type=int, default=[8, 64, 512], help="spans in a request")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--subject-core", type=int, default=0)
    parser.add_argument("--load-core", type=int, default=1)
    parser.add_argument("--json", type=Path, help="write every measurement here")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.rounds, arguments.seconds, arguments.spans = 1, 1.0, arguments.spans[-1:]

    rows: dict[str, list[dict[str, float]]] = {}
    with tempfile.TemporaryDirectory() as directory:
        bench = Bench(Path(directory), arguments.subject_core, arguments.load_core, arguments.seconds)
        for number in range(arguments.rounds):
            for spans in arguments.spans:
                for name in arguments.subjects:
                    row = measure(bench, name, spans)
                    rows.setdefault(f"{name} {spans}", []).append(row)
                    progress(f"round {number} {name} {spans}: {row['spans_per_cpu_s']:,.0f} spans/CPU-s")
                    write_json(arguments.json, rows)
    ordered = {f"{n} {s}": rows[f"{n} {s}"] for s in arguments.spans for n in arguments.subjects}
    print(table("flat out, spans/request", ordered, THROUGHPUT), end="\n\n")
    print(table("at half of that", ordered, AGES), end="\n\n")
    for spans in arguments.spans:
        bare = rows.get(f"bare {spans}")
        for name in arguments.subjects:
            if bare and name != "bare":
                ratio = median(rows[f"{name} {spans}"], "spans_per_cpu_s") / median(bare, "spans_per_cpu_s")
                print(f"{spans} spans a request: {name} does {ratio:.2f} of bare's spans per CPU-second")


if __name__ == "__main__":
    main()
