"""receivers: where spans come in."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Literal

from enricher.config.endpoints import Endpoint, unix_path
from enricher.config.model.security import BearerAuth, ServerTls
from enricher.config.values import Matching, Texts, Whole, split_endpoint

# 4 is what gRPC servers and collectors take by default. Taking more than the backend takes would turn a
# refusal that the SDK sees at once into spans lost after they had been accepted.
DEFAULT_MESSAGE_MIB = 4

MessageMib = Annotated[int, Whole(1, 512)]
Connections = Annotated[int, Whole(1, 1_000_000)]
Listening = Endpoint(least_port=0, unix=True)
Origin = Matching(r"\*|null|[A-Za-z][A-Za-z0-9+.-]*://[!-~]{1,256}", "an origin such as https://shop.example, or *")
HeaderName = Matching(r"\*|[0-9A-Za-z!#$%&'*+.^_`|~-]{1,128}", "the name of a header, or *")


@dataclass(frozen=True, slots=True, kw_only=True)
class GrpcReceiver:
    """receivers.otlp.protocols.grpc"""

    endpoint: Annotated[str, Listening] = "127.0.0.1:4317"
    max_recv_msg_size_mib: MessageMib = DEFAULT_MESSAGE_MIB
    max_concurrent_streams: Annotated[int, Whole(1, 100_000)] = 64  # of one connection
    max_connections: Connections = 4096
    tls: ServerTls | None = None
    auth: BearerAuth | None = None

    @property
    def port(self) -> int | None:
        """0: any free one. None: a Unix socket."""
        return port_of(self.endpoint)

    @property
    def max_recv_bytes(self) -> int:
        return self.max_recv_msg_size_mib << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Cors:
    """receivers.otlp.protocols.http.cors: the pages of which origins may send spans. None of them by default."""

    allowed_origins: Annotated[tuple[str, ...], Texts(of=Origin)] = ()
    allowed_headers: Annotated[tuple[str, ...], Texts(of=HeaderName)] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpReceiver:
    """receivers.otlp.protocols.http"""

    endpoint: Annotated[str, Listening] = "127.0.0.1:4318"
    max_request_body_size_mib: MessageMib = DEFAULT_MESSAGE_MIB
    traces_url_path: Annotated[str, Matching(r"/[!\"$-;=@-~]{0,255}", "a path such as /v1/traces")] = "/v1/traces"
    max_connections: Connections = 4096
    tls: ServerTls | None = None
    auth: BearerAuth | None = None
    cors: Cors = field(default_factory=Cors)

    @property
    def port(self) -> int | None:
        """0: any free one. None: a Unix socket."""
        return port_of(self.endpoint)

    @property
    def max_recv_bytes(self) -> int:
        return self.max_request_body_size_mib << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Protocols:
    """receivers.otlp.protocols: those that are named, or all of them where none is."""

    OF_COMPONENTS: ClassVar[bool] = True
    ELSEWHERE: ClassVar[Mapping[str, str]] = {
        "arrow": "write grpc or http",
    }

    grpc: GrpcReceiver | None = None
    http: HttpReceiver | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class OtlpReceiver:
    """receivers.otlp"""

    SUMMARY: ClassVar[str] = "spans from SDKs and collectors, OTLP over gRPC and HTTP"

    # on_queue: a sender is answered once its spans are safely in the queue; on_forward: with the backend's answer.
    ack: Literal["on_queue", "on_forward"] = "on_queue"
    protocols: Protocols = field(default_factory=lambda: Protocols(grpc=GrpcReceiver(), http=HttpReceiver()))


@dataclass(frozen=True, slots=True, kw_only=True)
class Receivers:
    ELSEWHERE: ClassVar[Mapping[str, str]] = dict.fromkeys(
        ("jaeger", "zipkin", "opencensus", "kafka", "otlp_grpc", "otlp_http"),
        "the one receiver here is otlp; others' spans come through a collector",
    )

    otlp: OtlpReceiver = field(default_factory=OtlpReceiver)


def port_of(endpoint: str) -> int | None:
    """None for a Unix socket."""
    return None if unix_path(endpoint) is not None else split_endpoint(endpoint)[1]
