"""What the pipeline holds of the memory: with nothing to do, with something to do, and with far too much of it.

Resident memory as the kernel counts it for a limit: the pages of the evidence log that were touched, too.
"""

import time
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import AbstractContextManager, ExitStack
from dataclasses import replace

from benchmarks.kit import Column, memory_mib, thousands
from benchmarks.pipeline.load import Load, collect, generate, generator, sink
from benchmarks.pipeline.subjects import ENRICHERS, ROOM, Bench, Subject, pipeline
from enricher.supervisor import LOG_RECORDS
from tests.e2e.testbed.processes import free_port, wait_until

SAMPLE_EVERY_S = 1.0
IDLE_S = 5.0
RATE = 10_000.0
SPANS = 512
CALIBRATION_S = 3.0
TIMES = 3  # of what it takes flat out

RESIDENT = (
    Column("idle MiB", "idle_mib", "{:.1f}".format),
    Column(f"at {RATE:,.0f} spans/s MiB", "resident_mib", "{:.1f}".format),
    Column("lost", "lost", "{:.0f}".format),
)
OVERLOAD = (
    Column("spans/s it takes", "capacity", thousands),
    Column("offered, of that", "times", "{:.1f}x".format),
    Column("taken", "taken", "{:.1%}".format),
    Column("RSS MiB: first third", "first_mib", "{:.0f}".format),
    Column("last two thirds", "rest_mib", "{:.0f}".format),
    Column("growth", "growth", "{:+.1%}".format),
    Column("limit MiB", "limit_mib", "{:.0f}".format),
    Column("lost", "lost", "{:.0f}".format),
)


def resident(bench: Bench, name: str, seconds: float) -> dict[str, float]:
    """Of one subject, idle and then at RATE for so long: retention is 30 s, so what is kept needs that long to fill."""
    load = Load(spans=SPANS, seconds=seconds, rate=RATE)
    with sink(bench) as receiver, _started(bench, name, receiver.port) as found:
        time.sleep(IDLE_S)
        idle_mib = memory_mib(found.pid, "VmRSS")
        sent, samples = _watched(bench, found, load)
        got = collect(receiver, sent["acked_spans"])
        return {"idle_mib": idle_mib, "resident_mib": max(samples), "lost": sent["acked_spans"] - got["spans"]}


def overload(bench: Bench, name: str, seconds: float) -> dict[str, float]:
    """Offers thrice as much as it takes while its backend is away, and lets it deliver when the backend is back."""
    load = Load(spans=SPANS, seconds=CALIBRATION_S, connections=32, concurrency=64)
    with ExitStack() as stack:
        first = stack.enter_context(sink(bench))
        port = first.port
        found = stack.enter_context(_started(bench, name, port))
        got = collect(first, generate(bench, found, load)["acked_spans"])
        capacity = got["spans"] / got["seconds"]
        first.stop()

        sent, samples = _watched(bench, found, replace(load, seconds=seconds, rate=TIMES * capacity, impatient=True))
        second = stack.enter_context(sink(bench, port))
        wait_until(lambda: second.ask("peek")["spans"], "spans arrive at the backend that is back", 60.0)
        arrived = collect(second, sent["acked_spans"])["spans"]
    offered = sent["acked_spans"] + sent["refused_spans"]
    begin = max(samples[: len(samples) // 3])
    rest = max(samples[len(samples) // 3 :])
    return {
        "capacity": capacity,
        "times": offered / sent["seconds"] / capacity,
        "taken": sent["acked_spans"] / offered,
        "first_mib": begin,
        "rest_mib": rest,
        "highest_mib": max(samples),
        "of_limit": max(samples) / ROOM.limit_mib,
        "growth": rest / begin - 1,
        "limit_mib": ROOM.limit_mib,
        "lost": sent["acked_spans"] - arrived,
    }


def _started(bench: Bench, name: str, to_port: int) -> AbstractContextManager[Subject]:
    """With a log as deep as the supervisor makes it, since its pages count."""
    return pipeline(bench, ENRICHERS[name], free_port(), to_port, room=ROOM, log_records=LOG_RECORDS)


def _watched(bench: Bench, to: Subject, load: Load) -> tuple[dict[str, float], list[float]]:
    """What became of a load, and the subject's resident memory in MiB every second meanwhile."""
    samples = []
    with generator(bench, to, load) as program, ThreadPoolExecutor(1) as executor:
        answer = executor.submit(program.answer)
        while not wait([answer], SAMPLE_EVERY_S).done:
            samples.append(memory_mib(to.pid, "VmRSS"))
        samples.append(memory_mib(to.pid, "VmRSS"))
        return answer.result(), samples
