"""Where uprobes are forbidden: a service that labels its goroutines with their spans, and no probe inside it."""

import http.client
import json
import socket
import subprocess
import urllib.parse
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.e2e.testbed import build
from tests.e2e.testbed.enricher import WATCHED_DEADLINE_S, Enricher
from tests.e2e.testbed.processes import Program, wait_until
from tests.e2e.testbed.spans import KeptSpan
from tests.e2e.testbed.truth import THRESHOLD_NS, TOLERANCE_NS, Range
from tests.e2e.testbed.workload import Sink

PAUSE_MS = 30
CLIENTS = 6
PACKAGE = build.ROOT / "contrib/go/enricherlabels"
ROUNDS = 4

NO_UPROBES = {"probes": {"go_sdk": "off", "go_runtime": "off", "go_net": "off"}}

ACTS = (
    "sleep",
    "parked",
    "asleep",
    "nested",
    "goroutine",
    "goroutine with a span",
    "left behind",
    "worker",
    "worker with the context",
    "handed over",
    "own labels",
)


@dataclass(frozen=True, slots=True)
class Told:
    """What the service says of one of its spans."""

    act: str
    name: str
    id: str
    blocked_ns: int

    @property
    def row(self) -> str:
        return f"{self.act}: {self.name}"


class LabelledService(Program):
    def __init__(self, directory: Path, to_port: int) -> None:
        command = [str(build.programs() / "labels"), "-to", f"127.0.0.1:{to_port}"]
        super().__init__("labels", command, directory / "labels.log")
        self.port = 0

    def _become_ready(self) -> None:
        self.port = self.answer()["port"]

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=30)


def ask(connection: socket.socket, act: str) -> list[Told]:
    """One request, with a body: at its end net/http begins to read ahead, and does so inside the span.

    All in one piece, so that the service need not wait for a part of it.
    """
    target = urllib.parse.urlencode({"act": act, "ms": PAUSE_MS})
    connection.sendall(f"POST /?{target} HTTP/1.1\r\nHost: labels\r\nContent-Length: 4\r\n\r\nsome".encode())
    response = http.client.HTTPResponse(connection)
    response.begin()
    content = response.read()
    assert response.status == http.HTTPStatus.OK, content
    return [Told(act, s["name"], s["trace_id"] + s["span_id"], s["blocked_ns"]) for s in json.loads(content)]


def ask_for_everything(service: LabelledService) -> list[Told]:
    """Several clients at once, each one request after the other on its connection."""

    def one_client(first: int) -> list[Told]:
        acts = [ACTS[(first + n) % len(ACTS)] for n in range(ROUNDS * len(ACTS))]
        with service.connect() as connection:
            return [told for act in acts for told in ask(connection, act)]

    with ThreadPoolExecutor(CLIENTS) as clients:
        return [told for of_one in clients.map(one_client, range(CLIENTS)) for told in of_one]


def wait_until_watching(enricher: Enricher, service: LabelledService, sink: Sink) -> None:
    def marked() -> bool:
        with service.connect() as connection:
            told = ask(connection, "parked")
        spans = {kept.id: kept for kept in sink.wait_for(t.id for t in told)}
        return any(spans[t.id].claims for t in told)

    try:
        wait_until(marked, "a span of a blocked request is marked", WATCHED_DEADLINE_S)
    except AssertionError as error:
        raise AssertionError(enricher.complaint(str(error))) from error


@dataclass(frozen=True, slots=True)
class Run:
    told: list[Told]
    spans: dict[str, KeptSpan]
    log: str  # the enricher's

    def claims(self, told: Told) -> dict[str, bool | int | float | str]:
        return self.spans[told.id].claims

    @property
    def blocked(self) -> list[Told]:
        return [told for told in self.told if told.blocked_ns >= THRESHOLD_NS]


@pytest.fixture(scope="module")
def run(programs: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    directory = tmp_path_factory.mktemp("go-labels")
    with (
        Sink(directory, "subject") as sink,
        Enricher(directory, sink.port, ebpf=NO_UPROBES) as enricher,
        LabelledService(directory, enricher.port) as service,
    ):
        wait_until_watching(enricher, service, sink)
        told = ask_for_everything(service)
        spans = {kept.id: kept for kept in sink.wait_for(t.id for t in told)}
        service.finish()
        yield Run(told, spans, enricher.log.read_text())


def test_every_span_that_was_blocked_is_marked(run: Run) -> None:
    assert len(run.blocked) > 8 * CLIENTS * ROUNDS
    missed = [told.row for told in run.blocked if run.claims(told).get("ebpf.system_call_blocked") is not True]
    assert not missed, f"{len(missed)} of {len(run.blocked)}: {sorted(set(missed))}\n{run.log[-4000:]}"


def test_no_other_span_carries_a_claim(run: Run) -> None:
    """Among them: a worker's callers, a span handed over, and what a goroutine left behind has outlived."""
    innocent = [told for told in run.told if told.blocked_ns == 0]
    assert len(innocent) > 5 * CLIENTS * ROUNDS
    stamped = [(told.row, run.claims(told)) for told in innocent if run.claims(told)]
    assert not stamped, f"{len(stamped)} of {len(innocent)}: {stamped[:8]}\n{run.log[-4000:]}"


def test_the_method_is_named(run: Run) -> None:
    methods = {run.claims(told).get("ebpf.match.method") for told in run.blocked}
    assert methods == {"goroutine_labels"}


def test_the_evidence_is_whole(run: Run) -> None:
    broken = [(told.row, run.claims(told)) for told in run.blocked if run.claims(told).get("ebpf.complete") is False]
    assert not broken, f"{len(broken)} of {len(run.blocked)}: {broken[:8]}"


def test_durations_agree_with_the_programs_own(run: Run) -> None:
    """Where the runtime or the kernel was late to let the goroutine go on, the program measured more than the wait."""
    wrong = []
    for told in run.blocked:
        waits = told.blocked_ns // (PAUSE_MS * 1_000_000)
        measured = Range(waits * PAUSE_MS * 1_000_000 - TOLERANCE_NS, told.blocked_ns)
        claimed = run.claims(told).get("ebpf.syscall.blocked.duration")
        if claimed is not None and not measured.agrees(claimed):
            wrong.append(f"{told.row}: {claimed} s for {measured}")
    assert not wrong, f"{len(wrong)} of {len(run.blocked)}: {wrong[:8]}"


@pytest.mark.parametrize("command", [("vet",), ("test", "-count=1")], ids=("vet", "test"))
def test_the_package_passes_its_own_tests(command: tuple[str, ...]) -> None:
    result = subprocess.run(
        [build.go(), *command, "./..."],
        check=False,
        cwd=PACKAGE,
        capture_output=True,
        text=True,
        timeout=build.BUILD_DEADLINE_S,
    )
    assert result.returncode == 0, result.stdout + result.stderr
