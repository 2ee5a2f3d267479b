"""All sections together."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Self

from enricher.config.model.exporters import Exporter, Exporters, TerminalExporter
from enricher.config.model.processors import Ebpf, Processors, Sampling
from enricher.config.model.receivers import GrpcReceiver, HttpReceiver, Receivers
from enricher.config.model.service import Service


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """A whole configuration. The default is what runs with no file: spans are shown on the terminal."""

    ELSEWHERE: ClassVar[Mapping[str, str]] = {
        "extensions": Service.ELSEWHERE["extensions"],
        "connectors": "spans go one way, from otlp to the exporter",
    }

    receivers: Receivers = field(default_factory=Receivers)
    processors: Processors = field(default_factory=Processors)
    exporters: Exporters = field(default_factory=lambda: Exporters(terminal=TerminalExporter()))
    service: Service = field(default_factory=Service)

    @property
    def grpc(self) -> GrpcReceiver | None:
        """None where gRPC is not received."""
        return self.receivers.otlp.protocols.grpc

    @property
    def http(self) -> HttpReceiver | None:
        """None where HTTP is not received."""
        return self.receivers.otlp.protocols.http

    @property
    def max_recv_bytes(self) -> int:
        """Of the largest request that any receiver takes."""
        return max(receiver.max_recv_bytes for receiver in (self.grpc, self.http) if receiver)

    @property
    def ebpf(self) -> Ebpf | None:
        """None where the pipeline leaves the processor out: spans then pass through untouched."""
        return self.processors.ebpf if "ebpf" in self.service.pipelines.traces.processors else None

    @property
    def sampling(self) -> Sampling | None:
        """None where the pipeline leaves the processor out: every span is kept."""
        return self.processors.sampling if "sampling" in self.service.pipelines.traces.processors else None

    @property
    def exporter(self) -> Exporter:
        """The one exporter that the pipeline names; reading has made sure that it is configured."""
        exporter = getattr(self.exporters, self.service.pipelines.traces.exporters[0])
        assert isinstance(exporter, Exporter)
        return exporter

    def to_json(self) -> str:
        """For the child processes; holds the headers in clear."""
        import json

        from enricher.config.tree import plain

        return json.dumps(plain(self))

    @classmethod
    def from_json(cls, text: str) -> Self:
        """The inverse of `to_json`. Raises ConfigError, or ValueError where `text` is no JSON."""
        import json

        from enricher.config.problems import ConfigError, Problem
        from enricher.config.tree import build

        problems: list[Problem] = []
        settings = build(cls, json.loads(text), (), problems)
        if settings is None:
            raise ConfigError(problems)
        return settings
