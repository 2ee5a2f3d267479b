"""exporters.otlp_http on the native client."""

from urllib.parse import urlsplit

from enricher._native import Client, UnusableClient
from enricher.config.endpoints import Target
from enricher.config.model import OtlpHttpExporter
from enricher.otlp.sending.assembly import Line
from enricher.otlp.sending.native import NativeSender, cannot_send, client_tls
from enricher.otlp.transport import Exporter


def build(settings: OtlpHttpExporter, line: Line) -> Exporter:
    """Raises CannotSendError."""
    return line.otlp(settings, [http_sender(settings, target) for target in settings.targets])


def http_sender(settings: OtlpHttpExporter, target: Target) -> NativeSender:
    endpoint, path = endpoint_and_path(target)
    try:
        client = Client.http(
            endpoint,
            path=path,
            encoding=settings.encoding,
            tls=client_tls(settings.tls, target),
            headers=list(settings.headers.items()),
            compression=None if settings.compression == "none" else settings.compression,
            keepalive_time_ns=settings.keepalive.time_ns,
            keepalive_timeout_ns=settings.keepalive.timeout_ns,
        )
    except UnusableClient as error:
        raise cannot_send(target, error) from error
    return NativeSender(target.address, client)


def endpoint_and_path(target: Target) -> tuple[str, str]:
    """host:port and path of a URL."""
    url = urlsplit(target.address)
    usual_port = 80 if target.plaintext else 443
    endpoint = url.netloc if url.port is not None else f"{url.netloc.removesuffix(':')}:{usual_port}"
    return endpoint, url.path or "/"
