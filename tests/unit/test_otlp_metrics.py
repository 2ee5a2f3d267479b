"""What the pipeline counts of itself, and what it says of its health."""

import errno
import http.client
import socket
import threading
from collections.abc import Iterator
from http import HTTPStatus

import pytest
from prometheus_client.parser import text_string_to_metric_families

from enricher.telemetry.health import STALE_AFTER_NS, EvidenceState, Health, evidence_state
from enricher.telemetry.metrics import Metrics, Series
from enricher.telemetry.metrics_endpoint import MetricsEndpoint
from tests.e2e.testbed.processes import wait_until


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
    metrics.exporter_sent_spans.add(7)
    metrics.exporter_retries.add(2, "unavailable")
    metrics.add_source(lambda: [Series.gauge("exporter_queue_size", "waiting", 3)])
    metrics.add_source(lambda: [Series("join_matched_spans", "counter", "found", "method", {"span_end": 5})])
    endpoint = MetricsEndpoint("127.0.0.1:0", metrics)
    assert endpoint.start()
    try:
        first = scraped(endpoint.port)
        metrics.exporter_sent_spans.add(1)
        second = scraped(endpoint.port)
    finally:
        endpoint.stop()
    assert first["enricher_exporter_sent_spans_total"] == 7
    assert first["enricher_exporter_retries_total/unavailable"] == 2
    assert first["enricher_exporter_queue_size"] == 3
    assert first["enricher_join_matched_spans_total/span_end"] == 5
    assert second["enricher_exporter_sent_spans_total"] == 8


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


@pytest.fixture
def endpoint() -> Iterator[MetricsEndpoint]:
    metrics = Metrics()
    metrics.add_source(lambda: [Series("odd", "counter", 'a\\b\nc "d"', "label", {'a\\b\nc "d"': 1})])
    made = MetricsEndpoint("127.0.0.1:0", metrics)
    assert made.start()
    yield made
    made.stop()


def test_any_text_can_be_a_label(endpoint: MetricsEndpoint) -> None:
    assert scraped(endpoint.port)['enricher_odd_total/a\\b\nc "d"'] == 1


@pytest.mark.parametrize(
    "request_head",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        b"GET /metrics\n\n",
        b"\xff\x00\r\n\r\n",
        b"POST / HTTP/1.1\r\nContent-Length: 99999999999\r\n\r\n",
        b"GET / HTTP/1.0\r\nAccept: application/openmetrics-text;version=x;q=NaN\r\n\r\n",
    ],
)
def test_whatever_is_asked_the_answer_is_the_numbers(endpoint: MetricsEndpoint, request_head: bytes) -> None:
    with socket.create_connection(("127.0.0.1", endpoint.port), 10) as client:
        client.sendall(request_head)
        assert client.recv(100).startswith(b"HTTP/1.1 200 OK\r\n")


def test_a_head_without_end_is_cut_off_quietly(endpoint: MetricsEndpoint, caplog: pytest.LogCaptureFixture) -> None:
    with socket.create_connection(("127.0.0.1", endpoint.port), 10) as client, pytest.raises(ConnectionError):
        client.sendall(b"x" * (64 << 20))
    assert scraped(endpoint.port)
    assert caplog.text == ""


def test_a_client_that_drips_holds_up_the_others_for_a_moment_only(
    endpoint: MetricsEndpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("enricher.telemetry.metrics_endpoint._SCRAPE_TIMEOUT_S", 0.3)
    over = threading.Event()

    def drip(client: socket.socket) -> None:
        while not over.wait(0.02):
            try:
                client.sendall(b"a")
            except OSError:
                return

    with socket.create_connection(("127.0.0.1", endpoint.port)) as client:
        dripping = threading.Thread(target=drip, args=(client,))
        dripping.start()
        assert scraped(endpoint.port)
        over.set()
        dripping.join()


def test_a_stop_does_not_wait_for_a_client_that_drips(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    made = MetricsEndpoint("127.0.0.1:0", Metrics())
    assert made.start()
    monkeypatch.setattr("enricher.telemetry.metrics_endpoint._SCRAPE_TIMEOUT_S", 0.05)
    held = threading.Event()
    monkeypatch.setattr("enricher.telemetry.metrics_endpoint._read_head", lambda client, deadline: held.wait(20))
    with socket.create_connection(("127.0.0.1", made.port)):
        stopping = threading.Thread(target=made.stop)
        stopping.start()
        stopping.join(10)
        assert not stopping.is_alive()
        held.set()
    wait_until(lambda: "metrics" not in {thread.name for thread in threading.enumerate()}, "its thread to end")
    assert caplog.text == ""


def test_a_source_that_fails_or_descriptors_that_are_used_up_do_not_end_the_endpoint(
    endpoint: MetricsEndpoint, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("enricher.telemetry.metrics_endpoint._PAUSE_S", 0.01)
    failures = [OSError(errno.EMFILE, "too many open files"), ZeroDivisionError(), ZeroDivisionError()]
    answer_next = MetricsEndpoint._answer_next

    def failing(self: MetricsEndpoint, listener: socket.socket) -> None:
        if failures:
            raise failures.pop()
        answer_next(self, listener)

    monkeypatch.setattr(MetricsEndpoint, "_answer_next", failing)
    assert scraped(endpoint.port)
    assert caplog.text.count("a scrape could not be served") == 2, "once for each kind"


def test_a_host_nobody_can_look_up_is_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    made = MetricsEndpoint("a..b:0", Metrics())
    assert not made.start()
    made.stop()
    assert "no metrics endpoint" in caplog.text


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


def asked(port: int, path: str, method: str = "GET") -> tuple[int, str, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request(method, path)
    answer = connection.getresponse()
    body = answer.read()
    connection.close()
    return answer.status, answer.getheader("Content-Type") or "", body


def test_a_trace_is_explained_as_json_and_everything_else_is_the_numbers() -> None:
    endpoint = MetricsEndpoint("127.0.0.1:0", Metrics(), lambda text: (HTTPStatus.NOT_FOUND, text.encode()))
    assert endpoint.start()
    try:
        assert asked(endpoint.port, "/explain/abc") == (404, "application/json", b"abc")
        assert asked(endpoint.port, "/explain/") == (404, "application/json", b"")
        assert [asked(endpoint.port, path)[0] for path in ("/explain", "/", "/metrics")] == [200] * 3
        assert asked(endpoint.port, "/explain/abc", "POST")[0] == 200
    finally:
        endpoint.stop()
