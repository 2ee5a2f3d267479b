"""Where no probe may sit inside the process: what else ties its spans to what it waited for, and what does not.

The service is driven by one client on two connections in turn, so that each is idle while the other is served.
"""

import http.client
import json
import secrets
import socket
import urllib.parse
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.testbed import build
from tests.e2e.testbed.enricher import WATCHED_DEADLINE_S, Enricher
from tests.e2e.testbed.processes import Program, wait_until
from tests.e2e.testbed.spans import KeptSpan
from tests.e2e.testbed.truth import TOLERANCE_NS, Range
from tests.e2e.testbed.workload import Sink

PAUSE_MS = 30
ACTS = ("pipe", "sleep", "child", "inner")
ROUNDS = 6

NO_UPROBES = {"go_sdk": "off", "go_runtime": "off", "go_net": "off"}
METHOD, BLOCKED, DURATION = "ebpf.match.method", "ebpf.system_call_blocked", "ebpf.syscall.blocked.duration"

Claims = Mapping[str, bool | int | float | str]


@dataclass(frozen=True, slots=True)
class Told:
    """What the service says of one of its spans."""

    act: str
    name: str
    id: str
    blocked_ns: int


class Service(Program):
    def __init__(self, directory: Path, to_port: int, *options: str) -> None:
        command = [str(build.programs() / "methods"), "-to", f"127.0.0.1:{to_port}", *options]
        super().__init__("methods", command, directory / "methods.log")
        self.port = 0

    def _become_ready(self) -> None:
        self.port = self.answer()["port"]

    @contextmanager
    def connections(self) -> Iterator[list[socket.socket]]:
        with ExitStack() as stack:
            yield [stack.enter_context(socket.create_connection(("127.0.0.1", self.port), timeout=30)) for _ in "ab"]


def ask(connection: socket.socket, act: str, *, with_header: bool) -> list[Told]:
    target = urllib.parse.urlencode({"act": act, "ms": PAUSE_MS})
    header = f"Traceparent: 00-{secrets.token_hex(16)}-{secrets.token_hex(8)}-01\r\n" if with_header else ""
    connection.sendall(f"GET /?{target} HTTP/1.1\r\nHost: methods\r\n{header}\r\n".encode())
    response = http.client.HTTPResponse(connection)
    response.begin()
    content = response.read()
    assert response.status == http.HTTPStatus.OK, content
    return [Told(act, s["name"], s["trace_id"] + s["span_id"], s["blocked_ns"]) for s in json.loads(content)]


@dataclass(frozen=True, slots=True)
class Run:
    """`told` is without the first requests, of whose connections nothing is known yet."""

    told: list[Told]
    spans: Mapping[str, KeptSpan]
    log: str  # the enricher's

    def claims(self, name: str, *, blocked: bool) -> list[tuple[Told, Claims]]:
        """Of the spans of that name that were blocked, or of those that were not."""
        of_name = [told for told in self.told if told.name == name and (told.blocked_ns > 0) is blocked]
        assert len(of_name) >= ROUNDS // 2, f"{len(of_name)} spans {name}"
        return [(told, self.spans[told.id].claims) for told in of_name]

    def assert_all_marked(self, name: str, method: str) -> None:
        found = self.claims(name, blocked=True)
        wrong = [
            (told, claims)
            for told, claims in found
            if claims.get(BLOCKED) is not True
            or claims.get(METHOD) != method
            or not Range(PAUSE_MS * 1_000_000 - TOLERANCE_NS, told.blocked_ns).agrees(float(claims[DURATION]))
        ]
        assert not wrong, f"{len(wrong)} of {len(found)} not as they should be: {wrong[:4]}\n{self.log[-4000:]}"

    def assert_no_innocent_is_marked(self) -> None:
        wrong = [(told, claims) for told, claims in self.claims("server", blocked=False) if BLOCKED in claims]
        assert not wrong, f"{wrong[:4]}\n{self.log[-4000:]}"


def drive(service: Service, *, with_header: bool) -> tuple[list[Told], list[Told]]:
    """The first requests of all, and the others."""
    with service.connections() as connections:
        first = [told for one in connections for told in ask(one, "sleep", with_header=with_header)]
        later = [
            told
            for number in range(ROUNDS)
            for act in ACTS
            for told in ask(connections[(number + ACTS.index(act)) % 2], act, with_header=with_header)
        ]
    return first, later


def run(
    directory: Path,
    probes: Mapping[str, str],
    *options: str,
    with_header: bool = False,
    marked: tuple[str, ...] = ("server",),
) -> Run:
    """`marked`: spans of which a claim shows that the enricher knows the service by now."""
    ebpf: dict[str, Any] = {"probes": {**NO_UPROBES, **probes}}
    with (
        Sink(directory, "subject") as sink,
        Enricher(directory, sink.port, ebpf=ebpf) as enricher,
        Service(directory, enricher.port, *options) as service,
    ):

        def kept(told: list[Told]) -> dict[str, KeptSpan]:
            return {span.id: span for span in sink.wait_for(one.id for one in told)}

        def is_watching() -> bool:
            _, told = drive(service, with_header=with_header)
            spans = kept(told)
            return {one.name for one in told if BLOCKED in spans[one.id].claims} >= set(marked)

        try:
            wait_until(is_watching, f"spans {marked} of blocked requests are marked", WATCHED_DEADLINE_S)
        except AssertionError as error:
            raise AssertionError(enricher.complaint(str(error))) from error
        first, told = drive(service, with_header=with_header)
        spans = kept([*first, *told])
        service.finish()
        return Run(told, spans, enricher.log.read_text())


def test_labels_that_the_program_sets_tell_its_spans(programs: Path, tmp_path: Path) -> None:
    made = run(tmp_path, {"headers": "off"}, "-label")
    made.assert_all_marked("server", "goroutine_labels")
    made.assert_no_innocent_is_marked()


def test_the_connection_of_a_server_span_tells_its_goroutine(programs: Path, tmp_path: Path) -> None:
    made = run(tmp_path, {"headers": "off"}, marked=("server", "inner"))
    made.assert_all_marked("server", "socket")
    made.assert_no_innocent_is_marked()


def test_what_nothing_else_tells_is_told_by_the_process_and_never_whole(programs: Path, tmp_path: Path) -> None:
    made = run(tmp_path, {"headers": "off"}, marked=("server", "inner"))
    made.assert_all_marked("inner", "process")
    assert all(claims["ebpf.complete"] is False for _, claims in made.claims("inner", blocked=True))


@pytest.mark.parametrize("label", [(), ("-label",)], ids=("without labels", "with them"))
def test_the_header_of_its_request_tells_a_server_span_unless_labels_do(
    programs: Path, tmp_path: Path, label: tuple[str, ...]
) -> None:
    made = run(tmp_path, {"headers": "auto"}, *label, with_header=True)
    made.assert_all_marked("server", "goroutine_labels" if label else "traceparent")
    made.assert_no_innocent_is_marked()


def test_with_every_probe_off_spans_pass_untouched(programs: Path, tmp_path: Path) -> None:
    made = run(tmp_path, {"headers": "off", "syscalls": "off", "processes": "off"}, "-label", marked=())
    assert not [kept.claims for kept in made.spans.values() if kept.claims]
