"""The programs around the enricher, each as a Program with the questions it answers."""

import json
import os
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from tests.e2e.testbed import build
from tests.e2e.testbed.processes import Program, free_port, wait_until
from tests.e2e.testbed.spans import LENGTH_BYTES, KeptSpan, kept_requests, spans_of
from tests.e2e.testbed.truth import Truth, read_truths

DRIVER_DEADLINE_S = 180

Protocol = Literal["grpc", "http"]
Compression = Literal["none", "gzip", "zstd"]


class Sink(Program):
    """A receiver that counts, and keeps every request in a file unless told not to."""

    def __init__(
        self, directory: Path, name: str, *, keep: bool = True, port: int = 0, cores: Sequence[int] | None = None
    ) -> None:
        """`port`: 0 for any free one; or that of one that was there before, whose file goes on."""
        self.file = directory / f"{name}.requests"
        command = [
            str(build.programs() / "sink"),
            *("-listen", f"127.0.0.1:{port}"),
            *(("-keep", str(self.file)) if keep else ()),
        ]
        super().__init__(name, command, directory / f"{name}.log", cores=cores)
        self.port = port
        self._read = 0  # bytes of the file
        self._spans: list[KeptSpan] = []
        self._ids: set[str] = set()

    def _become_ready(self) -> None:
        self.port = self.answer()["port"]

    def spans(self) -> list[KeptSpan]:
        """Those kept so far, but for forgotten ones."""
        for request in kept_requests(self.file, self._read):
            self._read += LENGTH_BYTES + len(request)
            spans = spans_of(request)
            self._spans += spans
            self._ids.update(kept.id for kept in spans)
        return list(self._spans)

    def forget(self) -> None:
        """Whatever came so far is not to be told of again: a long run has more than fits into memory."""
        self._spans, self._ids = [], set()

    def wait_for(self, span_ids: Iterable[str], deadline_s: float = 30.0) -> list[KeptSpan]:
        """The spans kept, once all of these are among them."""
        wanted = set(span_ids)

        def arrived() -> bool:
            self.spans()
            return wanted <= self._ids

        wait_until(arrived, f"{self.name} has {len(wanted)} spans", deadline_s)
        return list(self._spans)


class Collector(Program):
    """A real collector that forwards and answers its sender when it has been answered: no queue, no retry."""

    def __init__(
        self,
        directory: Path,
        to_port: int,
        port: int | None = None,
        *,
        over: Protocol = "grpc",
        compression: Compression = "none",
        inserted: Mapping[str, bool | str] | None = None,
        cores: Sequence[int] | None = None,
    ) -> None:
        """It takes spans over gRPC (`port`) and HTTP (`http_port`), and sends them on `over` one of them.

        `inserted`: attributes that its processor inserts on every span.
        """
        self.port = port or free_port()
        self.http_port = free_port()
        config = directory / f"collector-{self.port}.yaml"
        settings = self._config(_exporter(over, to_port, compression), inserted or {})
        config.write_text(json.dumps(settings))  # which is YAML, too
        command = [str(build.collector()), "--config", str(config)]
        super().__init__("collector", command, directory / "collector.log", cores=cores)

    def _become_ready(self) -> None:
        self.wait_listening(self.port)
        self.wait_listening(self.http_port)

    def _config(self, exporters: dict[str, Any], inserted: Mapping[str, bool | str]) -> dict[str, Any]:
        actions = [{"key": key, "value": value, "action": "insert"} for key, value in inserted.items()]
        processors = {"attributes": {"actions": actions}} if actions else {}
        limit_mib = 64
        return {
            "receivers": {
                "otlp": {
                    "protocols": {
                        "grpc": {"endpoint": f"127.0.0.1:{self.port}", "max_recv_msg_size_mib": limit_mib},
                        "http": {"endpoint": f"127.0.0.1:{self.http_port}", "max_request_body_size": limit_mib << 20},
                    }
                }
            },
            "processors": processors,
            "exporters": exporters,
            "service": {
                "telemetry": {"metrics": {"level": "none"}, "logs": {"level": "warn"}},
                "pipelines": {
                    "traces": {"receivers": ["otlp"], "processors": [*processors], "exporters": [*exporters]}
                },
            },
        }


def _exporter(over: Protocol, to_port: int, compression: Compression) -> dict[str, Any]:
    at_once = {"sending_queue": {"enabled": False}, "retry_on_failure": {"enabled": False}, "compression": compression}
    if over == "http":
        return {"otlp_http": {"endpoint": f"http://127.0.0.1:{to_port}", **at_once}}
    return {"otlp_grpc": {"endpoint": f"127.0.0.1:{to_port}", "tls": {"insecure": True}, **at_once}}


class Service(Program):
    """The service whose spans are enriched. It exports to a subject and, the very same spans, to a reference."""

    def __init__(self, directory: Path, subject_port: int, reference_port: int, *, sampled: float = 1.0) -> None:
        """`sampled`: the share of traces that are, where no remote parent says."""
        self.truth_file = directory / "truth.jsonl"
        super().__init__(
            "service",
            [
                str(build.programs() / "service"),
                *("-subject", f"127.0.0.1:{subject_port}"),
                *("-reference", f"127.0.0.1:{reference_port}"),
                *("-truth", str(self.truth_file)),
                *("-sampled", str(sampled)),
            ],
            directory / "service.log",
            # Threads asleep in system calls must not be short of others to run the rest.
            environment=os.environ | {"GOMAXPROCS": str(max(4, os.cpu_count() or 1))},
        )
        self.ports: dict[str, int] = {}
        self._read = 0  # bytes of the file
        self._truth: list[Truth] = []

    def _become_ready(self) -> None:
        self.ports = self.answer()

    def truth(self, label: str | None = None) -> list[Truth]:
        """What was measured of each span, also of those that are not sampled; of one driver's requests only, if its
        label is given."""
        with self.truth_file.open("rb") as file:
            file.seek(self._read)
            whole, newline, _ = file.read().rpartition(b"\n")
        self._read += len(whole) + len(newline)
        self._truth += read_truths(whole.decode().splitlines())
        return [t for t in self._truth if label is None or t.step.startswith(f"{label}:")]

    def forget(self) -> None:
        """What was measured so far is not to be told of again."""
        self._truth = []


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What a driver asks for. The same seed asks for the same."""

    label: str = "load"
    sequences: int = 600
    concurrency: int = 48
    rate: float = 80.0  # sequences begun a second; 0: as many as there is room for
    seed: int = 1
    mix: Literal["plain", "all"] = "plain"  # all: with goroutines, spans and clients' connections inside the span
    only: str = ""  # one sequence, its causes with commas between them
    over: Literal["http", "grpc"] = "http"  # that one
    shortest_ms: int = 30  # how long a cause lasts
    longest_ms: int = 90
    quiet: float = 0.0  # share of sequences that are a single request with nothing wrong
    unsampled: float = 0.0  # share of remote parents that are not sampled


class Driver(Program):
    """Asks the service for a load; ends when all has been answered."""

    def __init__(self, directory: Path, service: Service, load: Load) -> None:
        super().__init__(
            "driver",
            [
                str(build.programs() / "driver"),
                *("-http", f"127.0.0.1:{service.ports['http']}"),
                *("-grpc", f"127.0.0.1:{service.ports['grpc']}"),
                *("-label", load.label),
                *("-sequences", str(load.sequences)),
                *("-concurrency", str(load.concurrency)),
                *("-rate", str(load.rate)),
                *("-seed", str(load.seed)),
                *("-mix", load.mix),
                *("-only", load.only),
                *("-over", load.over),
                *("-shortest", f"{load.shortest_ms}ms"),
                *("-longest", f"{load.longest_ms}ms"),
                *("-quiet", str(load.quiet)),
                *("-unsampled", str(load.unsampled)),
            ],
            directory / "driver.log",
        )
        self._service = service
        self._load = load
        self.requests_per_s = 0.0  # known at the end

    def finish_load(self) -> list[Truth]:
        """Waits for the end, and returns what the service measured meanwhile, one for each sampled span."""
        try:
            output, _ = self._process.communicate(timeout=DRIVER_DEADLINE_S)
        except subprocess.TimeoutExpired:
            raise AssertionError(self.complaint("does not come to its end")) from None
        report = json.loads(output)
        assert not report["errors"], self.complaint(f"was not answered well: {report['errors']}")

        def written() -> list[Truth] | None:
            truth = self._service.truth(self._load.label)
            return truth if sum(t.name == "server" for t in truth) == report["requests"] else None

        self.requests_per_s = report["requests"] / report["seconds"]
        truth = wait_until(written, f"the service has written down {report['requests']} requests")
        return [t for t in truth if t.sampled]


def drive(directory: Path, service: Service, load: Load) -> list[Truth]:
    with Driver(directory, service, load) as driver:
        return driver.finish_load()
