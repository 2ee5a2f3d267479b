"""Senders on the native client, for OTLP over gRPC and over HTTP: what they have alike."""

from collections.abc import Sequence

from enricher._native import Client, ClientTls, UnusableClient
from enricher.config.endpoints import Target
from enricher.config.model import ClientTls as TlsSettings
from enricher.otlp.transport import CannotSendError, Failure, Sendable, StatusCode, Taken
from enricher.telemetry.logs import get_logger

log = get_logger()


class NativeSender:
    """A `Sender`. `path` where it is not the one that traces usually go to."""

    def __init__(self, destination: str, client: Client, path: str | None = None) -> None:
        self._destination = destination
        self._client = client
        self._path = path
        self._told_problem: str | None = None

    @property
    def destination(self) -> str:
        return self._destination

    def send(self, bodies: Sequence[Sendable], timeout_ns: int) -> Taken | Failure:
        code, message, retry_delay_ns, rejected_spans = self._client.send(bodies, timeout_ns, path=self._path)
        problem = self._client.certificate_problem
        if problem != self._told_problem:
            self._tell(problem)
        if code == StatusCode.OK:
            return Taken(rejected_spans, message)
        return Failure(StatusCode(code), message, retry_delay_ns)

    def close(self) -> None:
        self._client.close()

    def _tell(self, problem: str | None) -> None:
        self._told_problem = problem
        if problem is None:
            log.info("changed certificates are in use", endpoint=self._destination)
        else:
            log.error(
                "changed certificates cannot be used, those before them stay in use",
                endpoint=self._destination,
                problem=problem,
            )


def client_tls(settings: TlsSettings, target: Target) -> ClientTls | None:
    """None: in plain text."""
    if target.plaintext:
        return None
    return ClientTls(
        ca_file=settings.ca_file,
        cert_file=settings.cert_file,
        key_file=settings.key_file,
        server_name=settings.server_name_override,
        skip_verify=settings.insecure_skip_verify,
        reload_interval_ns=settings.reload_interval_ns,
    )


def cannot_send(target: Target, error: UnusableClient) -> CannotSendError:
    return CannotSendError(
        target.address, str(error), fix="Mend what is named, or the keys of the exporter, and start again"
    )
