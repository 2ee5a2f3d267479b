"""exporters: where spans go."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Literal

from enricher.config.durations import HOUR, MINUTE, MS, SECOND
from enricher.config.endpoints import Endpoint, Target, Url, is_plaintext, without_scheme
from enricher.config.model.security import ClientTls
from enricher.config.values import Duration, File, Flag, Headers, Real, Texts, Whole

TRACES_PATH = "/v1/traces"
GrpcBackend = Endpoint(unix=True, scheme=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Keepalive:
    """keepalive of an exporter of OTLP: a connection whose other end has vanished is given up."""

    time_ns: Annotated[int, Duration(1 * SECOND, 24 * HOUR)] = 60 * SECOND
    timeout_ns: Annotated[int, Duration(1 * SECOND, HOUR)] = 20 * SECOND


@dataclass(frozen=True, slots=True, kw_only=True)
class Storage:
    """sending_queue.storage: the queue outlives the process, in files here."""

    FORM: ClassVar[str] = "{directory: /var/lib/enricher}"  # the collector has the name of an extension here

    directory: Annotated[str, File("keep")]
    # always: outlives a power failure, too.
    fsync: Literal["always", "never"] = "always"
    # Of each worker's file. Its write-ahead log (8 MiB) and its reserve (16) come on top.
    max_size_mib: Annotated[int, Whole(64, 16_777_216)] = 1024

    @property
    def max_bytes(self) -> int:
        return self.max_size_mib << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class SendingQueue:
    """sending_queue of an exporter of OTLP"""

    enabled: Annotated[bool, Flag(missing="this exporter always has its queue")] = True
    queue_size: Annotated[int, Whole(1, 1_000_000)] = 1000  # requests
    queue_size_mib: Annotated[int, Whole(1, 1_048_576)] = 128
    # Measured flat out at 512 spans a request: two starve, four keep up with four receiving threads.
    num_consumers: Annotated[int, Whole(1, 64)] = 4
    storage: Storage | None = None

    @property
    def max_bytes(self) -> int:
        return self.queue_size_mib << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryOnFailure:
    """retry_on_failure of an exporter of OTLP; the collector's keys, defaults and meaning."""

    enabled: Annotated[bool, Flag()] = True
    initial_interval_ns: Annotated[int, Duration(1 * MS, HOUR)] = 5 * SECOND
    randomization_factor: Annotated[float, Real(0, 1)] = 0.5
    multiplier: Annotated[float, Real(1, 100)] = 1.5
    max_interval_ns: Annotated[int, Duration(1 * MS, HOUR)] = 30 * SECOND
    max_elapsed_time_ns: Annotated[int, Duration(0, 24 * HOUR)] = 5 * MINUTE  # 0: no end


@dataclass(frozen=True, slots=True, kw_only=True)
class OtlpExporter:
    """What the exporters of OTLP have alike."""

    endpoint: str
    fail_over: tuple[str, ...] = ()  # in the order of preference
    tls: ClientTls = field(default_factory=ClientTls)
    # They may be secrets.
    headers: Annotated[Mapping[str, str], Headers()] = field(default_factory=dict, repr=False)
    compression: Literal["none", "gzip", "zstd"] = "none"
    timeout_ns: Annotated[int, Duration(1 * MS, HOUR)] = 5 * SECOND
    keepalive: Keepalive = field(default_factory=Keepalive)
    sending_queue: SendingQueue = field(default_factory=SendingQueue)
    retry_on_failure: RetryOnFailure = field(default_factory=RetryOnFailure)

    @property
    def targets(self) -> tuple[Target, ...]:
        """Where to send, the preferred one first."""
        raise NotImplementedError

    @property
    def plaintext(self) -> bool:
        """Whether the preferred one is spoken to without TLS."""
        return self.targets[0].plaintext


@dataclass(frozen=True, slots=True, kw_only=True)
class OtlpGrpcExporter(OtlpExporter):
    """exporters.otlp_grpc"""

    SUMMARY: ClassVar[str] = "to a backend or a collector, OTLP over gRPC"

    endpoint: Annotated[str, GrpcBackend] = "127.0.0.1:5317"
    fail_over: Annotated[tuple[str, ...], Texts(of=GrpcBackend)] = ()

    @property
    def targets(self) -> tuple[Target, ...]:
        return tuple(
            Target(without_scheme(endpoint), plaintext=is_plaintext(endpoint, self.tls.insecure))
            for endpoint in (self.endpoint, *self.fail_over)
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class OtlpHttpExporter(OtlpExporter):
    """exporters.otlp_http"""

    SUMMARY: ClassVar[str] = "to a backend or a collector, OTLP over HTTP"

    endpoint: Annotated[str, Url()] = "http://127.0.0.1:5318"
    fail_over: Annotated[tuple[str, ...], Texts(of=Url())] = ()
    traces_endpoint: Annotated[str | None, Url()] = None
    encoding: Literal["proto", "json"] = "proto"

    @property
    def targets(self) -> tuple[Target, ...]:
        urls = [endpoint.rstrip("/") + TRACES_PATH for endpoint in (self.endpoint, *self.fail_over)]
        if self.traces_endpoint is not None:
            urls[0] = self.traces_endpoint
        return tuple(Target(url, plaintext=is_plaintext(url, self.tls.insecure)) for url in urls)


@dataclass(frozen=True, slots=True, kw_only=True)
class DebugExporter:
    """exporters.debug"""

    SUMMARY: ClassVar[str] = "what passes, on standard output, as little or as much as `verbosity` says"

    verbosity: Literal["basic", "normal", "detailed"] = "basic"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rotation:
    """exporters.file.rotation"""

    max_megabytes: Annotated[int, Whole(1, 1_048_576)] = 100
    max_backups: Annotated[int, Whole(1, 10_000)] = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class FileExporter:
    """exporters.file"""

    SUMMARY: ClassVar[str] = "into a file, a line of OTLP JSON for each request"

    path: Annotated[str, File("write")]
    rotation: Rotation = field(default_factory=Rotation)


@dataclass(frozen=True, slots=True, kw_only=True)
class TerminalExporter:
    """exporters.terminal; it has no keys."""

    SUMMARY: ClassVar[str] = "a readable tree per trace on standard output, where no backend is named"


Exporter = OtlpGrpcExporter | OtlpHttpExporter | DebugExporter | FileExporter | TerminalExporter
ExporterName = Literal["otlp_grpc", "otlp_http", "debug", "file", "terminal"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Exporters:
    OF_COMPONENTS: ClassVar[bool] = True
    ELSEWHERE: ClassVar[Mapping[str, str]] = {
        "otlp": "write otlp_grpc, or otlp_http for OTLP over HTTP",
        "otlphttp": "write otlp_http",
        "otlpgrpc": "write otlp_grpc",
        "logging": "write debug",
        "console": "write terminal, or debug",
        "stdout": "write terminal, or debug",
        "jaeger": "jaeger takes OTLP: write otlp_grpc",
        "zipkin": "use a collector behind otlp_grpc",
    }

    otlp_grpc: OtlpGrpcExporter | None = None
    otlp_http: OtlpHttpExporter | None = None
    debug: DebugExporter | None = None
    file: FileExporter | None = None
    terminal: TerminalExporter | None = None
