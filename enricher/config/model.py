"""Every setting, with its default, in the shape of the YAML file.

A field has the name of its key; a duration's field has `_ns` added and holds nanoseconds. An exporter that is
not configured is None.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Literal, Self

from enricher.config.durations import UNIT_NS
from enricher.config.values import Duration, Endpoint, Flag, Headers, PowerOfTwo, Real, Texts, Whole, split_endpoint

MS = UNIT_NS["ms"]
SECOND = UNIT_NS["s"]
MINUTE = UNIT_NS["m"]
HOUR = UNIT_NS["h"]

# At 34,000 spans/s, the most measured for one service, this holds half a second. The kernel maps a ring twice, and all
# of it counts as resident.
DEFAULT_RING_BYTES = 2 << 20

ProbeSwitch = Literal["auto", "on", "off"]
LogLevel = Literal["debug", "info", "warn", "error"]
TextList = Annotated[tuple[str, ...], Texts()]


@dataclass(frozen=True, slots=True, kw_only=True)
class GrpcReceiver:
    """receivers.otlp.protocols.grpc"""

    endpoint: Annotated[str, Endpoint(least_port=0)] = "127.0.0.1:4317"
    # 4 is what gRPC servers and collectors take by default. Taking more than the backend takes would turn a
    # refusal that the SDK sees at once into spans lost after they had been accepted.
    max_recv_msg_size_mib: Annotated[int, Whole(1, 512)] = 4

    @property
    def port(self) -> int:
        """0: any free one."""
        return split_endpoint(self.endpoint)[1]

    @property
    def max_recv_bytes(self) -> int:
        return self.max_recv_msg_size_mib << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Protocols:
    """receivers.otlp.protocols"""

    MISSING: ClassVar[Mapping[str, str]] = {
        "http": "OTLP over HTTP is not available in this version; use grpc",
    }

    grpc: GrpcReceiver = field(default_factory=GrpcReceiver)


@dataclass(frozen=True, slots=True, kw_only=True)
class OtlpReceiver:
    """receivers.otlp"""

    SUMMARY: ClassVar[str] = "spans from SDKs and collectors, OTLP over gRPC"

    protocols: Protocols = field(default_factory=Protocols)


@dataclass(frozen=True, slots=True, kw_only=True)
class Receivers:
    otlp: OtlpReceiver = field(default_factory=OtlpReceiver)


@dataclass(frozen=True, slots=True, kw_only=True)
class Probes:
    """processors.ebpf.probes: `auto` is on where the host can, `on` fails at start where it cannot."""

    syscalls: ProbeSwitch = "auto"
    go_sdk: ProbeSwitch = "auto"
    go_runtime: ProbeSwitch = "auto"
    go_net: ProbeSwitch = "auto"
    headers: ProbeSwitch = "auto"
    processes: ProbeSwitch = "auto"


@dataclass(frozen=True, slots=True, kw_only=True)
class Select:
    """processors.ebpf.select: shell patterns. `exclude` wins; the two others add to the Go programs found."""

    executables: TextList = ()  # paths of executables
    cgroups: TextList = ()  # cgroup paths
    exclude: TextList = ()  # paths of executables


@dataclass(frozen=True, slots=True, kw_only=True)
class Ebpf:
    """processors.ebpf"""

    SUMMARY: ClassVar[str] = "writes what the kernel knows about a span onto the span"

    blocked_threshold_ns: Annotated[int, Duration(10_000, MINUTE)] = 1 * MS
    tail_window_ns: Annotated[int, Duration(0, 10 * SECOND)] = 300 * MS
    retention_ns: Annotated[int, Duration(1 * SECOND, 10 * MINUTE)] = 30 * SECOND
    stamp: Literal["evidence", "all"] = "evidence"
    ring_size: Annotated[int, PowerOfTwo(4096, 64 << 20)] = DEFAULT_RING_BYTES
    probes: Probes = field(default_factory=Probes)
    select: Select = field(default_factory=Select)


@dataclass(frozen=True, slots=True, kw_only=True)
class Processors:
    ebpf: Ebpf = field(default_factory=Ebpf)


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
