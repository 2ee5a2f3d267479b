"""What the pipeline counts of itself, and what it says of its health."""

import threading

import pytest

from enricher.telemetry.health import STALE_AFTER_NS, EvidenceState, Health, evidence_state
from enricher.telemetry.metrics import Metrics


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
    health = Health(lambda: 0, serving=lambda: True, all_serving=lambda: True)
    assert health.serving("") is True
    assert health.serving("opentelemetry.proto.collector.trace.v1.TraceService") is True
    assert health.serving("enricher.evidence") is False
    assert health.serving("nobody") is None


def test_a_worker_that_has_lost_a_thread_serves_no_spans_and_has_evidence() -> None:
    health = Health(lambda: 1, serving=lambda: False, all_serving=lambda: False, clock_ns=lambda: 2)
    assert health.serving("") is False
    assert health.serving("opentelemetry.proto.collector.trace.v1.TraceService") is False
    assert health.serving("enricher.evidence") is True


def test_a_worker_that_serves_beside_one_that_is_dead_says_so_of_the_whole() -> None:
    health = Health(lambda: 1, serving=lambda: True, all_serving=lambda: False, clock_ns=lambda: 2)
    assert health.serving("") is False
    assert health.serving("opentelemetry.proto.collector.trace.v1.TraceService") is True


def test_the_state_of_the_evidence_is_one_of_its_names() -> None:
    health = Health(lambda: 1, serving=lambda: True, all_serving=lambda: True, clock_ns=lambda: 2)
    states = {series.name: series.values for series in health.series()}
    assert states["evidence_state"] == {"live": 1, "stale": 0, "none": 0}
