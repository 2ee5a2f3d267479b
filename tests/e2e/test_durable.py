"""With the durable queue: what was acknowledged arrives, whatever is killed, and what arrives twice is counted."""

import random
import subprocess
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Event
from typing import Any

import grpc
import pytest

from tests.e2e.testbed.enricher import Enricher
from tests.e2e.testbed.processes import free_port, kill, wait_until
from tests.e2e.testbed.senders import Senders, export_request
from tests.e2e.testbed.spans import kept_requests, spans_of
from tests.e2e.testbed.workload import Sink
from tests.e2e.transport import Backend

SPANS = 10  # in a request
ARRIVAL_DEADLINE_S = 60.0
MIB = 1 << 20


@pytest.fixture
def place() -> Iterator[Path]:
    """Pytest's own directories are only for who runs it; the pipeline has a user of its own."""
    with TemporaryDirectory() as directory:
        path = Path(directory)
        path.chmod(0o755)
        (path / "queue").mkdir()
        (path / "queue").chmod(0o777)
        yield path


@pytest.fixture(params=["always", "never"])
def fsync(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def durable(place: Path, to_port: int, *, fsync: str = "never", **settings: Any) -> Enricher:
    storage = {"directory": str(place / "queue"), "fsync": fsync, **settings}
    exporter = {"sending_queue": {"storage": storage}, "retry_on_failure": {"max_elapsed_time": "0s"}}
    exporter["retry_on_failure"] |= {"initial_interval": "50ms", "max_interval": "200ms"}
    return Enricher(place, to_port, exporter=exporter)


def names(sink_file: Path) -> Counter[str]:
    return Counter(kept.span.name for request in kept_requests(sink_file) for kept in spans_of(request))


def assert_all_arrive(enricher: Enricher, sink_file: Path, acknowledged: list[str]) -> Counter[str]:
    def missing() -> bool:
        return not set(acknowledged) - names(sink_file).keys()

    try:
        wait_until(missing, "every acknowledged span has arrived", ARRIVAL_DEADLINE_S)
    except AssertionError as error:
        lost = sorted(set(acknowledged) - names(sink_file).keys())
        raise AssertionError(enricher.complaint(f"{len(lost)} of {len(acknowledged)} lost: {lost[:5]}")) from error
    return names(sink_file)


def twice(arrived: Counter[str]) -> int:
    return sum(count - 1 for count in arrived.values())


def counted(enricher: Enricher) -> float:
    wait_until(lambda: is_up(enricher), "the metrics are to be had")
    return enricher.metrics()["enricher_exporter_possibly_duplicated_spans_total"]


def is_up(enricher: Enricher) -> bool:
    try:
        return bool(enricher.metrics())
    except OSError:
        return False


@pytest.mark.parametrize("seed", range(3))
def test_what_was_acknowledged_arrives_though_the_halves_are_killed(
    programs: Path, place: Path, fsync: str, seed: int
) -> None:
    chance = random.Random(seed)
    with Sink(place, "sink") as sink, durable(place, sink.port, fsync=fsync) as enricher:
        with Senders(enricher.port, spans=SPANS) as senders:
            for _ in range(6):
                senders.wait_for_more(chance.randrange(SPANS, 60 * SPANS))
                which = chance.choice(["pipeline", "pipeline", "observer"])
                victim = enricher.wait_for_child(which)
                kill(victim)
                enricher.wait_for_child(which, other_than=victim)
            senders.wait_for_more(10 * SPANS)
        arrived = assert_all_arrive(enricher, sink.file, senders.acknowledged())
        assert twice(arrived) <= counted(enricher)


@pytest.mark.parametrize("seed", range(2))
def test_what_was_acknowledged_arrives_though_everything_is_killed(
    programs: Path, place: Path, fsync: str, seed: int
) -> None:
    chance = random.Random(seed)
    port = free_port()
    with ExitStack() as stack:
        sink = stack.enter_context(Sink(place, "sink", port=port))
        enricher = stack.enter_context(durable(place, port, fsync=fsync))
        with Senders(enricher.port, spans=SPANS) as senders:
            for _ in range(8):
                senders.wait_for_more(chance.randrange(SPANS, 40 * SPANS))
                if chance.random() < 0.5:
                    sink.kill()
                    senders.wait_for_more(chance.randrange(SPANS))
                    sink = stack.enter_context(Sink(place, "sink", port=port))
                else:
                    pipeline = enricher.wait_for_child("pipeline")
                    kill(pipeline)
                    enricher.wait_for_child("pipeline", other_than=pipeline)
            senders.wait_for_more(10 * SPANS)
        assert_all_arrive(enricher, sink.file, senders.acknowledged())


def test_what_a_backend_took_without_an_answer_comes_again_and_is_counted(programs: Path, place: Path) -> None:
    answers = Event()

    def answer_late(body: bytes, context: grpc.ServicerContext) -> bytes:
        answers.wait(60)
        return b""

    with Backend(then=answer_late) as backend, durable(place, backend.port) as enricher:
        with enricher.sender() as export:
            for number in range(3):
                export(export_request([f"{number}.{span}" for span in range(SPANS)]))
        wait_until(lambda: backend.seen, "the backend has something")
        pipeline = enricher.wait_for_child("pipeline")
        kill(pipeline)
        answers.set()
        enricher.wait_for_child("pipeline", other_than=pipeline)
        wait_until(lambda: len(set(backend.names())) == 3 * SPANS, "all have arrived")
        wait_until(lambda: enricher_is_empty(enricher), "the queue is empty")
        duplicates = len(backend.names()) - 3 * SPANS
        assert 0 < duplicates <= counted(enricher)


def enricher_is_empty(enricher: Enricher) -> bool:
    return is_up(enricher) and enricher.metrics()["enricher_exporter_storage_requests"] == 0


def test_what_waits_when_everything_is_stopped_goes_out_with_the_next_start(programs: Path, place: Path) -> None:
    port = free_port()
    with durable(place, port, fsync="always") as enricher, Senders(enricher.port, spans=SPANS) as senders:
        senders.wait_for_more(100 * SPANS)
        enricher.stop()
    assert enricher.status == 0, enricher.complaint("has not stopped well")
    with Sink(place, "sink", port=port) as sink, durable(place, port) as again:
        arrived = assert_all_arrive(again, sink.file, senders.acknowledged())
        assert twice(arrived) <= counted(again)


def test_what_waits_long_is_not_in_memory(programs: Path, place: Path) -> None:
    port = free_port()
    with durable(place, port) as enricher:
        pipeline = enricher.wait_for_child("pipeline")
        before = resident_bytes(pipeline)
        with Senders(enricher.port, threads=2, spans=1, padding=MIB) as senders:
            senders.wait_for_more(300)
        assert resident_bytes(pipeline) - before < 120 * MIB
        with Sink(place, "sink", port=port) as sink:
            assert_all_arrive(enricher, sink.file, senders.acknowledged())
            wait_until(lambda: enricher_is_empty(enricher), "the queue is empty")
        assert resident_bytes(pipeline) - before < 120 * MIB


def resident_bytes(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096


def test_a_full_disk_is_told_to_the_senders_and_costs_nothing_acknowledged(programs: Path, place: Path) -> None:
    command = ["mount", "-t", "tmpfs", "-o", "size=96m,mode=0777", "enricher-test", str(place / "queue")]
    mounted = subprocess.run(command, check=False, capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"no file system can be mounted here: {mounted.stderr.strip()}")
    port = free_port()
    try:
        with durable(place, port) as enricher, Senders(enricher.port, spans=1, padding=MIB) as senders:
            wait_until(lambda: len(senders.refusals) >= 5, "senders are refused", 60.0)
            refusal = senders.refusals[0]
            assert refusal.code() is grpc.StatusCode.UNAVAILABLE
            assert "grpc-status-details-bin" in dict(refusal.trailing_metadata())
            pipeline = enricher.wait_for_child("pipeline")
            kill(pipeline)  # and with a full disk it starts again
            enricher.wait_for_child("pipeline", other_than=pipeline)
            with Sink(place, "sink", port=port) as sink:
                senders.wait_for_more(100)
                assert_all_arrive(enricher, sink.file, senders.acknowledged())
    finally:
        subprocess.run(["umount", "--lazy", str(place / "queue")], check=True)


@pytest.mark.parametrize("seed", range(4))
def test_flipped_bits_in_the_file_deliver_no_wrong_bytes(programs: Path, place: Path, seed: int) -> None:
    port = free_port()
    with durable(place, port) as enricher, Senders(enricher.port, spans=SPANS, padding=20_000) as senders:
        senders.wait_for_more(200 * SPANS)
        kill(enricher.wait_for_child("pipeline"))
        enricher.stop()
    chance = random.Random(seed)
    for path in (place / "queue").glob("queue-0.sqlite3*"):
        content = bytearray(path.read_bytes())
        for _ in range(3):
            bit = chance.randrange(len(content) * 8)
            content[bit // 8] ^= 1 << bit % 8
        path.write_bytes(content)
    sent = senders.acknowledged()
    with Sink(place, "sink", port=port) as sink, durable(place, port) as again:
        wait_until(lambda: enricher_is_empty(again), "the queue is empty", ARRIVAL_DEADLINE_S)
        arrived = names(sink.file)
        damaged = sum(
            value for name, value in again.metrics().items() if name.startswith("enricher_exporter_storage_damaged")
        )
        assert arrived.keys() >= set(sent) or damaged, again.complaint(
            f"{len(arrived)} of {len(sent)}, and nothing said"
        )
        # It goes on.
        with Senders(again.port, spans=1) as more:
            more.wait_for_more(5)
    for request in kept_requests(sink.file):
        for kept in spans_of(request):
            wanted = random.Random(kept.span.name)
            assert (kept.span.trace_id, kept.span.span_id) == (wanted.randbytes(16), wanted.randbytes(8))
