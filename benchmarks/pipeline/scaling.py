"""Two pipeline processes on two cores beside one on one."""

from dataclasses import replace

from benchmarks.kit import Column, Foreign, cpu_seconds, thousands
from benchmarks.pipeline.load import Load, collect, generate, sink
from benchmarks.pipeline.subjects import Bench, service

# The kernel gives a connection to a worker when it is made: few connections would be shared out unevenly.
CONNECTIONS = 32
SPANS = 512
WARM_UP_S = 0.5

COLUMNS = (
    Column("spans/s", "spans_per_s", thousands),
    Column("spans/CPU-s", "spans_per_cpu_s", thousands),
    Column("of its cores", "cpu_share", "{:.0%}".format),
    Column("marked", "marked", "{:.1%}".format),
    Column("lost", "lost", "{:.0f}".format),
    Column("refused", "refused", "{:.0f}".format),
    Column("cores used by others", "foreign"),
)


def measure(bench: Bench, workers: int, seconds: float) -> dict[str, float]:
    """Flat out, every span stamped: passing on untouched takes so little that the generator would be the limit."""
    load = Load(spans=SPANS, seconds=seconds, connections=CONNECTIONS, concurrency=2 * CONNECTIONS)
    with sink(bench) as receiver, service(bench, workers, receiver.port) as found:
        collect(receiver, generate(bench, found, replace(load, seconds=WARM_UP_S))["acked_spans"])
        foreign = Foreign([*bench.cores.subject[:workers], *bench.cores.load])
        used = cpu_seconds(found.pid)
        sent = generate(bench, found, load)
        got = collect(receiver, sent["acked_spans"])
        used = cpu_seconds(found.pid) - used
        disturbed = foreign.cores_used()
    return {
        "spans_per_s": got["spans"] / got["seconds"],
        "spans_per_cpu_s": got["spans"] / used,
        "cpu_share": used / workers / max(sent["seconds"], got["seconds"]),
        "marked": got["prefix_spans"] / max(1, got["sampled_spans"]),
        "lost": sent["acked_spans"] - got["spans"],
        "refused": sent["refused_spans"],
        "foreign": disturbed,
    }
