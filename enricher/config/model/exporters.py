"""exporters: where spans go."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Literal

from enricher.config.durations import HOUR, MINUTE, MS, SECOND
from enricher.config.values import Duration, Endpoint, Flag, Headers, Real, Whole


@dataclass(frozen=True, slots=True, kw_only=True)
class Tls:
    """exporters.otlp_grpc.tls"""

    insecure: Annotated[bool, Flag(missing="TLS to the backend is not available in this version")] = True


@dataclass(frozen=True, slots=True, kw_only=True)
class SendingQueue:
    """exporters.otlp_grpc.sending_queue"""

    enabled: Annotated[bool, Flag(missing="this exporter always has its queue")] = True
    queue_size: Annotated[int, Whole(1, 1_000_000)] = 1000  # requests
    # Measured flat out at 512 spans a request: two starve, four keep up with four receiving threads.
    num_consumers: Annotated[int, Whole(1, 64)] = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryOnFailure:
    """exporters.otlp_grpc.retry_on_failure; the collector's keys, defaults and meaning."""

    enabled: Annotated[bool, Flag()] = True
    initial_interval_ns: Annotated[int, Duration(1 * MS, HOUR)] = 5 * SECOND
    randomization_factor: Annotated[float, Real(0, 1)] = 0.5
    multiplier: Annotated[float, Real(1, 100)] = 1.5
    max_interval_ns: Annotated[int, Duration(1 * MS, HOUR)] = 30 * SECOND
    max_elapsed_time_ns: Annotated[int, Duration(0, 24 * HOUR)] = 5 * MINUTE  # 0: no end


@dataclass(frozen=True, slots=True, kw_only=True)
class OtlpGrpcExporter:
    """exporters.otlp_grpc"""

    SUMMARY: ClassVar[str] = "to a backend or a collector, OTLP over gRPC"

    endpoint: Annotated[str, Endpoint()] = "127.0.0.1:5317"
    tls: Tls = field(default_factory=Tls)
    # They may be secrets.
    headers: Annotated[Mapping[str, str], Headers()] = field(default_factory=dict, repr=False)
    compression: Literal["none", "gzip"] = "none"
    timeout_ns: Annotated[int, Duration(1 * MS, HOUR)] = 5 * SECOND
    sending_queue: SendingQueue = field(default_factory=SendingQueue)
    retry_on_failure: RetryOnFailure = field(default_factory=RetryOnFailure)


@dataclass(frozen=True, slots=True, kw_only=True)
class TerminalExporter:
    """exporters.terminal; it has no keys."""

    SUMMARY: ClassVar[str] = "a readable tree per trace on standard output, where no backend is named"


@dataclass(frozen=True, slots=True, kw_only=True)
class Exporters:
    otlp_grpc: OtlpGrpcExporter | None = None
    terminal: TerminalExporter | None = None
