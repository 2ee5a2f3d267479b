"""What the pipeline counts of itself, and what it says of its health."""

import http.client
import socket
import threading

import pytest
from prometheus_client.parser import text_string_to_metric_families

from enricher.telemetry.health import STALE_AFTER_NS, EvidenceState, Health, evidence_state
from enricher.telemetry.metrics import Metrics, Series
from enricher.telemetry.metrics_endpoint import MetricsEndpoint


def test_no_addition_is_lost_between_threads() -> None:
    metrics = Metrics()

    def add() -> None:
        for _ in range(5000):
            metrics.exporter_sent_spans.add(1)
            metrics.exporter_send_failed_spans.add(2, "internal")

    threads = [threading.Thread(target=add) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert metrics.exporter_sent_spans.total() == 20_000
    assert metrics.exporter_send_failed_spans.values() == {"internal": 40_000}


def scraped(port: int) -> dict[str, float]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request("GET", "/metrics")
    answer = connection.getresponse()
    assert answer.status == 200
    text = answer.read().decode()
    connection.close()
    return {
        sample.name + "".join(f"/{value}" for value in sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_prometheus_reads_what_was_counted_and_what_sources_say() -> None:
    metrics = Metrics()
    metrics.receiver_accepted_spans.add(7)
    metrics.receiver_requests.add(2, "busy")
    metrics.add_source(lambda: [Series.gauge("exporter_queue_size", "waiting", 3)])
    metrics.add_source(lambda: [Series("join_matched_spans", "counter", "found", "method", {"span_end": 5})])
    endpoint = MetricsEndpoint("127.0.0.1:0", metrics)
    assert endpoint.start()
    try:
        first = scraped(endpoint.port)
        metrics.receiver_accepted_spans.add(1)
        second = scraped(endpoint.port)
    finally:
        endpoint.stop()
    assert first["enricher_receiver_accepted_spans_total"] == 7
    assert first["enricher_receiver_requests_total/busy"] == 2
    assert first["enricher_exporter_queue_size"] == 3
    assert first["enricher_join_matched_spans_total/span_end"] == 5
    assert first["enricher_exporter_sent_spans_total"] == 0  # known before anything has happened
    assert second["enricher_receiver_accepted_spans_total"] == 8


def test_one_client_that_breaks_off_does_not_end_the_endpoint() -> None:
    endpoint = MetricsEndpoint("127.0.0.1:0", Metrics())
    assert endpoint.start()
    try:
        with socket.create_connection(("127.0.0.1", endpoint.port)) as rude:
            rude.sendall(b"GET /metr")
            rude.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")  # close with a reset
        assert scraped(endpoint.port)["enricher_exporter_sent_spans_total"] == 0
    finally:
        endpoint.stop()


def test_a_busy_port_is_a_warning_and_no_failure(caplog: pytest.LogCaptureFixture) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        endpoint = MetricsEndpoint(f"127.0.0.1:{taken.getsockname()[1]}", Metrics())
        assert not endpoint.start()
    assert "no metrics endpoint" in caplog.text
    endpoint.stop()


def test_a_stopped_endpoint_frees_its_port() -> None:
    endpoint = MetricsEndpoint("127.0.0.1:0", Metrics())
    assert endpoint.start()
    port = endpoint.port
    endpoint.stop()
    socket.create_server(("127.0.0.1", port)).close()


@pytest.mark.parametrize(
    ("heartbeat_seen_ns", "now_ns", "state"),
    [
        (0, 5, EvidenceState.NONE),
        (5, 5, EvidenceState.LIVE),
        (5, 5 + STALE_AFTER_NS, EvidenceState.LIVE),
        (5, 6 + STALE_AFTER_NS, EvidenceState.STALE),
    ],
)
def test_evidence_is_as_fresh_as_the_last_heartbeat(heartbeat_seen_ns: int, now_ns: int, state: EvidenceState) -> None:
    assert evidence_state(heartbeat_seen_ns, now_ns) is state


def test_without_evidence_spans_still_pass_and_the_pipeline_is_healthy() -> None:
    health = Health(heartbeat_seen_ns=lambda: 0, working=lambda: True)
    health.taking_spans = True
    assert health.serving("") is True
    assert health.serving("opentelemetry.proto.collector.trace.v1.TraceService") is True
    assert health.serving("enricher.evidence") is False
    assert health.serving("nobody") is None


def test_a_pipeline_whose_workers_have_died_is_not_healthy() -> None:
    health = Health(heartbeat_seen_ns=lambda: 1, working=lambda: False, clock_ns=lambda: 2)
    health.taking_spans = True
    assert health.serving("") is False
    assert health.serving("enricher.evidence") is True


def test_before_start_and_in_shutdown_nothing_is_served() -> None:
    assert Health(heartbeat_seen_ns=lambda: 1, working=lambda: True).serving("") is False


def test_the_state_of_the_evidence_is_one_of_its_names() -> None:
    health = Health(heartbeat_seen_ns=lambda: 1, working=lambda: True, clock_ns=lambda: 2)
    states = {series.name: series.values for series in health.series()}
    assert states["evidence_state"] == {"live": 1, "stale": 0, "none": 0}
