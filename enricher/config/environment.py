"""The environment variables of OpenTelemetry that name a backend.

As of the OTLP exporter's specification, with what this version has: gRPC, and no TLS. A variable of the
traces signal wins over the general one; an empty variable is one that is not set.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from enricher.config.problems import KeyPath, Problem
from enricher.config.values import Rejected, shown

EXPORTER: KeyPath = ("exporters", "otlp_grpc")


@dataclass(frozen=True, slots=True)
class Override:
    """A raw value for the key `path`, and the variable it comes from."""

    path: KeyPath
    value: object
    variable: str


def names_backend(environ: Mapping[str, str]) -> bool:
    return _variable(environ, "ENDPOINT") is not None


def overrides(environ: Mapping[str, str], problems: list[Problem]) -> Iterator[Override]:
    """What the environment says of the exporter; what it says wrongly goes to `problems`."""
    readers = {
        "endpoint": _endpoint,
        "headers": _headers,
        "timeout": _timeout,
        "compression": _compression,
    }
    for key, read in readers.items():
        variable = _variable(environ, key.upper())
        if variable is None:
            continue
        path = (*EXPORTER, key)
        try:
            yield Override(path, read(environ[variable].strip(), environ), variable)
        except Rejected as error:
            problems.append(Problem(path, str(error), source=variable))
    protocol = _variable(environ, "PROTOCOL")
    # Where the file names the endpoint it has chosen otlp_grpc, whatever the services around use.
    if protocol is not None and names_backend(environ) and environ[protocol].strip() != "grpc":
        problems.append(
            Problem(
                EXPORTER,
                f"{shown(environ[protocol])} is not available in this version; set {protocol}=grpc and "
                "the endpoint to the backend's gRPC port, usually 4317",
                source=protocol,
            )
        )


def _variable(environ: Mapping[str, str], name: str) -> str | None:
    """The variable that tells `name`, None if none is set."""
    candidates = (f"OTEL_EXPORTER_OTLP_TRACES_{name}", f"OTEL_EXPORTER_OTLP_{name}")
    return next((variable for variable in candidates if environ.get(variable, "").strip()), None)


def _endpoint(text: str, environ: Mapping[str, str]) -> str:
    scheme, separator, rest = text.partition("://")
    if not separator:
        # The specification takes TLS for granted here: to send in clear has to be asked for.
        insecure = _variable(environ, "INSECURE")
        if insecure is None or environ[insecure].strip().lower() != "true":
            raise Rejected(f"TLS to the backend is not available in this version; write http://{text}")
        return text.rstrip("/")
    if scheme.lower() == "https":
        raise Rejected("TLS to the backend is not available in this version; use an http:// endpoint")
    if scheme.lower() != "http":
        raise Rejected(f"the scheme {scheme}:// is not known; write http://host:port")
    host_and_port, _, path = rest.partition("/")
    if path:
        raise Rejected(f"/{path} is a path, which only OTLP over HTTP has; write http://host:4317, the gRPC port")
    return host_and_port


def _headers(text: str, _environ: Mapping[str, str]) -> dict[str, str]:
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


def _timeout(text: str, _environ: Mapping[str, str]) -> str:
    if not (text.isascii() and text.isdigit() and len(text) < 12):
        raise Rejected(f"{shown(text)} is not a whole number of milliseconds")
    return f"{text}ms"


def _compression(text: str, _environ: Mapping[str, str]) -> str:
    return text
