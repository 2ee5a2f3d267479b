"""Spans to a subject, and what came of them."""

from dataclasses import dataclass

from benchmarks.pipeline.subjects import Bench, Subject
from enricher.evidence.records import EVENTS_VERSION
from tests.e2e.testbed import build
from tests.e2e.testbed.processes import Program, wait_until
from tests.e2e.testbed.workload import Compression, Sink

ARRIVAL_DEADLINE_S = 120.0
# Nothing has come for so many looks, 20 ms apart: nothing more comes.
STILL = 150


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What is sent."""

    spans: int  # in a request
    seconds: float
    rate: float = 0.0  # spans a second; 0: flat out
    compression: Compression = "none"
    connections: int = 4
    concurrency: int = 16  # requests in flight at most
    impatient: bool = False  # what is refused is dropped, not sent again


def sink(bench: Bench, port: int = 0) -> Sink:
    """The receiver behind the subject."""
    return Sink(bench.directory, "sink", keep=False, port=port, cores=bench.cores.load)


def generate(bench: Bench, to: Subject, load: Load) -> dict[str, float]:
    """Sends, and says what became of it: acked_spans, refused_spans, retries, seconds."""
    with generator(bench, to, load) as program:
        return program.answer()


def generator(bench: Bench, to: Subject, load: Load) -> Program:
    """It answers once, when it has sent all."""
    command = [
        str(build.programs() / "spangen"),
        *("-to", f"127.0.0.1:{to.port}"),
        *("-spans", str(load.spans), "-duration", f"{load.seconds}s", "-rate", str(load.rate)),
        *("-connections", str(load.connections), "-concurrency", str(load.concurrency)),
        *("-compression", load.compression, f"-impatient={str(load.impatient).lower()}"),
    ]
    if to.evidence:
        command += ["-evidence", str(to.evidence.pipe), "-every", str(to.evidence.every)]
        command += ["-events-version", str(EVENTS_VERSION)]
    return Program("generator", command, bench.directory / "generator.log", cores=bench.cores.load)


def collect(receiver: Sink, acknowledged: float) -> dict[str, float]:
    """The receiver's counts once all that was acknowledged is there, or nothing has come for a while; then anew."""
    seen = -1.0
    still = 0

    def arrived() -> bool:
        nonlocal seen, still
        spans = receiver.ask("peek")["spans"]
        still = still + 1 if spans == seen else 0
        seen = spans
        return spans >= acknowledged or still > STILL

    wait_until(arrived, "the receiver comes to rest", ARRIVAL_DEADLINE_S)
    return receiver.ask("reset")
