"""receivers: where spans come in."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, ClassVar

from enricher.config.values import Endpoint, Whole, split_endpoint


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
