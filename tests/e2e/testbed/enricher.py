"""The enricher as a user runs it: its own process, its own configuration file."""

import http.client
import json
import os
import signal
import sys
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import grpc

from tests.e2e.testbed.processes import Program, children, command_line, free_port, wait_until
from tests.e2e.testbed.workload import Load, Service, Sink, drive

# May read every file, as the interpreter can lie in root's home, and nothing else that a plain user may not.
PLAIN_USER = (
    *("setpriv", "--reuid=61000", "--regid=61000", "--clear-groups", "--no-new-privs"),
    *("--bounding-set=-all,+dac_read_search", "--inh-caps=-all,+dac_read_search"),
    "--ambient-caps=-all,+dac_read_search",
)
ROOT_WITHOUT_CAPABILITIES = ("setpriv", "--bounding-set=-all", "--inh-caps=-all", "--no-new-privs")

EXPORT = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"

WATCHED_DEADLINE_S = 30.0

TRANSPORT = "native"


def _same(message: bytes) -> bytes:
    return message


def _otlp_grpc(to_port: int, more: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "otlp_grpc": {
            "endpoint": f"127.0.0.1:{to_port}",
            "retry_on_failure": {"initial_interval": "100ms", "max_interval": "500ms"},
            **more,
        }
    }


class Enricher(Program):
    """`enricher run --config FILE`, or `enricher record RECORDING --config FILE`."""

    def __init__(
        self,
        directory: Path,
        to_port: int,
        *,
        before: Sequence[str] = (),
        ebpf: dict[str, Any] | None = None,
        service: Mapping[str, Any] | None = None,
        exporter: Mapping[str, Any] | None = None,
        exporters: Mapping[str, Any] | None = None,
        sampling: Mapping[str, Any] | None = None,
        http: bool = False,
        recording: Path | None = None,
        record_options: Sequence[str] = (),
    ) -> None:
        """It sends spans to `to_port` over gRPC, with the keys of `exporter`; or as the section `exporters` says.

        `http`: it also takes spans over HTTP, on `http_port`.
        """
        self.port = free_port()
        self.http_port = free_port() if http else 0
        self.metrics_port = free_port()
        self.directory = directory
        self.file = config = directory / "enricher.yaml"
        self.configure(to_port, ebpf=ebpf, service=service, exporter=exporter, exporters=exporters, sampling=sampling)
        verb = ["record", str(recording), *record_options] if recording else ["run"]
        command = [*before, sys.executable, "-m", "enricher.cli.main", *verb, "--config", str(config)]
        super().__init__("enricher", command, directory / "enricher.log")

    def _become_ready(self) -> None:
        self.wait_listening(self.port)
        if self.http_port:
            self.wait_listening(self.http_port)

    def configure(
        self,
        to_port: int,
        *,
        ebpf: dict[str, Any] | None = None,
        service: Mapping[str, Any] | None = None,
        exporter: Mapping[str, Any] | None = None,
        exporters: Mapping[str, Any] | None = None,
        sampling: Mapping[str, Any] | None = None,
    ) -> None:
        """Writes the file, which is read at the start, and at SIGHUP. `service`: keys of that section. Without
        `sampling` there is no such processor."""
        processors = {"ebpf": ebpf or {}} | ({} if sampling is None else {"sampling": sampling})
        named = exporters or _otlp_grpc(to_port, exporter or {})
        self.file.write_text(json.dumps(self._config(named, processors, service or {})))  # which is YAML, too

    def _config(
        self, exporters: Mapping[str, Any], processors: Mapping[str, Any], service: Mapping[str, Any]
    ) -> dict[str, Any]:
        ports = {"grpc": self.port} | ({"http": self.http_port} if self.http_port else {})
        protocols = {name: {"endpoint": f"127.0.0.1:{port}"} for name, port in ports.items()}
        return {
            "receivers": {"otlp": {"protocols": protocols}},
            "processors": processors,
            "exporters": exporters,
            "service": {
                "pipelines": {
                    "traces": {"receivers": ["otlp"], "processors": [*processors], "exporters": [*exporters]}
                },
                "telemetry": {"metrics": {"address": f"127.0.0.1:{self.metrics_port}"}},
                "transport": TRANSPORT,
            }
            | service,
        }

    def metrics(self) -> dict[str, float]:
        """Every series as the endpoint shows it, its labels in its name. Raises OSError."""
        url = f"http://127.0.0.1:{self.metrics_port}/metrics"
        with urllib.request.urlopen(url, timeout=5) as answer:
            lines = answer.read().decode().splitlines()
        return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines if line[:1] != "#")}

    @contextmanager
    def sender(self) -> Iterator[Callable[[bytes], bytes]]:
        """Sends one encoded request and returns the encoded answer. Raises grpc.RpcError."""
        with grpc.insecure_channel(f"127.0.0.1:{self.port}") as channel:
            yield channel.unary_unary(EXPORT, _same, _same)

    def child(self, which: Literal["observer", "pipeline"]) -> int | None:
        """Pid of that process, None if there is none at the moment."""
        for pid in children(self.pid):
            if f"enricher.{which}" in command_line(pid):
                return pid
        return None

    def wait_for_child(self, which: Literal["observer", "pipeline"], other_than: int = 0) -> int:
        def found() -> int | None:
            assert self.status is None, self.complaint("has ended")
            pid = self.child(which)
            return pid if pid != other_than else None

        return wait_until(found, f"the {which} is there", 30.0)

    def workers(self) -> list[int]:
        """Pids of all processes of the pipeline, also of those that end, by their number."""
        found = [
            (arguments, pid) for pid in children(self.pid) if "enricher.pipeline" in (arguments := command_line(pid))
        ]
        return [pid for _, pid in sorted((arguments[arguments.index("--worker") + 1], pid) for arguments, pid in found)]

    def page(self, path: str, timeout_s: float = 5.0) -> tuple[int, str]:
        """Status and content. Raises OSError where nobody answers."""
        connection = http.client.HTTPConnection("127.0.0.1", self.metrics_port, timeout=timeout_s)
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.status, answer.read().decode()
        finally:
            connection.close()

    def metric(self, name: str) -> float:
        """The sum over all workers and labels. Raises OSError."""
        return sum(
            float(line.rsplit(" ", 1)[1])
            for line in self.page("/metrics")[1].splitlines()
            if line.startswith((f"enricher_{name} ", f"enricher_{name}{{"))
        )

    def wait_until_ready(self) -> None:
        def ready() -> bool:
            assert self.status is None, self.complaint("has ended")
            try:
                return self.page("/readyz")[0] == 200
            except OSError:
                return False

        try:
            wait_until(ready, "all workers serve", 30.0)
        except AssertionError as error:
            raise AssertionError(self.complaint(str(error))) from error

    def reload(self) -> None:
        os.kill(self.pid, signal.SIGHUP)

    def lines(self, event: str) -> list[dict[str, Any]]:
        """Those of the log so far that tell of it."""
        lines = [json.loads(line) for line in self.log.read_text().splitlines() if line.startswith("{")]
        return [line for line in lines if line["event"] == event]

    def wait_for_line(self, event: str) -> dict[str, Any]:
        return wait_until(lambda: self.lines(event), f"the log tells: {event}", 30.0)[-1]

    def wait_until_watching(self, service: Service, sink: Sink, label: str = "first") -> None:
        """Drives single requests that block until one of them comes out marked."""
        attempt = 0

        def marked() -> bool:
            nonlocal attempt
            attempt += 1
            # A label with its number: the spans of an earlier one must not count.
            truth = drive(self.directory, service, Load(label=f"{label}{attempt}", sequences=1, only="pipe_kernel"))
            spans = {kept.id: kept for kept in sink.wait_for(t.id for t in truth)}
            return any(spans[t.id].claims for t in truth)

        try:
            wait_until(marked, "a span of a blocked request is marked", WATCHED_DEADLINE_S)
        except AssertionError as error:
            raise AssertionError(self.complaint(str(error))) from error
