"""A whole worker in this process: what it says of itself when a part of it dies."""

import json
import os
import socket
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from urllib.error import HTTPError

import pytest

from enricher._native import LogWriter
from enricher.config.model import Settings
from enricher.pipeline import Pipeline
from enricher.place import Place
from enricher.workers import State
from tests.e2e.testbed.processes import wait_until


class Worker:
    def __init__(self) -> None:
        log_fd = os.memfd_create("log")
        LogWriter(log_fd, 64)
        listening = {kind: [socket.create_server(("127.0.0.1", 0))] for kind in ("grpc", "pages")}
        for (opened,) in listening.values():
            opened.setblocking(False)
        self.port = listening["pages"][0].getsockname()[1]
        self.place = Place.alone(listening)  # type: ignore[arg-type]
        self.pipeline = Pipeline(Settings(), log_fd, self.place)
        os.close(log_fd)

    def page(self, path: str) -> tuple[int, str]:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=5) as answer:
                return answer.status, answer.read().decode()
        except HTTPError as error:
            with error:
                return error.code, error.read().decode()


@pytest.fixture
def worker() -> Iterator[Worker]:
    made = Worker()
    made.pipeline.start()
    yield made
    with suppress(RuntimeError):
        made.pipeline.stop()


def test_a_worker_that_works_is_healthy_and_ready_and_tells_its_numbers(worker: Worker) -> None:
    assert [worker.page(path)[0] for path in ("/healthz", "/readyz")] == [200, 200]
    numbers = worker.page("/metrics")[1]
    for name in ("receiver_accepted_spans_total", "exporter_queue_size", "join_hold_seconds_count", "workers_serving"):
        assert f"\nenricher_{name} " in numbers, name
    assert worker.pipeline.working
    assert set(worker.pipeline.spans().values()) == {0}


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")  # which is what is looked at
def test_a_worker_whose_policy_has_died_says_so_everywhere(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    def die(patience_s: float) -> None:
        raise SystemExit

    monkeypatch.setattr(worker.pipeline._policy, "_turn", die)
    wait_until(lambda: not worker.pipeline.working, "it has died")
    for path in ("/healthz", "/readyz"):
        status, text = worker.page(path)
        assert status == 503
        assert json.loads(text)["workers"] == {"0": "the policy has died"}
    assert "\nenricher_workers_serving 0\n" in worker.page("/metrics")[1]

    def told() -> bool:
        note = worker.place.board.read(worker.place.slot)
        return note is not None and b"the policy has died" in note.text

    wait_until(told, "the others are told")


def test_an_exporter_without_its_threads_is_not_healthy(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(worker.pipeline._exporter), "alive", property(lambda _: False))
    assert worker.page("/healthz") == (503, worker.page("/readyz")[1])
    assert "the exporter has died" in worker.page("/readyz")[1]


def test_one_that_ends_says_so_and_leaves_no_thread() -> None:
    before = set(threading.enumerate())
    made = Worker()
    made.pipeline.start()
    made.pipeline.stop()
    note = made.place.board.read(made.place.slot)
    assert note is not None
    assert note.tag == State.ENDING
    assert set(threading.enumerate()) <= before
