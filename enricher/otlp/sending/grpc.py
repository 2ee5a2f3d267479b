"""exporters.otlp_grpc on the native client."""

from enricher._native import Client, UnusableClient
from enricher.config.endpoints import Target
from enricher.config.model import OtlpGrpcExporter
from enricher.otlp.sending.assembly import Line
from enricher.otlp.sending.native import NativeSender, cannot_send, client_tls
from enricher.otlp.transport import Exporter


def build(settings: OtlpGrpcExporter, line: Line) -> Exporter:
    """Raises CannotSendError."""
    return line.otlp(settings, [grpc_sender(settings, target) for target in settings.targets])


def grpc_sender(settings: OtlpGrpcExporter, target: Target) -> NativeSender:
    try:
        client = Client.grpc(
            target.address,
            tls=client_tls(settings.tls, target),
            headers=list(settings.headers.items()),
            compression=None if settings.compression == "none" else settings.compression,
            keepalive_time_ns=settings.keepalive.time_ns,
            keepalive_timeout_ns=settings.keepalive.timeout_ns,
        )
    except UnusableClient as error:
        raise cannot_send(target, error) from error
    return NativeSender(target.address, client)
