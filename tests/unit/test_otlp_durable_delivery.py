"""What stands in the durable queue's file is what has neither been delivered nor been dropped and counted."""

import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from threading import Event

import pytest

from enricher._native import Queue
from enricher.config.model import RetryOnFailure
from enricher.otlp.delivery import Delivery, DeliverySettings
from enricher.otlp.transport import Failure, Sendable, StatusCode, Taken
from enricher.telemetry.metrics import Metrics
from tests.e2e.testbed.processes import wait_until
from tests.e2e.transport import request
from tests.unit.durable_entries import FakeEntry, opened, recovered, value

BODIES = [request(f"span-{number}") for number in range(3)]


class FakeSender:
    """Answers as it is told; UNAVAILABLE until it is told anything."""

    destination = "nowhere"

    def __init__(self) -> None:
        self.answer: Taken | Failure = Failure(StatusCode.UNAVAILABLE, "away", None)
        self.refused: bytes | None = None  # this request for good
        self.tried = Event()
        self.sent: list[bytes] = []

    def send(self, requests: Sequence[Sendable], timeout_ns: int) -> Taken | Failure:
        self.tried.set()
        bodies = [one.body for one in requests]
        if self.refused in bodies:
            return Failure(StatusCode.INVALID_ARGUMENT, "no", None)
        if isinstance(self.answer, Taken):
            self.sent += [body for body in bodies if body is not None]
        return self.answer

    def close(self) -> None:
        pass


class Line:
    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.store = opened(directory, memory_bytes=0)
        self.queue = Queue(100, 1 << 20, 1 << 20)
        self.metrics = Metrics()
        self.sender = FakeSender()
        retry = RetryOnFailure(initial_interval_ns=1_000_000, max_interval_ns=1_000_000, max_elapsed_time_ns=0)
        settings = DeliverySettings(timeout_ns=1_000_000_000, retry=retry)
        self.delivery = Delivery(settings, self.sender, self.queue, self.metrics, self.store)
        for body in BODIES:
            assert self.queue.offer(body, "ipv4:127.0.0.1:1")[0] == 0
        self.entries = self.queue.take_new(0, 0)
        assert self.store.admitted(self.entries) == []
        self.store.decided(self.entries)
        assert value(self.store, "exporter_storage_dropped_requests") == 3

    def deliver(self) -> None:
        self.queue.put(self.entries)
        self.delivery.start()
        wait_until(lambda: self.queue.statistics()["requests"] == 0, "the queue is empty")

    def left(self) -> list[bytes]:
        """In the file, when everything has ended."""
        self.delivery.stop(0.0)
        self.store.close()
        again = opened(self.directory)
        found = recovered(again)
        again.close()
        return [body for _, body in found]

    def failed(self) -> dict[str, int]:
        return {reason: spans for reason, spans in self.metrics.exporter_send_failed_spans.values().items() if spans}


@pytest.fixture
def line(tmp_path: Path) -> Iterator[Line]:
    yield Line(tmp_path)
    shutil.rmtree(tmp_path, ignore_errors=True)


def test_what_is_delivered_leaves_the_file(line: Line) -> None:
    line.sender.answer = Taken()
    line.deliver()
    assert line.sender.sent == BODIES
    assert line.left() == []
    assert line.failed() == {}


def test_what_is_refused_for_good_is_counted_and_leaves_the_file(line: Line) -> None:
    line.sender.answer, line.sender.refused = Taken(), BODIES[1]
    line.deliver()
    assert line.sender.sent == [BODIES[0], BODIES[2]]
    assert line.failed() == {"invalid_argument": 1}
    assert line.left() == []


def test_what_is_left_at_the_end_stays_in_the_file_and_is_no_loss(line: Line) -> None:
    line.queue.put(line.entries[:2])
    line.delivery.start()
    assert line.sender.tried.wait(10)
    line.queue.put(line.entries[2:])  # and this one is never tried
    assert line.left() == BODIES
    assert line.failed() == {}


def test_a_body_that_is_lost_is_counted_and_the_others_go(line: Line) -> None:
    line.store.released([FakeEntry(id=line.entries[1].id)])
    line.store.turn()
    line.store.turn()
    # Released is forgotten: that it waits outside of memory is what the queue still believes.
    line.store._dropped.add(line.entries[1].id)
    line.sender.answer = Taken()
    line.deliver()
    assert line.sender.sent == [BODIES[0], BODIES[2]]
    assert line.failed() == {"damaged": 1}
    assert value(line.store, "exporter_storage_damaged") == 1
    assert line.left() == []
