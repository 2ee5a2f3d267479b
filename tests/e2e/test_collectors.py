"""A real collector in front of the enricher, behind it, and both, over every way that the two can speak.

The same spans go straight to a reference: behind it all they must be equal to that.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.testbed import sdk_clients
from tests.e2e.testbed.enricher import Enricher
from tests.e2e.testbed.sdk_clients import SPANS
from tests.e2e.testbed.spans import differences
from tests.e2e.testbed.workload import Collector, Compression, Protocol, Sink

RETRY = {"initial_interval": "100ms", "max_interval": "500ms"}


@dataclass(frozen=True, slots=True)
class Way:
    """How one speaks to the next."""

    over: Protocol
    compression: Compression

    def __str__(self) -> str:
        return f"{self.over}-{self.compression}"


WAYS = [Way(over, compression) for over in ("grpc", "http") for compression in ("none", "gzip", "zstd")]


@dataclass(frozen=True, slots=True)
class Ends:
    """Where spans come out."""

    directory: Path
    subject: Sink
    reference: Sink

    def assert_all_arrive(self, port: int) -> None:
        """Sends to the port, and to the reference, and compares."""
        sent = sdk_clients.run("go", "grpc", "none", port, self.reference.port)
        assert len(sent.ids) == SPANS
        reference = sent.among(self.reference.wait_for(sent.ids))
        subject = sent.among(self.subject.wait_for(sent.ids))
        problems = differences(reference, subject)
        assert not problems, f"{len(problems)} of {SPANS} spans:\n" + "\n".join(problems[:3])


@pytest.fixture(scope="module")
def ends(programs: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ends]:
    directory = tmp_path_factory.mktemp("collectors")
    with Sink(directory, "subject") as subject, Sink(directory, "reference") as reference:
        yield Ends(directory, subject, reference)


@pytest.fixture(scope="module")
def enricher(ends: Ends) -> Iterator[Enricher]:
    """With nothing between it and the receiver."""
    with Enricher(ends.directory, ends.subject.port, http=True) as enricher:
        yield enricher


@pytest.fixture(scope="module", params=WAYS, ids=str)
def line_to_collector(request: pytest.FixtureRequest, ends: Ends) -> Iterator[tuple[Way, Enricher]]:
    """An enricher with a collector behind it, that way."""
    way: Way = request.param
    directory = ends.directory / str(way)
    directory.mkdir()
    with Collector(directory, ends.subject.port) as backend:
        port = backend.port if way.over == "grpc" else backend.http_port
        with Enricher(directory, port, http=True, exporters=_exporter(way, port)) as enricher:
            yield way, enricher


@pytest.mark.parametrize("way", WAYS, ids=str)
def test_spans_of_a_collector_arrive_once_and_as_they_were_sent(way: Way, ends: Ends, enricher: Enricher) -> None:
    with _in_front(ends, enricher, way) as collector:
        ends.assert_all_arrive(collector.port)


def test_spans_for_a_collector_arrive_once_and_as_they_were_sent(
    ends: Ends, line_to_collector: tuple[Way, Enricher]
) -> None:
    ends.assert_all_arrive(line_to_collector[1].port)


def test_spans_between_two_collectors_arrive_once_and_as_they_were_sent(
    ends: Ends, line_to_collector: tuple[Way, Enricher]
) -> None:
    way, enricher = line_to_collector
    with _in_front(ends, enricher, way) as collector:
        ends.assert_all_arrive(collector.port)


def _in_front(ends: Ends, enricher: Enricher, way: Way) -> Collector:
    port = enricher.port if way.over == "grpc" else enricher.http_port
    return Collector(ends.directory, port, over=way.over, compression=way.compression)


def _exporter(way: Way, port: int) -> dict[str, Any]:
    shared = {"compression": way.compression, "retry_on_failure": RETRY}
    if way.over == "http":
        return {"otlp_http": {"endpoint": f"http://127.0.0.1:{port}", **shared}}
    return {"otlp_grpc": {"endpoint": f"127.0.0.1:{port}", **shared}}
