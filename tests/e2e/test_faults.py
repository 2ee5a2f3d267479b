"""Whatever breaks around the enricher or in it, spans flow, and what flows is what was sent."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import grpc
import pytest

from tests.e2e.testbed.enricher import PLAIN_USER, ROOT_WITHOUT_CAPABILITIES, Enricher
from tests.e2e.testbed.processes import kill, wait_until
from tests.e2e.testbed.spans import differences, kept_requests, resource_spans
from tests.e2e.testbed.workload import Collector, Driver, Load, Service, Sink, drive

# Long enough that what happens in its middle does so under load.
LOAD = Load(sequences=250, rate=60.0)


class Line:
    """Service to enricher to sink, and the same spans straight to a reference."""

    def __init__(self, directory: Path, subject: Sink, reference: Sink, enricher: Enricher, service: Service) -> None:
        self.directory = directory
        self.subject = subject
        self.reference = reference
        self.enricher = enricher
        self.service = service

    def assert_nothing_lost(self, *, duplicates: bool = False) -> None:
        """All that the service has ended so far has arrived, unchanged."""
        ids = [t.id for t in self.service.truth()]
        reference, subject = self.reference.wait_for(ids), self.subject.wait_for(ids, 60.0)
        if duplicates:  # a sender that got no answer sends again: OTLP is at least once
            subject = list({kept.id: kept for kept in subject}.values())
        problems = differences(reference, subject)
        assert not problems, self.enricher.complaint("\n".join(problems[:5]))


@pytest.fixture
def line(programs: Path, tmp_path: Path) -> Iterator[Line]:
    with (
        Sink(tmp_path, "subject") as subject,
        Sink(tmp_path, "reference") as reference,
        Enricher(tmp_path, subject.port) as enricher,
        Service(tmp_path, enricher.port, reference.port) as service,
    ):
        yield Line(tmp_path, subject, reference, enricher, service)


def half_driven(line: Line) -> Driver:
    """A driver half of whose load has been asked for."""
    driver = Driver(line.directory, line.service, LOAD)
    wait_until(lambda: len(line.service.truth(LOAD.label)) > LOAD.sequences // 2, "half of the load is driven")
    return driver


def test_a_killed_observer_loses_no_span_and_comes_back(line: Line) -> None:
    line.enricher.wait_until_watching(line.service, line.subject)
    observer = line.enricher.wait_for_child("observer")
    with half_driven(line) as driver:
        kill(observer)
        driver.finish_load()
    line.assert_nothing_lost()
    line.enricher.wait_for_child("observer", other_than=observer)
    line.enricher.wait_until_watching(line.service, line.subject, label="again")


def test_a_killed_pipeline_comes_back(line: Line) -> None:
    line.enricher.wait_until_watching(line.service, line.subject)
    pipeline = line.enricher.wait_for_child("pipeline")
    with half_driven(line) as driver:
        kill(pipeline)
        driver.finish_load()
    line.enricher.wait_for_child("pipeline", other_than=pipeline)
    line.enricher.wait_listening(line.enricher.port)
    later = drive(line.directory, line.service, Load(label="later", sequences=50))
    ids = {t.id for t in later}
    wanted = [kept for kept in line.reference.wait_for(ids) if kept.id in ids]
    found = [kept for kept in line.subject.wait_for(ids) if kept.id in ids]
    assert not differences(wanted, found)
    line.enricher.wait_until_watching(line.service, line.subject, label="again")


def test_malformed_requests_are_refused_and_spans_flow_on(line: Line) -> None:
    with half_driven(line) as driver, line.enricher.sender() as export:
        for body in (b"\xff", b"\x0a\x05short", b"\x0a\x02\x0a\x05", bytes(100)):
            with pytest.raises(grpc.RpcError) as refusal:
                export(body)
            assert refusal.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        driver.finish_load()
    line.assert_nothing_lost()


def test_a_request_over_the_limit_is_refused_and_spans_flow_on(line: Line) -> None:
    with half_driven(line) as driver, line.enricher.sender() as export:
        with pytest.raises(grpc.RpcError) as refusal:
            export(bytes(5 << 20))
        assert refusal.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        driver.finish_load()
    line.assert_nothing_lost()


@pytest.mark.parametrize("retry_ms", [None, 300])
def test_what_the_backend_refuses_for_now_is_sent_again(line: Line, retry_ms: int | None) -> None:
    with half_driven(line) as driver:
        unavailable = grpc.StatusCode.UNAVAILABLE.value[0]
        line.subject.ask(f"fail {unavailable} 5" + ("" if retry_ms is None else f" {retry_ms}"))
        driver.finish_load()
    line.assert_nothing_lost()
    assert line.subject.ask("peek")["refused"] == 5


def test_a_backend_away_and_back_costs_no_span(programs: Path, tmp_path: Path) -> None:
    with (
        Sink(tmp_path, "subject") as subject,
        Sink(tmp_path, "reference") as reference,
        Collector(tmp_path, subject.port) as collector,
        Enricher(tmp_path, collector.port) as enricher,
        Service(tmp_path, enricher.port, reference.port) as service,
    ):
        line = Line(tmp_path, subject, reference, enricher, service)
        with half_driven(line) as driver:
            collector.stop()
            driver.finish_load()
        assert len(subject.spans()) < len(service.truth())
        with Collector(tmp_path, subject.port, collector.port):
            line.assert_nothing_lost(duplicates=True)


def opened(directory: str) -> Path:
    """Pytest's own directories are only for who runs it."""
    path = Path(directory)
    path.chmod(0o755)
    return path


@pytest.mark.parametrize(
    "rights",
    [pytest.param(PLAIN_USER, id="plain user"), pytest.param(ROOT_WITHOUT_CAPABILITIES, id="root, no capabilities")],
)
def test_without_privileges_every_byte_of_a_span_passes_unchanged(
    programs: Path, tmp_path: Path, rights: tuple[str, ...]
) -> None:
    """What an SDK has sent once is sent again, as the very same bytes, through an enricher that sees no kernel."""
    with (
        Sink(tmp_path, "first") as first,
        Sink(tmp_path, "reference") as reference,
        Service(tmp_path, first.port, reference.port) as service,
    ):
        truth = drive(tmp_path, service, Load(sequences=100, rate=100.0))
        first.wait_for(t.id for t in truth)
    requests = list(kept_requests(first.file))
    with (
        TemporaryDirectory() as readable,
        Sink(tmp_path, "subject") as subject,
        Enricher(opened(readable), subject.port, before=rights) as enricher,
        enricher.sender() as export,
    ):
        for request in requests:
            assert export(request) == b""
        subject.wait_for(t.id for t in truth)
        assert enricher.status is None, enricher.complaint("has ended")
    sent = Counter(group for request in requests for group in resource_spans(request))
    came = Counter(group for request in kept_requests(subject.file) for group in resource_spans(request))
    assert came == sent
