"""service: how the components are put together, and the enricher's own telemetry."""

from dataclasses import dataclass, field
from typing import Annotated, Literal

from enricher.config.values import Endpoint

LogLevel = Literal["debug", "info", "warn", "error"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Traces:
    """service.pipelines.traces"""

    receivers: tuple[Literal["otlp"], ...] = ("otlp",)
    processors: tuple[Literal["ebpf"], ...] = ("ebpf",)
    exporters: tuple[Literal["otlp_grpc", "terminal"], ...] = ("terminal",)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pipelines:
    traces: Traces = field(default_factory=Traces)


@dataclass(frozen=True, slots=True, kw_only=True)
class Metrics:
    """service.telemetry.metrics"""

    address: Annotated[str, Endpoint(least_port=0)] = "127.0.0.1:8889"


@dataclass(frozen=True, slots=True, kw_only=True)
class Logs:
    """service.telemetry.logs"""

    level: LogLevel = "info"


@dataclass(frozen=True, slots=True, kw_only=True)
class Telemetry:
    metrics: Metrics = field(default_factory=Metrics)
    logs: Logs = field(default_factory=Logs)


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    pipelines: Pipelines = field(default_factory=Pipelines)
    telemetry: Telemetry = field(default_factory=Telemetry)
