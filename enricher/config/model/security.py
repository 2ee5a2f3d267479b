"""TLS and authentication, as several components have them."""

from dataclasses import dataclass, field
from typing import Annotated, ClassVar

from enricher.config.durations import HOUR, SECOND
from enricher.config.values import Duration, File, Flag, Matching, Secret

# How often the files are looked at; new ones are in force from the next connection on.
ReloadInterval = Annotated[int, Duration(1 * SECOND, 24 * HOUR)]


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerTls:
    """tls of a receiver. With `client_ca_file` clients must show a certificate of one of these authorities."""

    cert_file: Annotated[str, File()]
    key_file: Annotated[str, File()]
    client_ca_file: Annotated[str | None, File()] = None
    reload_interval_ns: ReloadInterval = 10 * SECOND


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientTls:
    """tls of an exporter. Without `ca_file` the authorities that this system trusts are trusted."""

    insecure: Annotated[bool | None, Flag()] = None  # None: without TLS on the loopback and Unix sockets only
    ca_file: Annotated[str | None, File()] = None
    cert_file: Annotated[str | None, File()] = None
    key_file: Annotated[str | None, File()] = None
    server_name_override: Annotated[
        str | None, Matching(r"[0-9A-Za-z_.:-]{1,253}", "the name of a host, or its address")
    ] = None
    insecure_skip_verify: Annotated[bool, Flag()] = False
    reload_interval_ns: ReloadInterval = 10 * SECOND


@dataclass(frozen=True, slots=True, kw_only=True)
class BearerAuth:
    """auth of a receiver: the token that senders must show. A file may have several, one a line."""

    FORM: ClassVar[str] = "{bearer_token_file: FILE}"

    bearer_token: Annotated[str | None, Secret()] = field(default=None, repr=False)
    bearer_token_file: Annotated[str | None, File()] = None
