"""The processes of an enricher: several workers, one that dies or stops, another configuration, the end under load."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import grpc
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from enricher.deadlines import OBSERVER_STOP_S, WORKER_STOP_S
from tests.e2e.testbed.enricher import EXPORT, Enricher
from tests.e2e.testbed.processes import free_port, is_listening, kill, wait_until
from tests.e2e.testbed.senders import Senders
from tests.e2e.testbed.spans import KeptSpan, kept_requests
from tests.e2e.testbed.workload import Load, Service, Sink, drive


@pytest.fixture
def sink(programs: Path, tmp_path: Path) -> Iterator[Sink]:
    with Sink(tmp_path, "sink") as made:
        yield made


@pytest.fixture
def pair(tmp_path: Path, sink: Sink) -> Iterator[Enricher]:
    """Of two workers."""
    with Enricher(tmp_path, sink.port, service={"workers": 2}) as made:
        made.wait_until_ready()
        yield made


@pytest.fixture
def taken_port() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as made:
        yield made


def wait_for_spans(names: Iterable[str], *sinks: Sink) -> None:
    """Until every one of them has arrived, wherever."""
    wanted = set(names)
    wait_until(
        lambda: wanted <= {kept.span.name for each in sinks for kept in each.spans()},
        f"{len(wanted)} spans arrive",
        60.0,
    )


def ready(enricher: Enricher) -> tuple[int, dict[str, str]]:
    """What /readyz tells; nothing where it is asked of one that hangs."""
    try:
        status, text = enricher.page("/readyz", timeout_s=1)
    except OSError:
        return 0, {}
    workers: dict[str, str] = json.loads(text)["workers"]
    return status, workers


def health(enricher: Enricher, service: str = "") -> str:
    """As gRPC tells it, on a new connection."""
    from grpc_health.v1 import health_pb2, health_pb2_grpc

    options = [("grpc.use_local_subchannel_pool", 1)]
    with grpc.insecure_channel(f"127.0.0.1:{enricher.port}", options=options) as channel:
        answer = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(service=service), timeout=2)
    return str(health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status))


def test_two_workers_say_of_the_same_spans_what_one_says(programs: Path, tmp_path: Path) -> None:
    """What a service has sent is sent again, first to one worker and then to two, which have read the same evidence."""
    with (
        Sink(tmp_path, "subject") as subject,
        Sink(tmp_path, "first") as first,
        Enricher(tmp_path, subject.port, ebpf={"retention": "5m"}) as enricher,
        Service(tmp_path, enricher.port, first.port) as service,
    ):
        enricher.wait_until_watching(service, subject)
        truth = drive(tmp_path, service, Load(sequences=150, rate=100.0))
        first.wait_for(t.id for t in truth)
        subject.wait_for(t.id for t in truth)
        requests = [part for request in kept_requests(first.file) for part in parts_of(request)]

        def said() -> dict[str, KeptSpan]:
            subject.forget()
            send_on_connections_of_their_own(enricher, requests)
            return {kept.id: kept for kept in subject.wait_for(t.id for t in truth)}

        by_one = said()
        enricher.configure(subject.port, ebpf={"retention": "5m"}, service={"workers": 2})
        enricher.reload()
        enricher.wait_for_line("configuration applied")
        wait_until(lambda: len(enricher.workers()) == 2, "two workers are left")
        wait_until(lambda: '"live"' in enricher.page("/readyz")[1], "the new workers have evidence")
        by_two = said()
        wait_until(lambda: all(accepted_by_worker(enricher).values()), "each has had its share")
    # Not of those that ended before they were watched: that their process is has to be learned from others of it.
    ids = [t.id for t in truth]
    assert sum(bool(by_one[each].claims) for each in ids) > 50
    differing = [each for each in ids if by_two[each].span != by_one[each].span]
    assert not differing, f"{len(differing)} of {len(ids)}"


def parts_of(request: bytes, spans: int = 8) -> Iterator[bytes]:
    """The same spans in smaller requests: an SDK has few of them, and all on one connection."""
    for group in ExportTraceServiceRequest.FromString(request).resource_spans:
        for scoped in group.scope_spans:
            for begin in range(0, len(scoped.spans), spans):
                part = ExportTraceServiceRequest()
                copied = part.resource_spans.add(resource=group.resource, schema_url=group.schema_url)
                inner = copied.scope_spans.add(scope=scoped.scope, schema_url=scoped.schema_url)
                inner.spans.extend(scoped.spans[begin : begin + spans])
                yield part.SerializeToString()


def send_on_connections_of_their_own(enricher: Enricher, requests: list[bytes]) -> None:
    for request in requests:
        options = [("grpc.use_local_subchannel_pool", 1)]
        with grpc.insecure_channel(f"127.0.0.1:{enricher.port}", options=options) as channel:
            channel.unary_unary(EXPORT)(request, timeout=10)


def accepted_by_worker(enricher: Enricher) -> dict[str, float]:
    name = 'enricher_receiver_accepted_spans_total{worker="'
    lines = [line for line in enricher.page("/metrics")[1].splitlines() if line.startswith(name)]
    return {line.removeprefix(name).partition('"')[0]: float(line.rsplit(" ", 1)[1]) for line in lines}


def test_connections_are_spread_over_the_workers(pair: Enricher, sink: Sink) -> None:
    spread(pair, sink)


def test_workers_that_listen_for_themselves_share_the_port(tmp_path: Path, sink: Sink) -> None:
    with Enricher(tmp_path, sink.port, service={"workers": 2, "transport": "grpcio"}) as enricher:
        enricher.wait_until_ready()
        spread(enricher, sink)
        before = enricher.workers()
        with Senders(enricher.port, threads=8) as senders:
            senders.wait_for_more(400)
            enricher.configure(sink.port, service={"workers": 2, "transport": "grpcio"}, exporter={"timeout": "4s"})
            enricher.reload()
            enricher.wait_for_line("configuration applied")
            wait_until(lambda: not set(before) & set(enricher.workers()), "the workers before have ended")
            senders.wait_for_more(400)
        wait_for_spans(senders.acknowledged(), sink)


def spread(pair: Enricher, sink: Sink) -> None:
    """Senders on many connections, of whom each worker gets some."""
    with Senders(pair.port, threads=24) as senders:
        wait_until(lambda: all(accepted_by_worker(pair).values()), "each worker has its share")
    wait_for_spans(senders.acknowledged(), sink)
    assert not senders.refusals
    promised = len(senders.acknowledged())
    wait_until(lambda: sum(accepted_by_worker(pair).values()) == promised, "the numbers of all workers are told")
    assert accepted_by_worker(pair).keys() == {"0", "1"}


def test_a_killed_worker_is_told_started_again_and_missed_by_nobody_who_comes_later(pair: Enricher, sink: Sink) -> None:
    killed = pair.workers()[0]
    with Senders(pair.port, threads=16) as senders:
        senders.wait_for_more(400)
        kill(killed)
        told = wait_until(lambda: found if (found := ready(pair))[0] == 503 else None, "not ready")
        assert told[1]["1"] == "serving", told
        assert told[1]["0"] in {"it has died and is to be started again", "starting"}, told
        pair.wait_until_ready()
        before = set(senders.acknowledged())
        senders.wait_for_more(400)
    wait_for_spans(set(senders.acknowledged()) - before, sink)
    assert pair.metric("process_restarts_total") == 1
    assert killed not in pair.workers()
    # What it had taken and not sent yet died with it, and nothing else.
    lost = before - {kept.span.name for kept in sink.spans()}
    assert len(lost) < len(before) / 2, f"{len(lost)} of {len(before)}"


def test_a_worker_that_hangs_makes_the_others_tell(pair: Enricher) -> None:
    hanging = pair.workers()[0]
    os.kill(hanging, signal.SIGSTOP)
    try:
        wait_until(lambda: ready(pair)[0] == 503, "not ready")
        status, workers = ready(pair)
        assert status == 503
        assert workers["0"].startswith(f"process {hanging} has not been heard of for "), workers
        assert workers["1"] == "serving"
        assert pair.page("/healthz")[0] == 503
        assert pair.metric("workers_serving") == 1
        assert pair.metric("pipeline_serving") == 0
        wait_until(lambda: told_by_living(pair) == {"": "NOT_SERVING"}, "gRPC tells so, too")
    finally:
        os.kill(hanging, signal.SIGCONT)
    pair.wait_until_ready()
    assert pair.page("/healthz")[0] == 200
    wait_until(lambda: told_by_living(pair) == {"": "SERVING"}, "gRPC tells so, too")


def told_by_living(enricher: Enricher) -> dict[str, str]:
    """Of connections to a worker that hangs nothing is heard; those to the other get its answer."""

    def answer() -> str | None:
        try:
            return health(enricher)
        except grpc.RpcError:
            return None

    return {"": wait_until(answer, "a worker answers", 30.0)}


def test_when_all_workers_hang_nobody_says_that_all_is_well(pair: Enricher) -> None:
    workers = pair.workers()
    for pid in workers:
        os.kill(pid, signal.SIGSTOP)
    try:
        with pytest.raises(OSError, match="timed out"):
            pair.page("/healthz", timeout_s=1)
        with pytest.raises(grpc.RpcError):
            health(pair)
    finally:
        for pid in workers:
            os.kill(pid, signal.SIGCONT)
    pair.wait_until_ready()


def test_another_backend_is_taken_up_under_load_and_no_span_is_lost_or_refused(
    pair: Enricher, sink: Sink, tmp_path: Path
) -> None:
    before = pair.workers()
    with Sink(tmp_path, "other") as other:
        with Senders(pair.port, threads=16) as senders:
            senders.wait_for_more(400)
            pair.configure(other.port, service={"workers": 2})
            pair.reload()
            pair.wait_for_line("configuration applied")
            wait_until(lambda: not set(before) & set(pair.workers()), "the workers before have ended")
            senders.wait_for_more(400)
        wait_for_spans(senders.acknowledged(), sink, other)
        assert other.spans()
    assert not senders.refusals
    assert pair.metric("process_restarts_total") == 0
    assert len(pair.workers()) == 2
    pair.wait_until_ready()


def test_a_wrong_file_changes_nothing_and_is_told_with_its_line(pair: Enricher, sink: Sink) -> None:
    before = pair.workers()
    good = pair.file.read_text()
    pair.file.write_text("service:\n  wokers: 3\n")
    pair.reload()
    told = pair.wait_for_line("the configuration is wrong")
    assert (told["key"], told["line"]) == ("service.wokers", 2), told
    assert "workers" in told["error"]
    assert pair.wait_for_line("configuration refused, the one before stays in force")
    assert pair.workers() == before
    with Senders(pair.port) as senders:
        senders.wait_for_more(400)
    wait_for_spans(senders.acknowledged(), sink)
    pair.file.write_text(good)
    pair.reload()
    assert pair.wait_for_line("configuration applied")["changed"] == []
    assert pair.workers() == before
    assert pair.metric("config_reloads_total") == 2


def test_a_configuration_that_cannot_be_had_leaves_the_one_before(
    pair: Enricher, sink: Sink, taken_port: socket.socket
) -> None:
    before = pair.workers()
    taken = taken_port.getsockname()[1]
    told = json.loads(pair.file.read_text())
    told["receivers"]["otlp"]["protocols"]["grpc"]["endpoint"] = f"127.0.0.1:{taken}"
    pair.file.write_text(json.dumps(told))
    pair.reload()
    line = pair.wait_for_line("the configuration cannot be applied")
    assert line["code"] == "cannot_listen", line
    assert str(taken) in line["error"]
    assert pair.workers() == before
    with Senders(pair.port) as senders:
        senders.wait_for_more(400)
    wait_for_spans(senders.acknowledged(), sink)


def test_the_level_of_the_logs_changes_with_no_process_started_anew(pair: Enricher, sink: Sink) -> None:
    workers, observer = pair.workers(), pair.wait_for_child("observer")
    telemetry = {"metrics": {"address": f"127.0.0.1:{pair.metrics_port}"}, "logs": {"level": "error"}}
    pair.configure(sink.port, service={"workers": 2, "telemetry": telemetry})
    pair.reload()
    wait_until(lambda: pair.metric("config_reloads_total") == 1, "the file was read again")
    # From `error` on nobody tells that it was: only the wrong file, which follows, is.
    pair.file.write_text("wrong\n")
    pair.reload()
    pair.wait_for_line("configuration refused, the one before stays in force")
    assert not pair.lines("configuration applied")
    assert (pair.workers(), pair.child("observer")) == (workers, observer)


def configure_sampling(enricher: Enricher, ratio: float, control: int) -> None:
    told = json.loads(enricher.file.read_text())
    told["processors"]["sampling"] = {"ratio": ratio}
    told["service"]["pipelines"]["traces"]["processors"] = ["ebpf", "sampling"]
    told["service"]["control"] = {"endpoint": f"127.0.0.1:{control}"}
    enricher.file.write_text(json.dumps(told))


def ratios(enricher: Enricher) -> list[str]:
    """Of each worker."""
    lines = enricher.page("/metrics")[1].splitlines()
    return [line.rpartition(" ")[2] for line in lines if line.startswith("enricher_sampling_ratio{")]


def test_what_is_sampled_changes_in_all_workers_with_none_started_anew(
    pair: Enricher, sink: Sink, tmp_path: Path
) -> None:
    control = free_port()
    configure_sampling(pair, 1.0, control)
    pair.reload()
    pair.wait_for_line("configuration applied")
    wait_until(lambda: len(pair.workers()) == 2, "the workers before have ended")
    workers = pair.workers()
    configure_sampling(pair, 0.0, control)
    pair.reload()
    with Senders(pair.port, threads=16) as senders:  # a worker takes up what has changed when spans come
        wait_until(lambda: ratios(pair) == ["0.0", "0.0"], "the file's ratio is in force")
        command = [sys.executable, "-m", "enricher.cli.main", "sampling", "--address", f"127.0.0.1:{control}"]
        subprocess.run([*command, "--ratio", "0.25"], check=True, capture_output=True, timeout=30)
        wait_until(lambda: ratios(pair) == ["0.25", "0.25"], "the ratio that was asked for is in force")
        senders.wait_for_more(400)
    assert pair.workers() == workers

    def accounted() -> bool:
        left = ("exporter_sent_spans_total", "sampling_sampled_out_spans_total", "exporter_queue_spans")
        return pair.metric("receiver_accepted_spans_total") == sum(pair.metric(name) for name in left)

    wait_until(accounted, "every span that was taken was sent or sampled out")
    assert 0 < len(sink.spans()) < len(senders.acknowledged())


def test_a_queue_on_disk_is_handed_from_worker_to_worker_and_no_span_is_lost(tmp_path: Path, sink: Sink) -> None:
    with TemporaryDirectory() as readable:
        Path(readable).chmod(0o755)
        storage = {"sending_queue": {"storage": {"directory": f"{readable}/queue", "fsync": "never"}}}
        with Enricher(tmp_path, sink.port, service={"workers": 2}, exporter=storage) as enricher:
            enricher.wait_until_ready()
            before = enricher.workers()
            with Senders(enricher.port, threads=8) as senders:
                senders.wait_for_more(400)
                enricher.configure(sink.port, service={"workers": 1}, exporter=storage | {"timeout": "4s"})
                enricher.reload()
                enricher.wait_for_line("configuration applied")
                wait_until(lambda: not set(before) & set(enricher.workers()), "the workers before have ended")
                enricher.wait_until_ready()
                senders.wait_for_more(400)
            wait_for_spans(senders.acknowledged(), sink)
            assert len(enricher.workers()) == 1
            assert not enricher.lines("process ended, starting it again")


def test_the_observer_alone_is_started_anew_where_only_it_is_concerned(pair: Enricher, sink: Sink) -> None:
    observer = pair.wait_for_child("observer")
    pair.configure(sink.port, service={"workers": 2}, ebpf={"select": {"exclude": ["/nowhere/*"]}})
    pair.reload()
    pair.wait_for_line("configuration applied")
    pair.wait_for_child("observer", other_than=observer)
    assert pair.metric("process_restarts_total") == 0


def test_a_worker_more_and_one_less(tmp_path: Path, sink: Sink) -> None:
    with Enricher(tmp_path, sink.port) as enricher, Senders(enricher.port) as senders:
        for workers in (3, 1):
            enricher.configure(sink.port, service={"workers": workers})
            enricher.reload()
            wait_until(lambda count=workers: enricher.metric("workers") == count, f"{workers} are in force", 40.0)
            wait_until(lambda count=workers: len(enricher.workers()) == count, "those before have ended", 40.0)
            assert ready(enricher)[0] == 200
            senders.wait_for_more(400)
    wait_for_spans(senders.acknowledged(), sink)


def test_the_end_under_load_loses_nothing_that_was_promised(pair: Enricher, sink: Sink) -> None:
    with Senders(pair.port, threads=16) as senders:
        senders.wait_for_more(2000)
        began_s = time.monotonic()
        os.kill(pair.pid, signal.SIGTERM)
        wait_until(lambda: pair.status is not None, "it has ended", WORKER_STOP_S + OBSERVER_STOP_S)
        took_s = time.monotonic() - began_s
    assert pair.status == 0, pair.complaint("has not ended well")
    assert took_s < WORKER_STOP_S, "there was nothing to wait for"
    wait_for_spans(senders.acknowledged(), sink)
    ended = pair.lines("ended")
    assert len(ended) == 2
    assert sum(line["accepted_spans"] for line in ended) == sum(line["sent_spans"] for line in ended)
    assert not any(line["failed_spans"] for line in ended)


def test_the_end_with_the_backend_away_comes_in_time_and_says_what_was_lost(programs: Path, tmp_path: Path) -> None:
    with Enricher(tmp_path, free_port(), service={"workers": 2}) as enricher:
        enricher.wait_until_ready()
        with Senders(enricher.port) as senders:
            senders.wait_for_more(400)
        began_s = time.monotonic()
        enricher.stop()
        assert time.monotonic() - began_s < WORKER_STOP_S + OBSERVER_STOP_S
        assert enricher.status == 0, enricher.complaint("has not ended well")
        ended = enricher.lines("ended")
    assert sum(line["failed_spans"] for line in ended) >= len(senders.acknowledged())
    assert all(line["accepted_spans"] == line["sent_spans"] + line["failed_spans"] for line in ended)


def test_a_second_one_does_not_share_the_port_of_the_first(pair: Enricher, sink: Sink, tmp_path: Path) -> None:
    directory = tmp_path / "second"
    directory.mkdir()
    second = Enricher(directory, sink.port, service={"workers": 2})
    try:
        told = json.loads(second.file.read_text())
        told["receivers"]["otlp"]["protocols"]["grpc"]["endpoint"] = f"127.0.0.1:{pair.port}"
        second.file.write_text(json.dumps(told))
        wait_until(lambda: second.status is not None, "the second has ended")
        assert second.status == 1
        assert second.lines("cannot start")[0]["code"] == "cannot_listen"
    finally:
        second.stop()
    assert is_listening(pair.port)
