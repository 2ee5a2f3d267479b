"""All sections together."""

from dataclasses import dataclass, field
from typing import Self

from enricher.config.model.exporters import Exporters, OtlpGrpcExporter, TerminalExporter
from enricher.config.model.processors import Ebpf, Processors
from enricher.config.model.receivers import GrpcReceiver, Receivers
from enricher.config.model.service import Service


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """A whole configuration. The default is what runs with no file: spans are shown on the terminal."""

    receivers: Receivers = field(default_factory=Receivers)
    processors: Processors = field(default_factory=Processors)
    exporters: Exporters = field(default_factory=lambda: Exporters(terminal=TerminalExporter()))
    service: Service = field(default_factory=Service)

    @property
    def grpc(self) -> GrpcReceiver:
        return self.receivers.otlp.protocols.grpc

    @property
    def ebpf(self) -> Ebpf | None:
        """None where the pipeline leaves the processor out: spans then pass through untouched."""
        return self.processors.ebpf if self.service.pipelines.traces.processors else None

    @property
    def exporter(self) -> OtlpGrpcExporter | TerminalExporter:
        """The one exporter that the pipeline names; reading has made sure that it is configured."""
        exporter = getattr(self.exporters, self.service.pipelines.traces.exporters[0])
        assert isinstance(exporter, OtlpGrpcExporter | TerminalExporter)
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
