"""A whole line: service to enricher to sink, the same spans straight to a reference, and what came of a load on it."""

import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.e2e.testbed.enricher import Enricher
from tests.e2e.testbed.spans import KeptSpan, differences
from tests.e2e.testbed.truth import Truth
from tests.e2e.testbed.workload import Driver, Load, Service, Sink

ARRIVAL_DEADLINE_S = 60.0

# Connections that the service's clients have from the beginning, by the cause that uses them.
POOLED = {"client_http": 512, "client_https": 512, "client_http2": 1, "client_grpc": 1}


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one load has made, and what has become of it."""

    truth: list[Truth]  # of the sampled spans
    spans: list[KeptSpan]  # as they left the enricher
    changes: list[str]  # spans lost, duplicated or changed but for claims
    requests_per_s: float
    losses: int  # times that the observer told of lost evidence

    def claims(self) -> dict[str, dict[str, bool | int | float | str]]:
        return {kept.id: kept.claims for kept in self.spans}


class Line:
    """Without a collector: what one does to spans is not the question here."""

    def __init__(self, directory: Path, subject: Sink, reference: Sink, enricher: Enricher, service: Service) -> None:
        self.directory = directory
        self.enricher = enricher
        self.service = service
        self._subject = subject
        self._reference = reference

    def wait_until_watching(self, *, warm_up: bool = True) -> None:
        """Until claims are made. `warm_up`: and until every pooled connection of the service has been used since: what
        its reader began to wait for before it was watched, nobody has seen begin."""
        self.enricher.wait_until_watching(self.service, self._subject)
        for cause, connections in POOLED.items() if warm_up else ():
            load = Load(
                label=f"warm-up-{cause}",
                only=cause,
                sequences=connections,
                concurrency=connections,
                rate=0,
                shortest_ms=1000,
                longest_ms=1000,
            )
            with Driver(self.directory, self.service, load) as driver:
                driver.finish_load()
        for sink in (self._subject, self._reference):
            sink.wait_for(t.id for t in self.service.truth() if t.sampled)
        self._forget()

    def run(self, load: Load) -> Outcome:
        """Drives a load, and waits until all its spans have arrived. Their label must be of this load alone."""
        losses = self._losses()
        with Driver(self.directory, self.service, load) as driver:
            truth = driver.finish_load()
        ids = [t.id for t in truth]
        reference = self._reference.wait_for(ids, ARRIVAL_DEADLINE_S)
        spans = self._subject.wait_for(ids, ARRIVAL_DEADLINE_S)
        self._forget()
        changes = differences(reference, spans)
        return Outcome(truth, spans, changes, driver.requests_per_s, self._losses() - losses)

    def explain(self, trace_id: str) -> str:
        """Why the spans of a trace left as they did, for the message of a failure; "" if that is not to be had."""
        try:
            return self._get(f"explain/{trace_id}")
        except OSError as error:
            return str(error)

    def _losses(self) -> int:
        metrics = dict(
            line.rsplit(" ", 1) for line in self._get("metrics").splitlines() if line and not line.startswith("#")
        )
        return int(float(metrics["enricher_evidence_losses_total"]))

    def _get(self, path: str) -> str:
        url = f"http://127.0.0.1:{self.enricher.metrics_port}/{path}"
        with urllib.request.urlopen(url, timeout=5) as answer:
            text: str = answer.read().decode()
        return text

    def _forget(self) -> None:
        for program in (self._subject, self._reference, self.service):
            program.forget()


@contextmanager
def line(directory: Path, *, ebpf: dict[str, Any] | None = None, sampled: float = 1.0) -> Iterator[Line]:
    """A line whose service is not yet known to be watched. `ebpf`: settings of the processor."""
    with (
        Sink(directory, "subject") as subject,
        Sink(directory, "reference") as reference,
        Enricher(directory, subject.port, ebpf=ebpf) as enricher,
        Service(directory, enricher.port, reference.port, sampled=sampled) as service,
    ):
        yield Line(directory, subject, reference, enricher, service)
