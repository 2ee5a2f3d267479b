"""The environment variables of OpenTelemetry that name a backend, as of the OTLP exporter's specification.

A variable of the traces signal wins over the general one; an empty variable is one that is not set.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from enricher.config.problems import KeyPath, Problem
from enricher.config.values import Rejected, shown

EXPORTERS: Final = ("otlp_grpc", "otlp_http")

# OTEL_EXPORTER_OTLP_PROTOCOL: the exporter, and its encoding.
_PROTOCOLS: Final = {
    "grpc": ("otlp_grpc", None),
    "http/protobuf": ("otlp_http", "proto"),
    "http/json": ("otlp_http", "json"),
}
# The specification leaves it to us; with gRPC a backend's refusals say more.
_DEFAULT_PROTOCOL: Final = "grpc"


@dataclass(frozen=True, slots=True)
class Override:
    """A raw value for the key `path`, and the variable it comes from."""

    path: KeyPath
    value: object
    variable: str


def exporter_of(environ: Mapping[str, str]) -> str | None:
    """The exporter that the environment asks for; None where it names no backend."""
    if _variable(environ, "ENDPOINT") is None:
        return None
    protocol = _variable(environ, "PROTOCOL")
    return _PROTOCOLS.get(environ[protocol].strip() if protocol else "", _PROTOCOLS[_DEFAULT_PROTOCOL])[0]


def overrides(environ: Mapping[str, str], name: str, exporter: object, problems: list[Problem]) -> Iterator[Override]:
    """What the environment says of the exporter `name`; what it says wrongly goes to `problems`.

    `exporter`: what the file says of it.
    """
    path: KeyPath = ("exporters", name)
    of_file = exporter if isinstance(exporter, Mapping) else {}
    endpoint = _variable(environ, "ENDPOINT")
    if endpoint is not None:
        yield from _endpoint(environ, path, endpoint, of_file)
        yield from _protocol(environ, path, problems)
    if name == "otlp_grpc" and "://" not in str(environ[endpoint] if endpoint else of_file.get("endpoint")):
        yield from _read(environ, "INSECURE", (*path, "tls", "insecure"), _flag, problems)
    for variable, key, read in (
        ("CERTIFICATE", ("tls", "ca_file"), str),
        ("CLIENT_CERTIFICATE", ("tls", "cert_file"), str),
        ("CLIENT_KEY", ("tls", "key_file"), str),
        ("HEADERS", ("headers",), _headers),
        ("TIMEOUT", ("timeout",), _timeout),
        ("COMPRESSION", ("compression",), str),
    ):
        yield from _read(environ, variable, (*path, *key), read, problems)


def _variable(environ: Mapping[str, str], name: str) -> str | None:
    """The variable that tells `name`, None if none is set."""
    candidates = (f"OTEL_EXPORTER_OTLP_TRACES_{name}", f"OTEL_EXPORTER_OTLP_{name}")
    return next((variable for variable in candidates if environ.get(variable, "").strip()), None)


def _read(
    environ: Mapping[str, str], name: str, path: KeyPath, read: Callable[[str], object], problems: list[Problem]
) -> Iterator[Override]:
    variable = _variable(environ, name)
    if variable is None:
        return
    try:
        yield Override(path, read(environ[variable].strip()), variable)
    except Rejected as error:
        problems.append(Problem(path, str(error), source=variable))


def _endpoint(
    environ: Mapping[str, str], path: KeyPath, variable: str, of_file: Mapping[str, object]
) -> Iterator[Override]:
    """With what the file says of the endpoint in other keys put out of force."""
    text = environ[variable].strip()
    if path[-1] == "otlp_http":
        # That of the signal is taken as it is; to the general one the signal's path is added.
        exact = "_TRACES_" in variable
        yield Override((*path, "traces_endpoint"), text if exact else None, variable)
        if not exact:
            yield Override((*path, "endpoint"), text, variable)
        return
    yield Override((*path, "endpoint"), text.rstrip("/"), variable)
    tls = of_file.get("tls")
    if "://" in text and isinstance(tls, Mapping) and "insecure" in tls:
        yield Override((*path, "tls", "insecure"), None, variable)


def _protocol(environ: Mapping[str, str], path: KeyPath, problems: list[Problem]) -> Iterator[Override]:
    """Where the environment names a backend. Where the file does, it has chosen, whatever services around use."""
    variable = _variable(environ, "PROTOCOL")
    if variable is None:
        return
    protocol = environ[variable].strip()
    exporter, encoding = _PROTOCOLS.get(protocol, (None, None))
    if exporter is None:
        message = f"{shown(protocol)} is not known here; it is one of {', '.join(_PROTOCOLS)}"
        problems.append(Problem(path, message, source=variable))
    elif exporter != path[-1]:
        message = f"{shown(protocol)} asks for {exporter}, but the file has {path[-1]}; unset it, or change the file"
        problems.append(Problem(path, message, source=variable))
    elif encoding:
        yield Override((*path, "encoding"), encoding, variable)


def _flag(text: str) -> bool:
    flags = {"true": True, "false": False}
    if text.lower() not in flags:
        raise Rejected(f"{shown(text)} is neither true nor false")
    return flags[text.lower()]


def _headers(text: str) -> dict[str, str]:
    """name=value,name=value: W3C Baggage without its properties.

    No message shows a value: it may be a secret.
    """
    from urllib.parse import unquote

    headers = {}
    for number, entry in enumerate(text.split(","), 1):
        if not entry.strip():
            continue
        name, equals, value = entry.partition("=")
        if not equals or not name.strip():
            raise Rejected(f"entry {number} is not name=value")
        headers[name.strip()] = unquote(value.strip())
    return headers


def _timeout(text: str) -> str:
    if not (text.isascii() and text.isdigit() and len(text) < 12):
        raise Rejected(f"{shown(text)} is not a whole number of milliseconds")
    return f"{text}ms"
