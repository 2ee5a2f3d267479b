"""service: how the components are put together, on how many processes, and the enricher's own telemetry."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Literal, get_args

from enricher.config.durations import HOUR, SECOND
from enricher.config.endpoints import Destination, Endpoint, Target, is_plaintext, without_scheme
from enricher.config.model.exporters import ExporterName, Exporters
from enricher.config.model.processors import Processors
from enricher.config.model.receivers import Receivers
from enricher.config.model.security import BearerAuth, ClientTls
from enricher.config.values import Choice, Duration, Headers, Texts, Whole

LogLevel = Literal["debug", "info", "warn", "error"]
ReceiverName = Literal["otlp"]
ProcessorName = Literal["ebpf", "sampling"]

METRICS_PATH = "/v1/metrics"


@dataclass(frozen=True, slots=True, kw_only=True)
class Traces:
    """service.pipelines.traces"""

    receivers: Annotated[
        tuple[ReceiverName, ...], Texts(of=Choice(get_args(ReceiverName), Receivers.ELSEWHERE))
    ] = ("otlp",)  # fmt: skip
    processors: Annotated[
        tuple[ProcessorName, ...], Texts(of=Choice(get_args(ProcessorName), Processors.ELSEWHERE))
    ] = ("ebpf",)  # fmt: skip
    exporters: Annotated[
        tuple[ExporterName, ...], Texts(of=Choice(get_args(ExporterName), Exporters.ELSEWHERE))
    ] = ("terminal",)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Pipelines:
    ELSEWHERE: ClassVar[Mapping[str, str]] = dict.fromkeys(
        ("metrics", "logs", "profiles"), "only traces pass here; send the rest straight to its backend"
    )

    traces: Traces = field(default_factory=Traces)


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """service.memory, of one pipeline process.

    Beyond `soft_percentage` of `limit_mib` requests are refused, at `limit_mib` the oldest evidence goes.
    """

    limit_mib: Annotated[int, Whole(64, 1_048_576)] = 512
    soft_percentage: Annotated[int, Whole(10, 100)] = 80

    @property
    def limit_bytes(self) -> int:
        return self.limit_mib << 20

    @property
    def soft_limit_bytes(self) -> int:
        return self.limit_bytes * self.soft_percentage // 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Control:
    """service.control: where a running enricher can be told otherwise."""

    endpoint: Annotated[str, Endpoint(least_port=0, unix=True)] = "127.0.0.1:4319"
    auth: BearerAuth | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricsPush:
    """service.telemetry.metrics.otlp: the enricher's own metrics, sent to a backend."""

    endpoint: Annotated[str, Destination()]
    protocol: Literal["grpc", "http/protobuf"] = "grpc"
    interval_ns: Annotated[int, Duration(1 * SECOND, HOUR)] = 60 * SECOND
    headers: Annotated[Mapping[str, str], Headers()] = field(default_factory=dict, repr=False)
    tls: ClientTls = field(default_factory=ClientTls)

    @property
    def target(self) -> Target:
        plaintext = is_plaintext(self.endpoint, self.tls.insecure)
        if self.protocol == "grpc":
            return Target(without_scheme(self.endpoint).rstrip("/"), plaintext)
        return Target(self.endpoint.rstrip("/") + METRICS_PATH, plaintext)

    @property
    def plaintext(self) -> bool:
        """Whether it is spoken to without TLS."""
        return self.target.plaintext


@dataclass(frozen=True, slots=True, kw_only=True)
class Metrics:
    """service.telemetry.metrics"""

    address: Annotated[str, Endpoint(least_port=0)] = "127.0.0.1:8889"
    otlp: MetricsPush | None = None


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
    ELSEWHERE: ClassVar[Mapping[str, str]] = {
        "extensions": "health is at service.telemetry.metrics.address, a queue on disk is sending_queue.storage",
    }

    workers: Annotated[int, Whole(1, 64)] = 1  # pipeline processes
    # grpcio: the reference, for gRPC in plain text alone.
    transport: Literal["native", "grpcio"] = "native"
    memory: Memory = field(default_factory=Memory)
    control: Control | None = None
    pipelines: Pipelines = field(default_factory=Pipelines)
    telemetry: Telemetry = field(default_factory=Telemetry)
