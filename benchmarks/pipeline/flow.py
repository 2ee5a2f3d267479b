"""Throughput per CPU-second flat out, and what a subject adds to the age of spans at half of that."""

from dataclasses import dataclass, replace

from benchmarks.kit import Column, Foreign, cpu_seconds, memory_mib, thousands
from benchmarks.pipeline.load import Load, collect, generate, sink
from benchmarks.pipeline.subjects import Bench, Subject, subject
from tests.e2e.testbed.workload import Compression, Sink

WARM_UP_S = 0.5

THROUGHPUT = (
    Column("spans/s", "spans_per_s", thousands),
    Column("spans/CPU-s", "spans_per_cpu_s", thousands),
    Column("of its core", "cpu_share", "{:.0%}".format),
    Column("RSS peak MiB", "peak_mib", "{:.0f}".format),
    Column("marked", "marked", "{:.1%}".format),
    Column("attributes/span", "attributes"),
    Column("B/span sent on", "sent_on_bytes", "{:.0f}".format),
    Column("lost", "lost", "{:.0f}".format),
    Column("refused", "refused", "{:.0f}".format),
    Column("sent again", "retries", "{:.0f}".format),
    Column("cores used by others", "foreign"),
)
AGES = (
    Column("spans/s", "spans_per_s_at_half", thousands),
    Column("p50 ms", "p50_ms"),
    Column("p99 ms", "p99_ms"),
    Column("added p50 ms", "added_p50_ms"),
    Column("added p99 ms", "added_p99_ms"),
    Column("spans/CPU-s", "spans_per_cpu_s_at_half", thousands),
    Column("lost", "lost_at_half", "{:.0f}".format),
)


@dataclass(frozen=True, slots=True)
class Case:
    """One subject under one kind of load."""

    subject: str
    spans: int  # in a request
    compression: Compression = "none"  # on both sides of it
    aged: bool = False  # also at half load

    @property
    def name(self) -> str:
        return f"{self.subject} {self.spans}" + ("" if self.compression == "none" else f" {self.compression}")


def measure(bench: Bench, case: Case, seconds: float) -> dict[str, float]:
    """Keys: those of THROUGHPUT, and of AGES where they are asked for."""
    load = Load(spans=case.spans, seconds=seconds, compression=case.compression)
    with (
        sink(bench) as receiver,
        subject(bench, case.subject, receiver.port, case.compression) as found,
    ):
        collect(receiver, generate(bench, found, replace(load, seconds=WARM_UP_S))["acked_spans"])
        row = _flat_out(bench, found, receiver, load)
        if case.aged:
            row |= _at_rate(bench, found, receiver, replace(load, rate=row["spans_per_s"] / 2))
        return row


def _flat_out(bench: Bench, to: Subject, receiver: Sink, load: Load) -> dict[str, float]:
    foreign = Foreign([*bench.cores.one, *bench.cores.load])
    used = cpu_seconds(to.pid)
    sent = generate(bench, to, load)
    got = collect(receiver, sent["acked_spans"])
    used = cpu_seconds(to.pid) - used
    looked_at = max(1, got["sampled_spans"])
    return {
        "spans_per_s": got["spans"] / got["seconds"],
        "spans_per_cpu_s": got["spans"] / used,
        "cpu_share": used / max(sent["seconds"], got["seconds"]),
        "peak_mib": memory_mib(to.pid, "VmHWM"),
        "marked": got["prefix_spans"] / looked_at,
        "attributes": got["prefix_attributes"] / looked_at,
        "sent_on_bytes": got["wire_bytes"] / got["spans"],
        "foreign": foreign.cores_used(),
        "lost": sent["acked_spans"] - got["spans"],
        "refused": sent["refused_spans"],
        "retries": sent["retries"],
    }


def _at_rate(bench: Bench, to: Subject, receiver: Sink, load: Load) -> dict[str, float]:
    """With room to spare: the age of spans on arrival, and what of it is there without the subject, too."""
    used = cpu_seconds(to.pid)
    sent = generate(bench, to, load)
    got = collect(receiver, sent["acked_spans"])
    used = cpu_seconds(to.pid) - used
    direct = generate(bench, Subject(receiver.port, None), load)
    straight = collect(receiver, direct["acked_spans"])
    return {
        "spans_per_s_at_half": got["spans"] / got["seconds"],
        "p50_ms": got["latency_p50_ms"],
        "p99_ms": got["latency_p99_ms"],
        "added_p50_ms": got["latency_p50_ms"] - straight["latency_p50_ms"],
        "added_p99_ms": got["latency_p99_ms"] - straight["latency_p99_ms"],
        "spans_per_cpu_s_at_half": got["spans"] / used,
        "lost_at_half": sent["acked_spans"] - got["spans"],
    }
