"""The enricher as a user runs it: its own process, its own configuration file."""

import json
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
        exporter: Mapping[str, Any] | None = None,
        exporters: Mapping[str, Any] | None = None,
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
        config = directory / "enricher.yaml"
        settings = self._config(exporters or _otlp_grpc(to_port, exporter or {}), ebpf or {})
        config.write_text(json.dumps(settings))  # which is YAML, too
        verb = ["record", str(recording), *record_options] if recording else ["run"]
        command = [*before, sys.executable, "-m", "enricher.cli.main", *verb, "--config", str(config)]
        super().__init__("enricher", command, directory / "enricher.log")

    def _become_ready(self) -> None:
        self.wait_listening(self.port)
        if self.http_port:
            self.wait_listening(self.http_port)

    def _config(self, exporters: Mapping[str, Any], ebpf: dict[str, Any]) -> dict[str, Any]:
        ports = {"grpc": self.port} | ({"http": self.http_port} if self.http_port else {})
        protocols = {name: {"endpoint": f"127.0.0.1:{port}"} for name, port in ports.items()}
        return {
            "receivers": {"otlp": {"protocols": protocols}},
            "processors": {"ebpf": ebpf},
            "exporters": exporters,
            "service": {
                "pipelines": {"traces": {"receivers": ["otlp"], "processors": ["ebpf"], "exporters": [*exporters]}},
                "telemetry": {"metrics": {"address": f"127.0.0.1:{self.metrics_port}"}},
            },
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
